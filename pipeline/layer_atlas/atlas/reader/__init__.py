"""Read an atlas: models, layers and images by name, loaded when they are used.

    from layer_atlas import open_atlas

    atlas = open_atlas("outputs/demo")
    layer = atlas["demo/conv6"]
    layer.strongest(8)                    # channels, by agreement or selectivity
    layer.image(17)                       # (H, W, 3) uint8
    layer.to_xarray()                     # labelled arrays, if xarray is installed

Only `atlas.h5` is read. It may come from somebody else, so links out of the file are not followed.
"""

from layer_atlas.atlas.reader.atlas import Atlas, open_atlas
from layer_atlas.atlas.reader.layers import Layer, Model

__all__ = ["Atlas", "Layer", "Model", "open_atlas"]
