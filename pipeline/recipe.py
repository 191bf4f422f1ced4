"""The recipe: everything that decides pixels besides network, layer, channel and seed.

One frozen record per choice of a family; its `name` is how a config picks it, and every field is
part of every job's identity. The code that acts on a record lives in the module of its family.
"""

from dataclasses import dataclass, fields

from pipeline.optimizer_records import Optimizer
from pipeline.ranges import not_negative, positive, require

ALGORITHM_VERSION = 3
"""Raised with every change of code that changes pixels under an unchanged recipe."""


@dataclass(frozen=True)
class ChannelObjective:
    """Mean activation of one channel over all positions."""

    name: str = "channel"


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


Parameterization = Fourier | Pixel | Maco


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
class Transforms:
    """Random views of the image that the network sees, drawn anew per sample and step."""

    jitter: float = 2.0
    """Largest shift along each axis, in pixels."""
    scale: tuple[float, float] = (0.97, 1.03)
    """Smallest and largest magnification."""
    rotate: float = 2.0
    """Largest turn to either side, in degrees."""

    def __post_init__(self) -> None:
        not_negative(jitter=self.jitter, rotate=self.rotate)
        positive(**{"scale[0]": self.scale[0], "scale[1]": self.scale[1]})
        require(self.scale[0] <= self.scale[1], f"scale must ascend, not {list(self.scale)}.")


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
class Recipe:
    """What is done to make an image; two images under one recipe differ in their job alone."""

    objective: ChannelObjective
    parameterization: Parameterization
    transforms: Transforms
    optimizer: Optimizer
    image_size: int
    """Height and width of the image, in pixels."""
    precision: str
    """Number format of the network during ascent: `fp32` or `bf16`; all else is fp32."""
    regularizers: Regularizers = Regularizers()
    init: Init = NoiseInit()
    algorithm: int = ALGORITHM_VERSION


_TRACE_POINTS = 33


def trace_steps(steps: int) -> list[int]:
    """The steps at which scores are recorded: at most 33, evenly spread, ends included."""
    count = min(steps, _TRACE_POINTS)
    return sorted({round(i * (steps - 1) / max(count - 1, 1)) for i in range(count)})
