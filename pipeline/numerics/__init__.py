"""Arithmetic that images rest on: random numbers, colours, spectra, resizing, own gradients."""
