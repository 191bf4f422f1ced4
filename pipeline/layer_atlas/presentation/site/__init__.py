"""A site to browse an atlas with: pages that open from disk, made from `atlas.h5` alone."""
