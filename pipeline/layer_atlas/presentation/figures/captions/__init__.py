"""What is written for readers of a figure: selections, recipes, methods, works cited."""
