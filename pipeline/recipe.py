"""The recipe: everything that decides pixels besides network, layer, channel and seed.

One frozen record per choice of a family; its `name` is how a config picks it, and every field is
part of every job's identity. The code that acts on a record lives in the module of its family.
"""

from dataclasses import dataclass, fields

from pipeline.objective_records import Objective
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


Parameterization = Fourier | Pixel | Maco | Pyramid | Cppn

FROM_NOISE_ALONE = (Cppn,)
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


Init = NoiseInit | SpectrumInit | DatasetInit


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
class Adam:
    """Gradient ascent by Adam (Kingma & Ba 2015), with a leaky gradient through ReLU at first."""

    name: str = "adam"
    steps: int = 24
    """Ascent steps per image."""
    learning_rate: float = 0.5
    """Step size at the start."""
    final_learning_rate: float = 0.1
    """Step size at the end; it falls along half a cosine."""
    beta1: float = 0.3
    """Decay of the mean of gradients."""
    beta2: float = 0.99
    """Decay of the mean of squared gradients."""
    leaky_steps: int = 8
    """Number of first steps in which gradients leak through the closed side of ReLU."""
    leaky_slope: float = 0.1
    """Slope of that leak; with 0 a channel that starts closed stays a grey tile."""
    starts: int = 3
    """How many random starts a channel gets that stays dead; later ones leak at every step."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"steps must be 1 or more, not {self.steps}.")
        positive(learning_rate=self.learning_rate, final_learning_rate=self.final_learning_rate)
        require(0 <= self.beta1 < 1, f"beta1 must be in [0, 1), not {self.beta1}.")
        require(0 <= self.beta2 < 1, f"beta2 must be in [0, 1), not {self.beta2}.")
        not_negative(leaky_steps=self.leaky_steps, leaky_slope=self.leaky_slope)
        require(1 <= self.starts <= 255, f"starts must be 1 to 255, not {self.starts}.")


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
    optimizer: Adam
    image_size: tuple[int, int]
    """Height and width of the image, in pixels."""
    precision: str
    """Number format of the network during ascent: `fp32` or `bf16`; all else is fp32."""
    regularizers: Regularizers = Regularizers()
    init: Init = NoiseInit()
    octaves: Octaves | None = None
    snapshots: int = 0
    """The image is kept every so many steps; 0: only at the end."""
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
