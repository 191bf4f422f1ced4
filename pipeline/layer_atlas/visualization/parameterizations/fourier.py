"""Spectral parameterizations: scaled real-FFT coefficients, octaves at natural contrast, phases."""

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from layer_atlas.config.inputs import Find, nowhere
from layer_atlas.config.parameterizations import Fourier, Maco, NaturalFourier
from layer_atlas.config.records import implements
from layer_atlas.models.pixels import fixed_contrast
from layer_atlas.visualization import rng, spectrum
from layer_atlas.visualization.parameterizations.base import (
    Shape,
    ValueImages,
    normal,
    padded,
    rows,
)


def inverse_fft(coefficients: Tensor, amplitude: Tensor, width: int) -> Tensor:
    """Transform scaled real-FFT coefficients to images.

    Args:
        coefficients: (B, C, H, W // 2 + 1, 2), real and imaginary parts.
        amplitude: factor of each coefficient; broadcasts to them.
        width: width of the images, which the coefficients do not determine.
    Returns: (B, C, H, W).
    """
    values: Tensor = _InverseFFT.apply(coefficients, amplitude, width)
    return values


class _InverseFFT(torch.autograd.Function):
    """The same function as torch's irfft2, in half its time on a CPU.

    Two one-dimensional passes forward, and backward one rfft2 whose scaling is merged into that of
    the coefficients.
    """

    @staticmethod
    def forward(ctx: Any, coefficients: Tensor, amplitude: Tensor, width: int) -> Tensor:
        ctx.save_for_backward(amplitude)
        ctx.width = width
        return _two_passes(coefficients * amplitude, width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (amplitude,) = ctx.saved_tensors
        # A column of the half spectrum also represents its conjugate, unless it is its own.
        weight = amplitude * multiplicity(ctx.width, amplitude.device)
        return torch.view_as_real(torch.fft.rfft2(grads[0], norm="ortho")) * weight, None, None


def _two_passes(coefficients: Tensor, width: int) -> Tensor:
    """Transform coefficients (B, C, H, W // 2 + 1, 2) to images (B, C, H, W)."""
    # Only with this norm is MKL's rounding independent of the number of threads at 16 and 32 px.
    columns = torch.fft.ifft(torch.view_as_complex(coefficients), dim=-2, norm="ortho")
    values: Tensor = torch.fft.irfft(columns, n=width, norm="ortho")
    return values


@cache
def multiplicity(width: int, device: torch.device) -> Tensor:
    """Return the number of columns of the full spectrum that each column represents: (K, 2).

    For real and imaginary parts alike: an operation that repeats one number for both is slow.
    """
    columns = torch.where(self_conjugate(width // 2 + 1, width), 1.0, 2.0)
    return columns.unsqueeze(-1).repeat(1, 2).to(device)


def mirrored(size: tuple[int, int]) -> Tensor:
    """Return 1 where a coefficient's conjugate is in its own column, else 0: (H, W // 2 + 1)."""
    height, width = size
    rows, columns = self_conjugate(height, height), self_conjugate(width // 2 + 1, width)
    return (~rows[:, None] & columns[None, :]).float()


def self_conjugate(count: int, period: int) -> Tensor:
    """Return which of the first frequencies, in whole waves per period, are self-conjugate."""
    return torch.arange(count) * 2 % period == 0


@implements(Fourier)
class FourierImages(ValueImages):
    """Images as real-FFT coefficients, so that a gradient step changes all scales at once.

    Olah et al. 2017, "Feature Visualization", preconditioning. After the inverse FFT each sample is
    divided by its own root mean square: the optimizer can redistribute contrast but not raise it,
    which keeps pixels out of the flat ends of the sigmoid and colours natural.

    Parameters: coefficients (B, P), of which the first C * H * (W // 2 + 1) * 2 are the real and
    imaginary parts of the spectrum.
    """

    amplitude: Tensor

    def __init__(self, config: Fourier, shape: Shape, keys: Tensor, find: Find = nowhere) -> None:
        super().__init__()
        colours, height, self.width = shape
        self.contrast, self.initial_sd = config.contrast, config.initial_sd
        self.shape = (colours, height, self.width // 2 + 1, 2)
        self.coefficients = normal(keys, self.shape, config.initial_sd)
        amplitude = _decay((height, self.width), config.decay_power)
        self.register_buffer("amplitude", amplitude.to(keys.device))

    def values(self) -> Tensor:
        """Return the values of the images: (B, C, H, W)."""
        coefficients = rows(self.coefficients, self.shape)
        return fixed_contrast(inverse_fft(coefficients, self.amplitude, self.width), self.contrast)

    @torch.no_grad()
    def encode(self, values: Tensor) -> None:
        """Set the coefficients to those of values (B, C, H, W), at their initial scale."""
        coefficients = torch.view_as_real(torch.fft.rfft2(values, norm="ortho")) / self.amplitude
        size = coefficients.square().mean((1, 2, 3, 4), keepdim=True).clamp_min(1e-12).sqrt()
        # The contrast is fixed anyway; the initial scale keeps the effect of a step the same.
        rows(self.coefficients, self.shape).copy_(coefficients * (self.initial_sd / size))

    @torch.no_grad()
    def blur_(self, transfer: Tensor) -> None:
        """Multiply the spectrum of the values by `transfer` (H, W // 2 + 1), in place."""
        rows(self.coefficients, self.shape).mul_(transfer.unsqueeze(-1))


def _decay(size: tuple[int, int], power: float) -> Tensor:
    """Return each real-FFT coefficient's amplitude: frequency ** -power, (H, W // 2 + 1, 2)."""
    fy = torch.fft.fftfreq(size[0], dtype=torch.float64)[:, None]
    fx = torch.fft.rfftfreq(size[1], dtype=torch.float64)[None, :]
    # Clamped: the zero frequency would have an infinite amplitude.
    frequency = torch.sqrt(fy**2 + fx**2).clamp_min(1.0 / max(size))
    return (frequency**-power)[..., None].expand(-1, -1, 2).float().contiguous()


# --- each octave at the contrast of photographs ---------------------------------------------------


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
        self.number = number.flatten().to(device)
        self.size = (*number.shape, 2)
        self.share = 1.0 / (height * width)
        # Coarse octaves have few rows. These come first, and only they are read for an octave.
        order = torch.arange(height).minimum(height - torch.arange(height)).argsort(stable=True)
        self.order = order.to(device)
        self.multiplicity = multiplicity(width, device)
        counts = (masks * multiplicity(width, torch.device("cpu"))[:, 0])[:, order]
        reach = [spectrum.HIGHEST * 2.0 ** (coarsest + n) for n in range(1, len(masks) + 1)]
        self.masks = [
            count[: 2 * int(r * height) + 1, : int(r * width) + 1].contiguous().to(device)
            for count, r in zip(counts, reach, strict=True)
        ]
        """For each octave (H', K') the first rows and columns: the multiplicity of a coefficient
        that is in it, else 0."""
        self.natural = self.over_colours(natural[None] * (colours / natural.sum()))[0].to(device)
        """(C, N), mean square of photographs' values with a contrast of 1; in the first octave that
        of all colours together."""
        # A slice, in which coefficients can be changed in place.
        self.alone = slice(0, None, max(width // 2, 1)) if width % 2 == 0 else slice(0, 1)
        """Columns that are their own conjugates."""
        self.opposite = (-torch.arange(height) % height).to(device)
        self.conjugate = torch.tensor([1.0, -1.0]).to(device)

    def sums(self, per_coefficient: Tensor) -> Tensor:
        """Sum (B, C, H, W // 2 + 1), as in the full spectrum, over each octave: (B, C, N)."""
        # Axis by axis and octave by octave: a product of matrices rounds differently by its size.
        ordered = per_coefficient.index_select(2, self.order)
        rows = ordered.new_zeros(*ordered.shape[:2], len(self.masks), len(self.order))
        for octave, mask in enumerate(self.masks):
            height, width = mask.shape
            there = ordered[:, :, :height, :width] * mask
            torch.sum(there, dim=3, out=rows[:, :, octave, :height])
        return rows.sum(dim=3)

    def over_colours(self, per_octave: Tensor) -> Tensor:
        """Replace the first octave of each colour (B, C, N) by its sum over the colours."""
        shared = per_octave[:, :, :1].sum(dim=1, keepdim=True).expand(-1, per_octave.shape[1], -1)
        return torch.cat([shared, per_octave[:, :, 1:]], dim=2)

    def spread(self, per_octave: Tensor) -> Tensor:
        """Give each part of a coefficient the number of its octave: to (B, C, H, W // 2 + 1, 2)."""
        images = per_octave.shape[:2]
        # Both parts at once, as one complex number.
        both = torch.view_as_complex(per_octave.unsqueeze(-1).repeat(1, 1, 1, 2))
        spread = both.gather(2, self.number.expand(*images, -1))
        return torch.view_as_real(spread).view(*images, *self.size)

    def add_conjugates_(self, coefficients: Tensor) -> Tensor:
        """Add to the coefficients (B, C, H, W // 2 + 1, 2) of `alone` those that they represent.

        In a column that is its own conjugate, coefficients come in conjugate pairs. The rest of
        what such a column holds is lost in an inverse FFT, and must not count as energy.
        """
        columns = coefficients[:, :, :, self.alone]
        columns.addcmul_(columns.index_select(2, self.opposite), self.conjugate)
        return coefficients


class _NaturalImages(torch.autograd.Function):
    """Scale parameters, then each octave of each colour to the energy of photographs; inverse FFT.

    The scale is the amplitude of each coefficient, halved where conjugates are added to it. The
    gradient has no component that would only change the contrast of an octave.
    """

    @staticmethod
    def forward(
        ctx: Any, parameters: Tensor, scale: Tensor, octaves: Octaves, contrast: float, width: int
    ) -> Tensor:
        coefficients = octaves.add_conjugates_(parameters * scale)
        energy = octaves.sums(_over_parts(coefficients.square())).mul_(octaves.share)
        energy = octaves.over_colours(energy).clamp_min_(_LEAST_ENERGY)
        gain = (octaves.natural / energy).sqrt_().mul_(contrast)
        gains = octaves.spread(gain)
        ctx.save_for_backward(scale, coefficients, energy, gain, gains)
        ctx.octaves = octaves
        return _two_passes(coefficients * gains, width)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        scale, coefficients, energy, gain, gains = ctx.saved_tensors
        octaves: Octaves = ctx.octaves
        gradient = torch.view_as_real(torch.fft.rfft2(grads[0], norm="ortho"))
        by_gain = octaves.over_colours(octaves.sums(_over_parts(gradient * coefficients)))
        # gain = (natural / energy) ** 1/2, and energy is quadratic in the coefficients.
        by_energy = octaves.spread(by_gain * gain / energy * octaves.share)
        # Not by `addcmul_`, which rounds otherwise at the end of a chunk of memory on a CPU.
        gradient.mul_(gains).sub_(by_energy.mul_(coefficients))
        # A column of the half spectrum also represents its conjugate, unless it is its own.
        slope = scale * octaves.multiplicity
        return octaves.add_conjugates_(gradient).mul_(slope), None, None, None, None


def _over_parts(values: Tensor) -> Tensor:
    """Sum over real and imaginary parts, (..., 2): a reduction is twelve times as slow on a CPU."""
    return values[..., 0] + values[..., 1]


@implements(NaturalFourier)
class NaturalFourierImages(FourierImages):
    """Images as real-FFT coefficients, with the energy of photographs in each octave and colour.

    As `FourierImages`, whose contrast is fixed as a whole. Networks differ in the frequencies that
    they are sensitive to: what is no more than texture for one is speckle or blur for another. Here
    no step can move energy from one octave to another, or from one colour to another; within
    them the image is free, unlike with MACO, which fixes the magnitude of every coefficient.

    Parameters: coefficients (B, P), as in `FourierImages`.
    """

    scale: Tensor

    def __init__(
        self, config: NaturalFourier, shape: Shape, keys: Tensor, find: Find = nowhere
    ) -> None:
        super().__init__(config, shape, keys)
        self.octaves = Octaves(shape, keys.device)
        self.register_buffer("scale", self.amplitude * (self.octaves.multiplicity / 2.0))

    def values(self) -> Tensor:
        """Return the values of the images: (B, C, H, W)."""
        values: Tensor = _NaturalImages.apply(
            rows(self.coefficients, self.shape), self.scale, self.octaves, self.contrast, self.width
        )
        return values


# --- phases alone (MACO) --------------------------------------------------------------------------


@implements(Maco)
class MacoImages(ValueImages):
    """Images as phases; the magnitudes of their spectra are those of photographs.

    MACO of Fel et al. 2023, "Unlocking Feature Visualization for Deeper Networks with MAgnitude
    Constrained Optimization" (arXiv 2306.06805): no step can add high frequencies, nor anything
    else that photographs do not have. Magnitudes are fixed up to one factor per sample, the
    contrast. The four self-conjugate coefficients are real and have no phase; they range between
    plus and minus their magnitude, as the cosine of the parameter.

    Parameters: phases (B, P), of which the first C * H * (W // 2 + 1) are used.
    """

    magnitude: Tensor
    mirrored: Tensor

    def __init__(self, config: Maco, shape: Shape, keys: Tensor, find: Find = nowhere) -> None:
        super().__init__()
        colours, height, self.width = shape
        self.contrast = config.contrast
        self.shape = (colours, height, self.width // 2 + 1)
        self.phases = _uniform_phases(keys, math.prod(self.shape))
        magnitude = spectrum.magnitudes((height, self.width), colours).unsqueeze(-1)
        self.register_buffer("magnitude", magnitude.to(keys.device))
        self.register_buffer("mirrored", mirrored((height, self.width)).to(keys.device))

    def values(self) -> Tensor:
        """Return the values of the images: (B, C, H, W)."""
        phases = rows(self.phases, self.shape)
        # A self-conjugate column consists of pairs of opposite phase.
        phases = phases - self.mirrored * phases.flip(2).roll(1, dims=2)
        waves = torch.stack([phases.cos(), phases.sin()], dim=-1)
        return fixed_contrast(inverse_fft(waves, self.magnitude, self.width), self.contrast)

    @torch.no_grad()
    def encode(self, values: Tensor) -> None:
        """Set the phases to those of values (B, C, H, W); their magnitudes are lost."""
        # In double, because the rounding of torch's angle depends on a number's memory address.
        phases = torch.fft.rfft2(values).to(torch.complex128).angle().float()
        rows(self.phases, self.shape).copy_(phases / (1.0 + self.mirrored))

    def blur_(self, transfer: Tensor) -> None:
        """Do nothing: `transfer` is positive, so phases stay, and magnitudes are fixed."""


def spectral_noise(shape: Shape, keys: Tensor) -> Tensor:
    """Draw random values (B, C, H, W) with the spectrum of photographs and a contrast of 1."""
    return MacoImages(Maco(contrast=1.0), shape, keys).values().detach()


def _uniform_phases(keys: Tensor, count: int) -> nn.Parameter:
    """Draw phases in (-pi, pi) as parameters (B, P), P being the count rounded up."""
    return padded((rng.uniform(keys, rng.INITIAL, 1, count)[:, 0] * 2.0 - 1.0) * torch.pi)
