"""The recipe's parameterization, made at its start; what the family promises is in `base`."""

from torch import Tensor

from pipeline.colours import from_colours
from pipeline.parameterizations.base import Parameterization, Shape
from pipeline.parameterizations.fourier import FourierImages
from pipeline.parameterizations.maco import MacoImages, spectral_noise
from pipeline.parameterizations.pixel import PixelImages
from pipeline.recipe import DatasetInit, Fourier, Init, Maco, Recipe, SpectrumInit
from pipeline.recipe import Parameterization as Config


def make_parameterization(
    recipe: Recipe, colours: int, keys: Tensor, photographs: Tensor | None = None
) -> Parameterization:
    """The recipe's parameterization at its start.

    Args:
        recipe: which, and where it starts.
        colours: of the images; decorrelated as those of photographs if there are three.
        keys: (B, 2) int64, random keys of the jobs.
        photographs: (B, C, H, W) in [0, 1], which `init=dataset` starts from.
    Raises:
        ValueError: `init=dataset` without photographs.
    """
    shape = (colours, *recipe.image_size)
    images = _at_random(recipe.parameterization, shape, keys)
    start = _start(recipe.init, shape, keys, photographs)
    if start is not None:
        images.encode(start)
    return images


def _at_random(config: Config, shape: Shape, keys: Tensor) -> Parameterization:
    if isinstance(config, Fourier):
        return FourierImages(config, shape, keys)
    if isinstance(config, Maco):
        return MacoImages(config, shape, keys)
    return PixelImages(config, shape, keys)


def _start(init: Init, shape: Shape, keys: Tensor, photographs: Tensor | None) -> Tensor | None:
    """The values (B, C, H, W) to start from; None where random parameters are a start."""
    if isinstance(init, SpectrumInit):
        return spectral_noise(shape, keys)
    if isinstance(init, DatasetInit):
        if photographs is None:
            raise ValueError("init=dataset needs a photograph for every job.")
        return from_colours(photographs)
    return None
