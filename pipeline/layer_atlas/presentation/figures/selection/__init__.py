"""Which layers, channels and images of an atlas a figure shows, and in which order."""
