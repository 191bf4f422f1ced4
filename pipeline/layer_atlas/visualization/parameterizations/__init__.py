"""The recipe's parameterization, made at its start; what the family promises is in `base`."""

from torch import Tensor

from layer_atlas.config.inputs import Find, nowhere
from layer_atlas.config.parameterizations import Cppn, Fourier, Generator, Maco, Pyramid
from layer_atlas.config.parameterizations import Parameterization as Config
from layer_atlas.config.recipe import DatasetInit, Init, PhotographInit, Recipe, SpectrumInit
from layer_atlas.models.colours import from_colours
from layer_atlas.visualization.parameterizations.base import Parameterization, Shape
from layer_atlas.visualization.parameterizations.cppn import CppnImages
from layer_atlas.visualization.parameterizations.fourier import FourierImages
from layer_atlas.visualization.parameterizations.generator import GeneratorImages
from layer_atlas.visualization.parameterizations.given import given_picture
from layer_atlas.visualization.parameterizations.maco import MacoImages, spectral_noise
from layer_atlas.visualization.parameterizations.masked import MaskedImages
from layer_atlas.visualization.parameterizations.pixel import PixelImages
from layer_atlas.visualization.parameterizations.pyramid import PyramidImages


def make_parameterization(
    recipe: Recipe,
    colours: int,
    keys: Tensor,
    dataset_images: Tensor | None = None,
    find: Find = nowhere,
) -> Parameterization:
    """The recipe's parameterization at its start.

    Args:
        recipe: which, where it starts, and the mask that shows a part of it.
        colours: of the images; decorrelated as those of photographs if there are three.
        keys: (B, 2) int64, random keys of the jobs.
        photographs: (B, C, H, W) in [0, 1], which `init=dataset` starts from.
        find: the files that the recipe refers to.
    Raises:
        ValueError: `init=dataset` without photographs.
        UserError: a file or a generator that the recipe names is not what it should be.
    """
    shape = (colours, *recipe.image_size)
    images = _at_random(recipe.parameterization, shape, keys, find)
    start = _start(recipe.init, shape, keys, dataset_images, find)
    if start is not None:
        images.encode(start)
    if recipe.mask is not None:
        images = MaskedImages(recipe.mask, images, shape, keys, find)
    return images


def _at_random(config: Config, shape: Shape, keys: Tensor, find: Find) -> Parameterization:
    if isinstance(config, Fourier):
        return FourierImages(config, shape, keys)
    if isinstance(config, Maco):
        return MacoImages(config, shape, keys)
    if isinstance(config, Pyramid):
        return PyramidImages(config, shape, keys)
    if isinstance(config, Cppn):
        return CppnImages(config, shape, keys)
    if isinstance(config, Generator):
        return GeneratorImages(config, shape, keys, find)
    return PixelImages(config, shape, keys)


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
