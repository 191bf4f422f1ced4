"""Figures for papers, drawn from the atlas alone: what is shown, on what paper, with what words."""
