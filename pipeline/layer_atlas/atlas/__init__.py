"""`atlas.h5`: collated from the store, compared with it, read by users."""
