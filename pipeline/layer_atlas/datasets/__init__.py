"""Datasets: images on disk, statistics of channel responses to them, and evidence."""
