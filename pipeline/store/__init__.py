"""The output folder: its paths, the files in it, and who may write them."""
