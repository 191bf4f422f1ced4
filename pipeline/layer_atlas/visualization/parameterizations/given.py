"""Pictures that a recipe gives: masks, what stays around them, and what images start from."""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from layer_atlas.config.inputs import Find
from layer_atlas.datasets.pictures import read_picture
from layer_atlas.visualization.parameterizations.base import Shape


def given_picture(reference: str, shape: Shape, device: torch.device, find: Find) -> Tensor:
    """A picture in the shape of the images: (1, C, H, W) in [0, 1]; not to be written to.

    Raises:
        UserError: the file is no image.
    """
    return _read(find(reference), shape, device)


@lru_cache(maxsize=8)
def _read(path: Path, shape: Shape, device: torch.device) -> Tensor:
    # Kept, because every batch starts with it.
    return read_picture(path, shape[0], shape[1:]).to(device)
