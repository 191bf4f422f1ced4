"""Gradient ascent of many images at once, and what is measured on them."""
