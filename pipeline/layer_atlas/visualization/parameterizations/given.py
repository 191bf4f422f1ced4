"""Input images of a recipe: masks, fixed backgrounds, and initial images."""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from layer_atlas.config.inputs import Find
from layer_atlas.datasets.pictures import read_picture
from layer_atlas.visualization.parameterizations.base import Shape


def input_image(reference: str, shape: Shape, device: torch.device, find: Find) -> Tensor:
    """Return an image in the shape of the optimized ones: (1, C, H, W) in [0, 1]; do not modify it.

    Raises:
        UserError: the file is not an image.
    """
    return _read(find(reference), shape, device)


@lru_cache(maxsize=8)
def _read(path: Path, shape: Shape, device: torch.device) -> Tensor:
    # Cached, because every batch starts with it.
    return read_picture(path, shape[0], shape[1:]).to(device)
