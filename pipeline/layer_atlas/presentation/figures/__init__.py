"""Figures for papers, drawn from the atlas alone, each with its caption and provenance."""
