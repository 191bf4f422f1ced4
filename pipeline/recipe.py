"""The recipe: everything that decides pixels besides network, layer, channel and seed.

One frozen record per choice of a family; its `name` is how a config picks it, and every field is
part of every job's identity. The code that acts on a record lives in the module of its family.
"""

import math
from dataclasses import dataclass, fields

ALGORITHM_VERSION = 3
"""Raised with every change of code that changes pixels under an unchanged recipe."""


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _positive(**values: float) -> None:
    for name, value in values.items():
        _require(math.isfinite(value) and value > 0, f"{name} must be above 0, not {value}.")


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        _require(math.isfinite(value) and value >= 0, f"{name} must be 0 or more, not {value}.")


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
        _not_negative(decay_power=self.decay_power)
        _positive(initial_sd=self.initial_sd, contrast=self.contrast)


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
        _positive(initial_sd=self.initial_sd)


@dataclass(frozen=True)
class Maco:
    """Phases alone; magnitudes are those of photographs (Fel et al. 2023, MACO)."""

    name: str = "maco"
    contrast: float = 2.0
    """Root mean square of every rendered sample before colours and sigmoid; 0 is mid-grey."""
    alpha: bool = False
    """Whether to keep where the score's gradient fell, as a map of opacity."""

    def __post_init__(self) -> None:
        _positive(contrast=self.contrast)


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
        _not_negative(jitter=self.jitter, rotate=self.rotate)
        _positive(**{"scale[0]": self.scale[0], "scale[1]": self.scale[1]})
        _require(self.scale[0] <= self.scale[1], f"scale must ascend, not {list(self.scale)}.")


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
        _not_negative(**{field.name: getattr(self, field.name) for field in fields(self)})


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
        _require(self.steps >= 1, f"steps must be 1 or more, not {self.steps}.")
        _positive(learning_rate=self.learning_rate, final_learning_rate=self.final_learning_rate)
        _require(0 <= self.beta1 < 1, f"beta1 must be in [0, 1), not {self.beta1}.")
        _require(0 <= self.beta2 < 1, f"beta2 must be in [0, 1), not {self.beta2}.")
        _not_negative(leaky_steps=self.leaky_steps, leaky_slope=self.leaky_slope)
        _require(1 <= self.starts <= 255, f"starts must be 1 to 255, not {self.starts}.")


@dataclass(frozen=True)
class Recipe:
    """What is done to make an image; two images under one recipe differ in their job alone."""

    objective: ChannelObjective
    parameterization: Parameterization
    transforms: Transforms
    optimizer: Adam
    image_size: int
    """Height and width of the image, in pixels."""
    precision: str
    """Number format of the network during ascent: `fp32` or `bf16`; all else is fp32."""
    regularizers: Regularizers = Regularizers()
    init: Init = NoiseInit()
    class_token: bool = False
    """Whether tokens that are no positions (class token, registers) belong to activations."""
    network_size: int | None = None
    """Height and width that images are resized to before a network that takes no other; `None`: the
    network sees them as they are."""
    algorithm: int = ALGORITHM_VERSION


_TRACE_POINTS = 33


def trace_steps(steps: int) -> list[int]:
    """The steps at which scores are recorded: at most 33, evenly spread, ends included."""
    count = min(steps, _TRACE_POINTS)
    return sorted({round(i * (steps - 1) / max(count - 1, 1)) for i in range(count)})
