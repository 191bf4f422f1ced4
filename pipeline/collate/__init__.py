"""Collation: from committed shards to what people look at. Reads the store only, never a model."""
