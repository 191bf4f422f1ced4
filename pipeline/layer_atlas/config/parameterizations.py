"""Records of the parameterizations, and of the mask that shows a part of an image.

What they mean; how they are rendered is in the package `parameterizations`.
"""

import math
from dataclasses import dataclass
from typing import Any

from layer_atlas.config.inputs import input_field
from layer_atlas.config.ranges import not_negative, positive, require

_MOST_LATENTS = 2**24
"""As many as the largest image has pixels."""


@dataclass(frozen=True)
class Fourier:
    """Real-FFT coefficients in decorrelated colours, scaled by frequency, at a fixed contrast."""

    name: str = "fourier"
    decay_power: float = 1.5
    """Amplitude falls as frequency ** -decay_power; photographs are near 1 to 1.5."""
    initial_sd: float = 0.3
    """Root mean square of the initial coefficients; small values leave channels dead."""
    contrast: float = 2.5
    """Root mean square of every rendered sample before colours and sigmoid, where 0 is mid-grey;
    photographs have about 2.5."""
    alpha: bool = False
    """Whether to keep where the score's gradient fell, as a map of opacity."""

    def __post_init__(self) -> None:
        not_negative(decay_power=self.decay_power)
        positive(initial_sd=self.initial_sd, contrast=self.contrast)


@dataclass(frozen=True)
class Pixel:
    """One free value per pixel and decorrelated colour."""

    name: str = "pixel"
    initial_sd: float = 0.3
    """Standard deviation of the initial values, before colours and sigmoid; a photograph to start
    from is taken as it is."""
    alpha: bool = False
    """Whether to keep where the score's gradient fell, as a map of opacity."""

    def __post_init__(self) -> None:
        positive(initial_sd=self.initial_sd)


@dataclass(frozen=True)
class Maco:
    """Phases alone; magnitudes are those of photographs (Fel et al. 2023, MACO)."""

    name: str = "maco"
    contrast: float = 2.0
    """Root mean square of every rendered sample before colours and sigmoid; 0 is mid-grey."""
    alpha: bool = False
    """Whether to keep where the score's gradient fell, as a map of opacity."""

    def __post_init__(self) -> None:
        positive(contrast=self.contrast)


@dataclass(frozen=True)
class Pyramid:
    """A sum of levels, each with twice the resolution of the one before (Burt & Adelson 1983)."""

    name: str = "pyramid"
    levels: int = 6
    """Number of levels; the finest has the image's own resolution."""
    decay_power: float = 0.5
    """A level's amplitude falls as its frequency ** -decay_power; 0.5 is what 1.5 is to Fourier
    coefficients, of which there are more at high frequencies."""
    initial_sd: float = 0.3
    """Root mean square of the initial values of the levels, before that."""
    contrast: float = 2.5
    """Root mean square of every rendered sample before colours and sigmoid; 0 is mid-grey."""
    alpha: bool = False
    """Whether to keep where the score's gradient fell, as a map of opacity."""

    def __post_init__(self) -> None:
        require(1 <= self.levels <= 12, f"levels must be 1 to 12, not {self.levels}.")
        not_negative(decay_power=self.decay_power)
        positive(initial_sd=self.initial_sd, contrast=self.contrast)


@dataclass(frozen=True)
class Cppn:
    """A small network from a pixel's place to its colours (Mordvintsev et al. 2018)."""

    name: str = "cppn"
    layers: int = 8
    """Number of hidden layers."""
    units: int = 24
    """Number of units of each."""
    step: float = 0.1
    """How far a step moves a weight, as a multiple of the learning rate and of the standard
    deviation that the weight starts with."""
    contrast: float = 2.5
    """Root mean square of every rendered sample before colours and sigmoid; 0 is mid-grey."""
    alpha: bool = False
    """Whether to keep where the score's gradient fell, as a map of opacity."""

    def __post_init__(self) -> None:
        require(1 <= self.layers <= 64, f"layers must be 1 to 64, not {self.layers}.")
        require(2 <= self.units <= 1024, f"units must be 2 to 1024, not {self.units}.")
        positive(step=self.step, contrast=self.contrast)


@dataclass(frozen=True)
class Generator:
    """Latents of a network that makes images: a learned prior (Nguyen et al. 2016)."""

    name: str = "generator"
    target: str = ""
    """Dotted name of a callable that returns the network (`mypackage.prior.build`)."""
    args: dict[str, Any] | None = None
    """Keyword arguments of that callable."""
    weights: str = input_field("weights", default="")
    """File of the network's weights."""
    latent: tuple[int, ...] = ()
    """Shape of the latents of one image: `[128]` or `[128, 1, 1]`."""
    output: tuple[float, float] = (-1.0, 1.0)
    """What black and white are in the network's images."""
    bounds: tuple[float, float] | None = (-3.0, 3.0)
    """Least and largest latent; null for none. Latents start as standard normal numbers; Nguyen et
    al. keep codes within 3 standard deviations of what they are for photographs."""
    step: float = 0.5
    """How far a step moves a latent, as a multiple of the learning rate."""
    source: str = ""
    """Digest of the file that the callable is written in; the survey fills it in."""
    alpha: bool = False
    """Whether to keep where the score's gradient fell, as a map of opacity."""

    def __post_init__(self) -> None:
        for name in ("target", "weights", "latent"):
            require(bool(getattr(self, name)), f"{name} must not be empty.")
        require(min(self.latent) >= 1, f"latent must be 1 or more, not {list(self.latent)}.")
        few = math.prod(self.latent) <= _MOST_LATENTS
        require(few, f"latent must be {_MOST_LATENTS} numbers at most, not {list(self.latent)}.")
        require(self.output[0] < self.output[1], f"output must ascend, not {list(self.output)}.")
        if self.bounds is not None:
            ascending = self.bounds[0] < self.bounds[1]
            require(ascending, f"bounds must ascend, not {list(self.bounds)}.")
        positive(step=self.step)


Parameterization = Fourier | Pixel | Maco | Pyramid | Cppn | Generator

FROM_NOISE_ALONE = (Cppn, Generator)
"""For these no parameters can be found that give a picture back."""


@dataclass(frozen=True)
class Mask:
    """Images are made only within a mask over a fixed picture."""

    name: str = "picture"
    area: str = input_field("mask", default="")
    """Image file of the mask: white where images are made, black where the picture stays.
    Transparent parts count as white."""
    picture: str = input_field("picture", default="")
    """Image file of the picture; mask and picture are cut to the shape of the images and resized.
    """

    def __post_init__(self) -> None:
        for name in ("area", "picture"):
            require(bool(getattr(self, name)), f"{name} must name an image file.")
