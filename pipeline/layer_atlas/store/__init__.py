"""The output folder: shards, manifest, lock, failures; files that are whole or not there."""
