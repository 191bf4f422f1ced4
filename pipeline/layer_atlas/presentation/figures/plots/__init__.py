"""Figures of numbers: curves, histograms, profiles, matrices."""
