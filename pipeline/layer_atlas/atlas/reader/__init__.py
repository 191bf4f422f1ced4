"""The atlas for those who look at it: models, layers and images by name, read only when asked for.

    from layer_atlas import open_atlas

    atlas = open_atlas("outputs/demo")
    layer = atlas["demo/conv6"]
    layer.strongest(8)                    # channels, by agreement or selectivity
    layer.image(17)                       # (H, W, 3) uint8
    layer.to_xarray()                     # labelled arrays, if xarray is installed

Nothing but `atlas.h5` is read, which may come from somebody else: links out of the file and arrays
that are not plain numbers or texts are not followed.
"""

from layer_atlas.atlas.reader.atlas import Atlas, open_atlas
from layer_atlas.atlas.reader.layers import Layer, Model

__all__ = ["Atlas", "Layer", "Model", "open_atlas"]
