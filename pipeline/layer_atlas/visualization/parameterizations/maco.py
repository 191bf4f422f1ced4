"""MACO parameterization: images as phases, and noise with the spectrum of photographs."""

import math

import torch
from torch import Tensor, nn

from layer_atlas.config.inputs import Find, nowhere
from layer_atlas.config.parameterizations import Maco
from layer_atlas.config.records import implements
from layer_atlas.models.colours import fixed_contrast
from layer_atlas.visualization import rng, spectrum
from layer_atlas.visualization.parameterizations.base import Shape, ValueImages, padded, rows
from layer_atlas.visualization.parameterizations.fourier import inverse_fft, mirrored


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
