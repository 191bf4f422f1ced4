"""The output folder: its paths, shards, manifest, lock and records of failures.

The cache of inspections lies outside of it. Every file appears whole under its name, or not at all. What is read may have been made by others.
"""
