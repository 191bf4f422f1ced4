"""Parameterizations: the tensors that are optimized; the contract is in `base`.

`make_parameterization` adds what a recipe has besides: the initial state, and a mask. Every module
of this package is imported, so that a class with `@implements(Record)` is known.
"""

from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from layer_atlas.config.inputs import Find, nowhere
from layer_atlas.config.parameterizations import Mask
from layer_atlas.config.recipe import DatasetInit, Init, PhotographInit, Recipe, SpectrumInit
from layer_atlas.config.records import implementation
from layer_atlas.datasets.image_files import read_picture
from layer_atlas.errors import UserError
from layer_atlas.imports import import_modules
from layer_atlas.models.pixels import from_colours, resized
from layer_atlas.visualization import rng
from layer_atlas.visualization.parameterizations.base import Parameterization, Shape
from layer_atlas.visualization.parameterizations.fourier import spectral_noise


def make_parameterization(
    recipe: Recipe,
    colours: int,
    keys: Tensor,
    dataset_images: Tensor | None = None,
    find: Find = nowhere,
) -> Parameterization:
    """Build the recipe's parameterization in its initial state.

    Args:
        recipe: parameterization, initial state and mask.
        colours: number of colours of the images; three are decorrelated as those of photographs.
        keys: (B, 2) int64, random keys of the jobs.
        dataset_images: (B, C, H, W) in [0, 1], the initial images of `init=dataset`.
        find: resolves the files that the recipe refers to.
    Raises:
        ValueError: `init=dataset` without dataset images.
        UserError: a file or a generator of the recipe is unusable.
    """
    shape = (colours, *recipe.image_size)
    make = implementation(recipe.parameterization)
    images: Parameterization = make(recipe.parameterization, shape, keys, find)
    start = _start(recipe.init, shape, keys, dataset_images, find)
    if start is not None:
        images.encode(start)
    # Last, because initial values are those of the whole image.
    if recipe.mask is not None:
        images = MaskedImages(recipe.mask, images, shape, keys, find)
    return images


def _start(
    init: Init, shape: Shape, keys: Tensor, dataset_images: Tensor | None, find: Find
) -> Tensor | None:
    """Return the initial values (B, C, H, W), or None for random parameters."""
    if isinstance(init, SpectrumInit):
        return spectral_noise(shape, keys)
    if isinstance(init, PhotographInit):
        image = input_image(init.photograph, shape, keys.device, find)
        return from_colours(image).repeat(len(keys), 1, 1, 1)
    if isinstance(init, DatasetInit):
        if dataset_images is None:
            raise ValueError("init=dataset needs a dataset image for every job.")
        # Octaves have smaller images than the dataset's.
        return from_colours(resized(dataset_images, shape[1:]))
    return None


def check_parameterization(recipe: Recipe, colours: int, find: Find) -> None:
    """Build one image in its initial state, and check that it is finite and can change.

    Args:
        recipe: the recipe, with references in place of files.
        colours: number of colours of the images.
        find: resolves the files that the recipe refers to.
    Raises:
        UserError: a file is not an image, a generator is unusable, images are not finite, or no
            parameter affects them.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, colours, *recipe.image_size, generator=generator)
    images = make_parameterization(recipe, colours, rng.keys(["0" * 64]), noise, find)
    rendered = images()
    if not torch.isfinite(rendered).all():
        name = recipe.parameterization.name
        raise UserError(f"parameterization={name} renders images that are not finite.")
    (parameter,) = images.parameters()
    # Random weights: for some parameterizations the gradient of a plain sum vanishes.
    (gradient,) = torch.autograd.grad((rendered * noise).sum(), parameter)
    if not gradient.any():
        what = "mask.area is black everywhere" if recipe.mask else "they do not depend on it"
        name = recipe.parameterization.name
        raise UserError(f"parameterization={name} cannot change its images: {what}.")


# --- masks ----------------------------------------------------------------------------------------


def input_image(reference: str, shape: Shape, device: torch.device, find: Find) -> Tensor:
    """Return an image in the shape of the optimized ones: (1, C, H, W) in [0, 1]; do not modify it.

    Raises:
        UserError: the file is not an image.
    """
    return _read(find(reference), shape, device)


@lru_cache(maxsize=8)
def _read(path: Path, shape: Shape, device: torch.device) -> Tensor:
    # Cached, because every batch starts with it.
    return torch.from_numpy(read_picture(path, shape[0], shape[1:])).to(device)


class MaskedImages(Parameterization):
    """mask * image + (1 - mask) * background, for images of any parameterization.

    The score's gradient reaches an image only where the mask is not black. Values and initial
    images are those of the whole image, of which the mask shows a part.
    """

    mask: Tensor
    around: Tensor

    def __init__(
        self, config: Mask, images: Parameterization, shape: Shape, keys: Tensor, find: Find
    ) -> None:
        super().__init__()
        self.images = images
        mask = input_image(config.area, (1, *shape[1:]), keys.device, find)
        background = input_image(config.picture, shape, keys.device, find)
        self.register_buffer("mask", mask)
        # Precomputed, because it is constant over all steps.
        self.register_buffer("around", (1.0 - mask) * background)

    def forward(self) -> Tensor:
        """Render images (B, C, H, W) in [0, 1]."""
        rendered: Tensor = self.mask * self.images() + self.around
        return rendered

    def values(self) -> Tensor:
        """Return the values of the whole images: (B, C, H, W)."""
        return self.images.values()

    def encode(self, values: Tensor) -> None:
        """Set the parameters from values (B, C, H, W) of whole images."""
        self.images.encode(values)

    def blur_(self, transfer: Tensor) -> None:
        """Multiply the spectrum of the whole images' values by `transfer`, in place."""
        self.images.blur_(transfer)

    def constrain_(self) -> None:
        """Project the parameters onto their permitted range after a step, in place."""
        self.images.constrain_()


import_modules(__name__, __path__)
