"""The output folder: its paths, shards, manifest, lock and records of failures.

Every file appears whole under its name, or not at all. What is read may have been made by others.
"""
