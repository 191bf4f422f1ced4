"""`atlas.h5`, the one HDF5 file of a sweep: collation from the store, comparison, reading.

Nothing here needs a model or a GPU: the store and the manifest suffice.
"""
