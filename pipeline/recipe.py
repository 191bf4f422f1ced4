"""The recipe: everything that decides pixels besides network, layer, channel and seed.

One frozen record per choice of a family; its `name` is how a config picks it, and every field is
part of every job's identity. The code that acts on a record lives in the module of its family.
"""

from dataclasses import dataclass, fields
from typing import Any

from pipeline.inputs import input_field
from pipeline.objective_records import Objective
from pipeline.optimizer_records import Optimizer
from pipeline.ranges import not_negative, positive, require
from pipeline.transform_record import Transforms

ALGORITHM_VERSION = 4
"""Raised with every change of code that changes pixels under an unchanged recipe."""


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
        require(self.output[0] < self.output[1], f"output must ascend, not {list(self.output)}.")
        if self.bounds is not None:
            ascending = self.bounds[0] < self.bounds[1]
            require(ascending, f"bounds must ascend, not {list(self.bounds)}.")
        positive(step=self.step)


Parameterization = Fourier | Pixel | Maco | Pyramid | Cppn | Generator

FROM_NOISE_ALONE = (Cppn, Generator)
"""For these no parameters can be found that give a picture back."""


@dataclass(frozen=True)
class NoiseInit:
    """Start from random parameters."""

    name: str = "noise"


@dataclass(frozen=True)
class SpectrumInit:
    """Start from noise that has the mean spectrum of photographs: random phases alone."""

    name: str = "spectrum"


@dataclass(frozen=True)
class DatasetInit:
    """Start from the photograph that excites the channel most."""

    name: str = "dataset"
    dataset: str = ""
    """Digest of the dataset; the survey fills it in."""


@dataclass(frozen=True)
class PhotographInit:
    """Start every image from one photograph."""

    name: str = "photograph"
    photograph: str = input_field("picture", default="")
    """The image file; its middle is cut to the shape of the images and resized."""

    def __post_init__(self) -> None:
        require(bool(self.photograph), "photograph must name one: init.photograph=photo.jpg.")


Init = NoiseInit | SpectrumInit | DatasetInit | PhotographInit


@dataclass(frozen=True)
class Mask:
    """Images are made only within a mask over a fixed picture."""

    name: str = "picture"
    area: str = input_field("mask", default="")
    """Image file of the mask: white where images are made, black where the picture stays."""
    picture: str = input_field("picture", default="")
    """Image file of the picture; mask and picture are cut to the shape of the images and resized.
    """

    def __post_init__(self) -> None:
        for name in ("area", "picture"):
            require(bool(getattr(self, name)), f"{name} must name an image file.")


@dataclass(frozen=True)
class Regularizers:
    """What holds the image back while it climbs; 0 is off. Formulas are in `regularizers`.

    The first four are penalties. Their gradient is measured against that of the score, so one
    weight means the same for channels that answer with 0.1 and with 100, in any layer.
    """

    total_variation: float = 0.0
    """Weight of the differences between neighbouring pixels."""
    l1: float = 0.0
    """Weight of the distance from mid-grey."""
    l2: float = 0.0
    """Weight of the squared distance from mid-grey."""
    high_frequency: float = 0.0
    """Weight of the spectral energy above half the Nyquist frequency."""
    blur: float = 0.0
    """Width in pixels by which each step blurs the image at first; it falls to 0 at the end. Maco's
    images stay as they are: a blur changes magnitudes alone, which maco holds fixed."""
    clip: float = 0.0
    """Largest norm of a sample's gradient; 0 sets no bound."""

    def __post_init__(self) -> None:
        not_negative(**{field.name: getattr(self, field.name) for field in fields(self)})


@dataclass(frozen=True)
class Octaves:
    """Climbing at growing sizes (Mordvintsev et al. 2015, "Inceptionism"), each with all steps."""

    count: int = 4
    """How many sizes, the image's own last."""
    scale: float = 1.4
    """Each is so many times as large as the one before."""

    def __post_init__(self) -> None:
        require(1 <= self.count <= 32, f"count must be 1 to 32, not {self.count}.")
        require(1 < self.scale <= 4, f"scale must be above 1 and at most 4, not {self.scale}.")


@dataclass(frozen=True)
class Recipe:
    """What is done to make an image; two images under one recipe differ in their job alone."""

    objective: Objective
    parameterization: Parameterization
    transforms: Transforms
    optimizer: Optimizer
    image_size: tuple[int, int]
    """Height and width of the image, in pixels."""
    precision: str
    """Number format of the network during ascent: `fp32` or `bf16`; all else is fp32."""
    regularizers: Regularizers = Regularizers()
    init: Init = NoiseInit()
    mask: Mask | None = None
    octaves: Octaves | None = None
    snapshots: int = 0
    """The image is kept every so many steps; 0: only at the end."""
    class_token: bool = False
    """Whether tokens that are no positions (class token, registers) belong to activations."""
    algorithm: int = ALGORITHM_VERSION

    @property
    def variants(self) -> int:
        """Images per job."""
        return self.objective.variants

    @property
    def total_steps(self) -> int:
        """Steps of all octaves."""
        return self.optimizer.steps * (self.octaves.count if self.octaves else 1)


_TRACE_POINTS = 33


def trace_steps(steps: int) -> list[int]:
    """The steps at which scores are recorded: at most 33, evenly spread, ends included."""
    count = min(steps, _TRACE_POINTS)
    return sorted({round(i * (steps - 1) / max(count - 1, 1)) for i in range(count)})


def recorded_steps(recipe: Recipe) -> list[int]:
    """The steps at which scores are recorded, of all octaves."""
    steps = recipe.optimizer.steps
    starts = range(0, recipe.total_steps, steps)
    return [start + step for start in starts for step in trace_steps(steps)]


def snapshot_steps(recipe: Recipe) -> list[int]:
    """After how many steps the image is kept: at the start, every so many, and at the end.

    With octaves, at the end of each.
    """
    steps, every = recipe.optimizer.steps, recipe.snapshots
    if not every:
        return []
    kept = [*range(every, steps, every), steps]
    return [0, *(start + step for start in range(0, recipe.total_steps, steps) for step in kept)]
