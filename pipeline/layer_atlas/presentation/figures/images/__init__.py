"""Figures of images: what stands where, in a grid that fits the page."""
