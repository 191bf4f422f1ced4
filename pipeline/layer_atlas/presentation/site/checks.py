"""What a layer must be to be shown: an atlas may come from somebody else, or be damaged."""

from collections.abc import Iterator
from typing import NamedTuple

import h5py
import numpy as np

from layer_atlas.atlas.reader import Layer
from layer_atlas.config.recipe import LARGEST_IMAGE
from layer_atlas.errors import UserError

_MOST_COLOURS = 64


class _Array(NamedTuple):
    """What a dataset must be, if it is there."""

    name: str
    kind: str
    """Of its numbers, as numpy calls it; `O`: files or texts."""
    shape: tuple[int, ...]
    """Its first axes."""
    further: int = 0
    """How many axes there are after these."""


def check(layer: Layer) -> None:
    """Look at the shapes and types of what is shown of a layer.

    Raises:
        UserError: something is not as in an atlas, or nothing can show it.
    """
    if "image" not in layer or "status" not in layer:
        raise UserError(f"{layer.title} has no images that a site could show.")
    for wanted in _arrays(layer):
        if wanted.name in layer:
            _check_array(layer.dataset(wanted.name), wanted, layer.title)
    *_, height, width, colours = layer.dataset("image").shape
    if not (min(height, width) > 0 and max(height, width) <= LARGEST_IMAGE):
        raise UserError(f"images of {layer.title} are of {height} x {width} pixels.")
    if not 1 <= colours <= _MOST_COLOURS:
        raise UserError(f"images of {layer.title} have {colours} colours.")


def _arrays(layer: Layer) -> Iterator[_Array]:
    channels = (len(layer.channels),)
    jobs = (*channels, len(layer.seeds))
    images = (*jobs, len(layer.variants)) if layer.variants else jobs
    yield _Array("status", "u", jobs)
    yield _Array("image", "u", images, 3)
    yield _Array("trace", "f", images, 1)
    yield _Array("trace_step", "i", (), 1)
    yield _Array("response", "f", images, 1)
    yield _Array("best_seed_index", "i", channels)
    yield _Array("dataset/top_saliency", "u", channels, 3)
    for name in ("min", "max"):
        yield _Array(f"dataset/{name}", "f", channels)
    for end in ("top", "bottom"):
        yield _Array(f"dataset/{end}_jpeg", "O", channels, 1)
        yield _Array(f"dataset/{end}_path", "O", channels, 1)
        yield _Array(f"dataset/{end}_score", "f", channels, 1)


def _check_array(dataset: h5py.Dataset, wanted: _Array, title: str) -> None:
    known = len(wanted.shape)
    fits = dataset.shape[:known] == wanted.shape and dataset.ndim == known + wanted.further
    typed = dataset.dtype.kind == wanted.kind
    if wanted.name.endswith("_jpeg"):
        typed = h5py.check_vlen_dtype(dataset.dtype) == np.dtype(np.uint8)
    elif wanted.kind == "O":
        typed = h5py.check_string_dtype(dataset.dtype) is not None
    if not (fits and typed):
        raise UserError(
            f"{wanted.name!r} of {title} is {dataset.dtype} of shape {dataset.shape}, which no "
            "atlas holds; collate it again."
        )
