"""CPPN parameterization: images as small networks of their coordinates."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from layer_atlas.config.inputs import Find, nowhere
from layer_atlas.config.parameterizations import Cppn
from layer_atlas.config.records import implements
from layer_atlas.models.pixels import fixed_contrast
from layer_atlas.visualization.parameterizations.base import Shape, ValueImages, normal, split

_CACHE_LINE = 16
"""Numbers in a cache line; pixels are padded to whole ones, for the reason given in `pixels`."""

_EDGE = 3.0**0.5
"""Half width of the uniform distribution with a standard deviation of 1."""

_ARCTAN, _SQUARE = 0.67, 0.6
"""Root mean squares of the arctangent of standard normal numbers, and of its square."""

_BIAS = 0.1
"""Initial standard deviation of biases."""


@implements(Cppn)
class CppnImages(ValueImages):
    """Images as networks that map a pixel's coordinates to its colours.

    Compositional pattern-producing networks (Stanley 2007), each image with weights of its own, in
    the architecture of Mordvintsev et al. 2018, "Differentiable Image Parameterizations", section
    on CPPNs, and lucid's `cppn`: the next layer reads the arctangent of each unit and its square.
    Images are smooth for any weights, and can be rendered at any size. The last layer starts at
    random like the others, not at zero, and contrast is fixed as in Fourier images: no initial
    image is grey, and no step can saturate an image.

    Parameters: weights (B, P): for each layer a matrix (units, inputs + 1), whose last column are
    the biases, in multiples of `step` times their initial standard deviation.
    """

    coordinates: Tensor
    scale: Tensor

    def __init__(self, config: Cppn, shape: Shape, keys: Tensor, find: Find = nowhere) -> None:
        super().__init__()
        self.size, self.contrast = shape[1:], config.contrast
        self.layers = layer_shapes(config, shape[0])
        scale = torch.cat([deviations(layer).flatten() for layer in self.layers]) * config.step
        # Stored in multiples of `step`: one learning rate then suits weights of every layer.
        self.weights = normal(keys, scale.shape, 1.0 / config.step)
        padding = self.weights.shape[1] - len(scale)
        self.register_buffer("scale", pad(scale, (0, padding)).to(keys.device))
        self.register_buffer("coordinates", coordinates(self.size).to(keys.device))

    def values(self) -> Tensor:
        """Return the values of the images: (B, C, H, W)."""
        first, *others = split(self.weights * self.scale, self.layers)
        units = _units(first, self.coordinates.expand(len(first), -1, -1))
        for matrix in others:
            units = _units(matrix, composite(units))
        pixels = units[..., : math.prod(self.size)].view(*units.shape[:2], *self.size)
        return fixed_contrast(pixels, self.contrast)


def layer_shapes(config: Cppn, colours: int) -> list[tuple[int, int]]:
    """Return units and inputs + 1 of each layer.

    >>> layer_shapes(Cppn(units=24, layers=2), 3)
    [(24, 3), (24, 49), (3, 49)]
    """
    units = [*[config.units] * config.layers, colours]
    inputs = [2, *[2 * config.units] * config.layers]
    return [(unit, count + 1) for unit, count in zip(units, inputs, strict=True)]


def deviations(layer: Sequence[int]) -> Tensor:
    """Return the initial standard deviations of a layer's weights: (units, inputs + 1).

    Units then have a variance of about 1, as their inputs do.
    """
    units, inputs = layer[0], layer[1] - 1
    scale = torch.full((units, inputs + 1), inputs**-0.5)
    # Only the first layer has two inputs, the coordinates; the others read composite units.
    if inputs > 2:
        arctan, square = scale[:, :-1].chunk(2, dim=1)
        arctan /= _ARCTAN
        square /= _SQUARE
    scale[:, -1] = _BIAS
    return scale


def coordinates(size: tuple[int, int]) -> Tensor:
    """Return x and y of each pixel (2, H * W), relative to the centre, padded with zeros.

    Pixels are squares; the shorter side of the image extends from -sqrt(3) to sqrt(3).
    """
    pitch = 2.0 * _EDGE / min(size)
    y, x = ((torch.arange(side) - (side - 1) / 2.0) * pitch for side in size)
    points = torch.stack([x.expand(size), y[:, None].expand(size)]).flatten(1)
    return pad(points, (0, -points.shape[1] % _CACHE_LINE))


def _units(matrix: Tensor, inputs: Tensor) -> Tensor:
    """Compute the units (B, U, N) of a layer (B, U, I + 1) for inputs (B, I, N)."""
    return torch.baddbmm(matrix[..., -1:], matrix[..., :-1], inputs)


def composite(units: Tensor) -> Tensor:
    """Map units (B, U, N) to their arctangents and the squares of these: (B, 2 U, N)."""
    both: Tensor = _Composite.apply(units)
    return both


class _Composite(torch.autograd.Function):
    """The same function as a composition of torch operations, in a third of the time on a CPU."""

    @staticmethod
    def forward(ctx: Any, units: Tensor) -> Tensor:
        both = units.new_empty(len(units), 2, *units.shape[1:])
        arctan, square = both.unbind(1)
        # Written into halves of one tensor, which saves a concatenation.
        torch.atan(units, out=arctan)
        torch.mul(arctan, arctan, out=square)
        ctx.save_for_backward(units, both)
        return both.flatten(1, 2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        units, both = ctx.saved_tensors
        at_arctan, at_square = grads[0].chunk(2, dim=1)
        slope = torch.addcmul(at_arctan, both[:, 0], at_square, value=2.0)
        return slope.div_((units * units).add_(1.0))
