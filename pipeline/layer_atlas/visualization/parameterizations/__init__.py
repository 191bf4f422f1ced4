"""Parameterizations: the tensors that are optimised; the contract is in `base`.

Every module of this package is imported, so that a class with `@implements(Record)` is known.
"""

from torch import Tensor

from layer_atlas.config.inputs import Find, nowhere
from layer_atlas.config.recipe import DatasetInit, Init, PhotographInit, Recipe, SpectrumInit
from layer_atlas.config.records import implementation
from layer_atlas.imports import import_modules
from layer_atlas.models.colours import from_colours
from layer_atlas.visualization.parameterizations.base import Parameterization, Shape
from layer_atlas.visualization.parameterizations.given import given_picture
from layer_atlas.visualization.parameterizations.maco import spectral_noise
from layer_atlas.visualization.parameterizations.masked import MaskedImages


def make_parameterization(
    recipe: Recipe,
    colours: int,
    keys: Tensor,
    dataset_images: Tensor | None = None,
    find: Find = nowhere,
) -> Parameterization:
    """Make the recipe's parameterization at its start.

    Args:
        recipe: parameterization, start and mask.
        colours: number of colours C of the images; three are decorrelated as those of photographs.
        keys: (B, 2) int64, random keys of the jobs.
        dataset_images: (B, C, H, W) in [0, 1], from which `init=dataset` starts.
        find: maps a reference in the recipe to its file.
    Raises:
        ValueError: `init=dataset` without dataset images.
        UserError: a file or a generator that the recipe names is not what it should be.
    """
    shape = (colours, *recipe.image_size)
    make = implementation(recipe.parameterization)
    images: Parameterization = make(recipe.parameterization, shape, keys, find)
    start = _start(recipe.init, shape, keys, dataset_images, find)
    if start is not None:
        images.encode(start)
    if recipe.mask is not None:
        images = MaskedImages(recipe.mask, images, shape, keys, find)
    return images


def _start(
    init: Init, shape: Shape, keys: Tensor, dataset_images: Tensor | None, find: Find
) -> Tensor | None:
    """The values (B, C, H, W) to start from; None where random parameters are a start."""
    if isinstance(init, SpectrumInit):
        return spectral_noise(shape, keys)
    if isinstance(init, PhotographInit):
        picture = given_picture(init.photograph, shape, keys.device, find)
        return from_colours(picture).repeat(len(keys), 1, 1, 1)
    if isinstance(init, DatasetInit):
        if dataset_images is None:
            raise ValueError("init=dataset needs a photograph for every job.")
        return from_colours(dataset_images)
    return None


import_modules(__name__, __path__)
