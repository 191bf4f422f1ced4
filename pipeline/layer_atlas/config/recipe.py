"""The recipe: everything that decides pixels besides network, layer, channel and seed.

One frozen record per choice of a family; its `name` is how a config picks it, and every field is
part of every job's identity. The code that acts on a record lives in the module of its family.
"""

from dataclasses import dataclass, fields

from layer_atlas.config.inputs import input_field
from layer_atlas.config.objectives import Objective
from layer_atlas.config.optimizers import Optimizer
from layer_atlas.config.parameterizations import Mask, Parameterization
from layer_atlas.config.ranges import not_negative, require
from layer_atlas.config.transforms import Transforms

ALGORITHM_VERSION = 4
"""Raised with every change of code that changes pixels under an unchanged recipe."""


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
    """The image file; its middle is cut to the shape of the images and resized, and transparent
    parts are seen on white."""

    def __post_init__(self) -> None:
        require(bool(self.photograph), "photograph must name one: init.photograph=photo.jpg.")


Init = NoiseInit | SpectrumInit | DatasetInit | PhotographInit


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


LARGEST_IMAGE = 4096
"""Pixels of a side."""

_MOST_SNAPSHOTS = 10_000


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
    keep_prefix_tokens: bool = False
    """Whether tokens that are no positions (class token, registers) belong to activations."""
    algorithm: int = ALGORITHM_VERSION

    def __post_init__(self) -> None:
        height, width = self.image_size
        size = f"image_size must be 1 to {LARGEST_IMAGE}, not {height} x {width}."
        require(min(height, width) >= 1 and max(height, width) <= LARGEST_IMAGE, size)
        kept = self.total_steps // max(self.snapshots, 1) if self.snapshots else 0
        many = f"snapshots={self.snapshots} would keep {kept} images of each; keep fewer."
        require(kept <= _MOST_SNAPSHOTS, many)

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


def snapshot_count(recipe: Recipe) -> int:
    """How many those are, which may be too many to write them down."""
    steps, every = recipe.optimizer.steps, recipe.snapshots
    return 1 + -(-steps // every) * (recipe.total_steps // steps) if every else 0
