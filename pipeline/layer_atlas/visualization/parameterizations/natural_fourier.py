"""Natural Fourier parameterization: each octave of an image at the contrast of photographs."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from layer_atlas.config.inputs import Find, nowhere
from layer_atlas.config.parameterizations import NaturalFourier
from layer_atlas.config.records import implements
from layer_atlas.visualization import spectrum
from layer_atlas.visualization.parameterizations.base import Shape, rows
from layer_atlas.visualization.parameterizations.fourier import (
    FourierImages,
    inverse_fft,
    multiplicity,
    self_conjugate,
)

_LEAST_ENERGY = 1e-12


class Octaves:
    """Octaves of frequency, and the energy that photographs have in each.

    The first holds the coarsest waves and the mean, the last but one reaches to the Nyquist
    frequency of rows and columns, and the last holds the diagonals beyond, which a camera hardly
    resolves. Colours share the energy of the first: an image may be red all over.

    Args:
        shape: colours C, height H and width W of the images.
        device: device of the tensors.
    """

    def __init__(self, shape: Shape, device: torch.device) -> None:
        colours, height, width = shape
        radius, _ = spectrum.polar_frequencies((height, width))
        coarsest = min(math.floor(math.log2(1.0 / max(height, width) / spectrum.HIGHEST)), -1)
        places = (radius.clamp_min(1e-9) / spectrum.HIGHEST).log2().ceil()
        number = (places.clamp(coarsest + 1, 1) - coarsest - 1).long()
        # The spectrum was measured on photographs that had been reduced, which are sharper than a
        # camera's pixels, and the sigmoid adds fine structure.
        lens = 1.0 / (1.0 + (radius.float() / spectrum.HIGHEST) ** 4)
        # Energy as a contribution to the mean square of a colour's values.
        weight = multiplicity(width, torch.device("cpu")) / (height * width)
        energy = (spectrum.magnitudes((height, width), colours) * lens).square() * weight[:, 0]
        masks = nn.functional.one_hot(number, 1 - coarsest).permute(2, 0, 1).float()
        natural = (energy.unsqueeze(1) * masks).sum(dim=(2, 3))
        (alone,) = torch.where(self_conjugate(width // 2 + 1, width))
        self.alone = alone.to(device)
        """Columns that are their own conjugates."""
        # Twice, because an operation that repeats a number for the two parts of a coefficient is
        # not vectorized on a CPU: five times as slow as reading it for each.
        self.number = number.flatten().repeat_interleave(2).to(device)
        self.weight = weight.to(device)
        self.size = (*number.shape, 2)
        # Coarse octaves have few rows. These come first, and only they are read for an octave.
        order = torch.arange(height).minimum(height - torch.arange(height)).argsort(stable=True)
        self.order, self.back = order.to(device), order.argsort().to(device)
        self.masks = [_without_last_rows(mask[order]).to(device) for mask in masks]
        """For each octave (H', W // 2 + 1), 1 where a coefficient of the first rows is in it."""
        self.natural = self.over_colours(natural[None] * (colours / natural.sum()))[0].to(device)
        """(C, N), mean square of photographs' values with a contrast of 1; in the first octave that
        of all colours together."""

    def sums(self, per_coefficient: Tensor) -> Tensor:
        """Sum (B, C, H, W // 2 + 1) over each octave: (B, C, N)."""
        # Axis by axis and octave by octave: a product of matrices rounds differently by its size.
        ordered = per_coefficient.index_select(2, self.order)
        octaves = [(ordered[:, :, : len(mask)] * mask).sum(dim=3) for mask in self.masks]
        missing = [len(self.order) - len(mask) for mask in self.masks]
        rows = [nn.functional.pad(sums, (0, n)) for sums, n in zip(octaves, missing, strict=True)]
        # Back in their order, which decides how the sum over rows rounds.
        return torch.stack(rows, dim=2).index_select(3, self.back).sum(dim=3)

    def over_colours(self, per_octave: Tensor) -> Tensor:
        """Replace the first octave of each colour (B, C, N) by its sum over the colours."""
        shared = per_octave[:, :, :1].sum(dim=1, keepdim=True).expand(-1, per_octave.shape[1], -1)
        return torch.cat([shared, per_octave[:, :, 1:]], dim=2)

    def spread(self, per_octave: Tensor) -> Tensor:
        """Give each part of a coefficient the number of its octave: to (B, C, H, W // 2 + 1, 2)."""
        images = per_octave.shape[:2]
        return per_octave.gather(2, self.number.expand(*images, -1)).view(*images, *self.size)


def _without_last_rows(mask: Tensor) -> Tensor:
    """The mask up to its last row that is not 0."""
    (there,) = torch.where(mask.any(dim=1))
    return mask[: int(there[-1]) + 1].contiguous() if len(there) else mask[:0]


class _NaturalContrast(torch.autograd.Function):
    """Scale parameters by amplitudes, then each octave of each colour to the energy of photographs.

    The gradient has no component that would only change the contrast of an octave.
    """

    @staticmethod
    def forward(ctx: Any, parameters: Tensor, amplitude: Tensor, octaves: Octaves) -> Tensor:
        coefficients = hermitian_(parameters * amplitude, octaves.alone)
        squares = _over_parts(coefficients.square()) * octaves.weight[:, 0]
        energy = octaves.over_colours(octaves.sums(squares))
        gain = (octaves.natural / energy.clamp_min(_LEAST_ENERGY)).sqrt()
        gains = octaves.spread(gain)
        ctx.save_for_backward(amplitude, coefficients, energy, gain, gains)
        ctx.octaves = octaves
        return coefficients * gains

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        amplitude, coefficients, energy, gain, gains = ctx.saved_tensors
        octaves: Octaves = ctx.octaves
        by_gain = octaves.over_colours(octaves.sums(_over_parts(grads[0] * coefficients)))
        # gain = (natural / energy) ** 1/2, and energy is quadratic in the coefficients.
        by_energy = octaves.spread(by_gain * gain / energy.clamp_min(_LEAST_ENERGY))
        by_contrast = by_energy.mul_(octaves.weight).mul_(coefficients)
        direct = grads[0] * gains
        return hermitian_(direct.sub_(by_contrast), octaves.alone).mul_(amplitude), None, None


def _over_parts(values: Tensor) -> Tensor:
    """Sum over real and imaginary parts, (..., 2): a reduction is twelve times as slow on a CPU."""
    return values[..., 0] + values[..., 1]


def hermitian_(coefficients: Tensor, columns: Tensor) -> Tensor:
    """Keep the part of real-FFT coefficients that an image has, in place.

    In a column that is its own conjugate, coefficients come in conjugate pairs. The rest of what
    such a column holds is lost in an inverse FFT, and must not count as energy.

    Args:
        coefficients: (B, C, H, W // 2 + 1, 2), real and imaginary parts.
        columns: the columns that are their own conjugates.
    """
    pairs = coefficients.index_select(3, columns)
    real, imaginary = pairs.flip(2).roll(1, dims=2).unbind(dim=4)
    conjugates = torch.stack((real, -imaginary), dim=4)
    return coefficients.index_copy_(3, columns, (pairs + conjugates) / 2.0)


@implements(NaturalFourier)
class NaturalFourierImages(FourierImages):
    """Images as real-FFT coefficients, with the energy of photographs in each octave and colour.

    As `FourierImages`, whose contrast is fixed as a whole. Networks differ in the frequencies that
    they are sensitive to: what is no more than texture for one is speckle or blur for another. Here
    no step can move energy from one octave to another, or from one colour to another; within
    them the image is free, unlike with MACO, which fixes the magnitude of every coefficient.

    Parameters: coefficients (B, P), as in `FourierImages`.
    """

    gain: Tensor

    def __init__(
        self, config: NaturalFourier, shape: Shape, keys: Tensor, find: Find = nowhere
    ) -> None:
        super().__init__(config, shape, keys)
        self.octaves = Octaves(shape, keys.device)
        self.register_buffer("gain", torch.full((1, 1, 1), config.contrast).to(keys.device))

    def values(self) -> Tensor:
        """Return the values of the images: (B, C, H, W)."""
        parameters = rows(self.coefficients, self.shape)
        scaled: Tensor = _NaturalContrast.apply(parameters, self.amplitude, self.octaves)
        return inverse_fft(scaled, self.gain, self.width)
