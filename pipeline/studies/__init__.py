"""What a layer's channels answer to a dataset of photographs, as tasks, files and findings."""
