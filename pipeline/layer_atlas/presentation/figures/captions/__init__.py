"""Texts for readers of a figure: selections, recipes, methods, works cited."""
