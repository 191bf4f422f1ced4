"""The recipe: everything that decides pixels besides network, layer, target and seed.

There is one frozen record per choice of a family. Every field is part of every job's identity, so
`algorithm` rises with any change of code that changes pixels or statistics. The code that acts on a
record lives in the module of its family.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import ClassVar

from layer_atlas.config.objectives import MORDVINTSEV_2015, Objective
from layer_atlas.config.optimizers import Optimizer
from layer_atlas.config.parameterizations import Mask, Parameterization
from layer_atlas.config.records import (
    Choice,
    Record,
    Reference,
    listed,
    register,
    require,
    setting,
)

ALGORITHM_VERSIONS = {"fp32": 6, "bf16": 7}
"""Raised with every change of code that changes pixels or statistics under an unchanged recipe.

By precision: what changes in bf16 alone leaves the images of fp32 as valid as they were.
"""


# --- starts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Init(Choice, family="init"):
    """The image that optimization starts from."""

    from_images: ClassVar[str] = ""
    """How a label mentions the start; empty for random values."""
    dataset_images: ClassVar[int] = 0
    """Number of the target's strongest dataset images that it needs."""


@register("noise")
class NoiseInit(Init):
    """Random values."""


@register("spectrum")
class SpectrumInit(Init):
    """Random phases with the mean spectrum of photographs."""

    from_images = "from the spectrum of photographs"


@register("dataset")
class DatasetInit(Init):
    """The dataset image that excites the channel most."""

    from_images = "from photographs"
    dataset_images = 1
    phrase = "the photograph that excites the channel most"
    dataset: str = setting("", phrase="")
    """Digest of the dataset. The planner fills it in."""


@register("photograph")
class PhotographInit(Init):
    """A photograph."""

    from_images = "from a photograph"
    photograph: str = setting("", needs="name one: init.photograph=photo.jpg", file="picture")
    """The image file. Its middle is cropped to the shape of the images and resized, and transparent
    parts are shown on white."""


# --- views, penalties, sizes ---------------------------------------------------------------------

Range = tuple[float, float]
"""A smallest and a largest value."""

_ONE, _NONE = (1.0, 1.0), (0.0, 0.0)


@dataclass(frozen=True)
class Transforms(Record):
    """Random views of the image that the network sees, drawn anew per sample and step.

    Within a range values are uniform. Formulas are in `visualization.transforms`.
    """

    jitter: float = setting(
        0.05, at_least=0.0, at_most=1.0, phrase="shifts of up to {} of the image's side"
    )
    """Largest shift along each axis, as a fraction of the image's side."""
    scale: Range = setting(
        (0.9, 1.1), at_least=0.1, at_most=10.0, off=_ONE, phrase="magnifications of {} to {}"
    )
    """Smallest and largest magnification. Their logarithms are uniform."""
    rotate: float = setting(10.0, at_least=0, phrase="rotations of up to {} degrees")
    """Largest rotation to either side, in degrees."""
    flip: float = setting(0.0, at_least=0.0, at_most=1.0, phrase="flips with probability {}")
    """Probability of a horizontal flip."""
    # From two thirds on the corners need not make a convex shape, and no view looks like that.
    perspective: float = setting(
        0.0, at_least=0.0, at_most=0.6, phrase="perspective of strength {}"
    )
    """Largest distance that the corners of the view lie inside those of the image, in half sides.
    """
    crop: Range = setting(
        _ONE, at_least=0.05, at_most=1.0, off=_ONE, phrase="crops of {} to {} of the side"
    )
    """Smallest and largest side of a crop, as a fraction of the image's. The crop fills the view.
    """
    brightness: Range = setting(
        _ONE, at_least=0.0, at_most=10.0, off=_ONE, phrase="brightness by {} to {}"
    )
    """Smallest and largest factor of all values."""
    contrast: Range = setting(
        _ONE, at_least=0.0, at_most=10.0, off=_ONE, phrase="contrast by {} to {}"
    )
    """Smallest and largest factor of the distance from the mean grey."""
    saturation: Range = setting(
        _ONE, at_least=0.0, at_most=10.0, off=_ONE, phrase="saturation by {} to {}"
    )
    """Smallest and largest factor of the distance from the grey image, for images with three
    colours."""
    blur: Range = setting(_NONE, at_least=0.0, at_most=50.0, phrase="blur of {} to {} pixels")
    """Smallest and largest width of a Gaussian, in pixels."""
    noise: Range = setting(
        _NONE, at_least=0.0, at_most=10.0, phrase="noise of standard deviation {} to {}"
    )
    """Smallest and largest standard deviation of normal noise, for images in [0, 1]."""
    cutout: Range = setting(
        _NONE, at_least=0.0, at_most=1.0, phrase="grey rectangles of {} to {} of the side"
    )
    """Smallest and largest height and width of a grey rectangle, as a fraction of the image's."""

    def check(self) -> None:
        """Check that the ends of every range are in order."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                ascending = value[0] <= value[1]
                require(ascending, f"{field.name} must be in ascending order, not {list(value)}.")


@dataclass(frozen=True)
class Regularizers(Record):
    """What holds the image back during optimization; 0 is off. Formulas are in `regularizers`.

    The first four and `feature_statistics` are penalties. They are measured against the score, so a
    weight
    means the same for channels that respond with 0.1 and with 100, in any layer.
    """

    references = (
        Reference(
            "Yin et al. 2020",
            "Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion. CVPR, "
            "arXiv:1912.08795.",
        ),
    )

    total_variation: float = setting(0.0, at_least=0, phrase="total variation (weight {})")
    """Weight of the differences between neighbouring pixels."""
    l1: float = setting(0.0, at_least=0, phrase="distance from grey (weight {})")
    """Weight of the distance from mid-grey."""
    l2: float = setting(0.0, at_least=0, phrase="squared distance from grey (weight {})")
    """Weight of the squared distance from mid-grey."""
    high_frequency: float = setting(
        0.0, at_least=0, phrase="energy above half the Nyquist frequency (weight {})"
    )
    """Weight of the spectral energy above half the Nyquist frequency."""
    blur: float = setting(
        0.0, at_least=0, phrase="a blur of each step of {} pixels at first, none at the end"
    )
    """Width in pixels by which each step blurs the image at first. It falls to 0 at the end. A blur
    changes magnitudes alone, so images of maco, which holds them fixed, stay as they are."""
    clip: float = setting(0.0, at_least=0, phrase="gradients clipped to a norm of {}")
    """Largest norm of a sample's gradient."""
    feature_statistics: float = setting(
        0.0,
        at_least=0,
        phrase="the deviation of features from the running statistics of batch norms (weight {}; "
        "Yin et al. 2020)",
    )
    """Weight of the deviation of features from their usual distribution, at every batch norm before
    the layer. Networks without batch norms need `dataset`: its images show what is usual at their
    other norms or, if there are none, at their convolutions and linear layers."""
    dataset: str = setting("", phrase="", late=True)
    """Digest of the dataset that shows what is usual. The planner fills it in."""

    def clauses(self) -> dict[str, str]:
        """The words for each setting that is on."""
        found, name = super().clauses(), "feature_statistics"
        if self.dataset and name in found:
            found[name] = (
                "the deviation of features from their distribution over photographs (weight "
                f"{self.feature_statistics:g}; Yin et al. 2020)"
            )
        return found


@dataclass(frozen=True)
class Octaves(Record):
    """Optimization at growing sizes, each with all steps."""

    references = (MORDVINTSEV_2015,)
    count: int = setting(4, at_least=1, at_most=32)
    """Number of sizes. The last is the image's own."""
    scale: float = setting(1.4, above=1, at_most=4)
    """Factor between a size and the one before."""

    def sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return height and width of each octave, the smallest first, that of the image last.

        >>> Octaves(count=3, scale=2.0).sizes((64, 100))
        [(16, 25), (32, 50), (64, 100)]
        """
        powers = [self.scale**k for k in reversed(range(self.count))]
        return [(round(size[0] / power), round(size[1] / power)) for power in powers]


_LARGEST_SIDE = 0.8
"""Fraction of the final side above which a size is not worth its change."""


@dataclass(frozen=True)
class Growth(Record):
    """Coarse to fine: the image grows during the optimization."""

    sides: tuple[float, ...] = setting((), above=0, below=1)
    """Sides of the smaller images that come first, as fractions of the final side, and at least of
    the network's own input size; those above 0.8 of the final side are skipped. Empty: none."""
    costs: tuple[float, ...] = setting((), above=0, below=1)
    """Fraction of the cost of `optimizer.steps` that each of them gets. A step costs as much as its
    pixels: there are four steps at half the side for one at the final size."""

    def check(self) -> None:
        """Check that there is a cost for each size, and something left for the last."""
        sides, costs = list(self.sides), list(self.costs)
        require(
            len(sides) == len(costs),
            f"growth.sides={sides} and growth.costs={costs} must have as many numbers.",
        )
        ascending = sides == sorted(set(sides))
        require(ascending, f"growth.sides={sides} must be in ascending order.")
        require(sum(costs) < 1, f"growth.costs={costs} must leave steps for the final size.")

    def stages(self, size: tuple[int, int], steps: int) -> list[tuple[tuple[int, int], range]]:
        """Return height and width of each size that has steps, and its steps, the smallest first.

        >>> Growth((0.5,), (0.2,)).stages((64, 100), 10)
        [((32, 50), range(0, 8)), ((64, 100), range(8, 16))]
        """
        pairs = zip(self.sides, self.costs, strict=True)
        counts = [round(cost * steps / side**2) for side, cost in pairs]
        counts.append(max(1, steps - round(sum(self.costs) * steps)))
        ends = list(accumulate(counts))
        ranges = map(range, [0, *ends], ends)
        return [(of, n) for of, n in zip([*self.sizes(size), size], ranges, strict=False) if n]

    def sizes(self, size: tuple[int, int]) -> list[tuple[int, int]]:
        """Return height and width of the smaller images, the smallest first."""
        return [(round(size[0] * side), round(size[1] * side)) for side in self.sides]

    def for_network(self, input_size: int, size: tuple[int, int]) -> "Growth":
        """Return the growth of images for a network of an input size.

        In much smaller images than a network was trained on, things are smaller than it knows. So
        small images grow less, or not at all.
        """
        enlarged = max(1.0, input_size / min(size))
        pairs = zip(self.sides, self.costs, strict=True)
        kept = [(side * enlarged, cost) for side, cost in pairs if side * enlarged <= _LARGEST_SIDE]
        return Growth(tuple(side for side, _ in kept), tuple(cost for _, cost in kept))

    def relative_memory(self, size: tuple[int, int]) -> float:
        """Return the memory of batches of all sizes beside that of the final one, by pixels."""
        return sum(map(math.prod, [*self.sizes(size), size])) / math.prod(size)


# --- the recipe ----------------------------------------------------------------------------------

LARGEST_IMAGE = 4096
"""Pixels of a side."""

_MOST_SNAPSHOTS = 10_000

_PRECISIONS = {"fp32": "32-bit floating point", "bf16": "bfloat16"}


@dataclass(frozen=True, kw_only=True)
class Recipe(Record):
    """How an image is made. Two images under one recipe differ in their job alone."""

    objective: Objective
    parameterization: Parameterization
    transforms: Transforms
    optimizer: Optimizer
    image_size: tuple[int, int] = setting(at_least=1, at_most=LARGEST_IMAGE)
    """Height and width of the image, in pixels."""
    precision: str
    """Number format of the network during optimization: `fp32` or `bf16`. Everything else is fp32.
    """
    regularizers: Regularizers = Regularizers()
    init: Init = NoiseInit()  # noqa: RUF009 - a frozen record
    mask: Mask | None = None
    octaves: Octaves | None = None
    growth: Growth = setting(Growth(), late=True)
    """Sizes at which the image is optimized before its own."""
    snapshots: int = setting(0, at_least=0)
    """Number of steps between images that are kept; 0 keeps the finished image alone."""
    keep_prefix_tokens: bool = False
    """Whether activations include the non-spatial tokens (class token, registers)."""
    algorithm: int = ALGORITHM_VERSIONS["fp32"]

    def check(self) -> None:
        """Check the number of snapshots."""
        kept = self.total_steps // max(self.snapshots, 1) if self.snapshots else 0
        many = f"snapshots={self.snapshots} would keep {kept} images of each; keep fewer."
        require(kept <= _MOST_SNAPSHOTS, many)

    def of_layer(self, layer: str) -> "Recipe":
        """The recipe of the images of one layer, without what concerns other layers alone."""
        objective = self.objective.of_layer(layer)
        return self if objective is self.objective else replace(self, objective=objective)

    @property
    def variants(self) -> int:
        """Images per job."""
        return self.objective.variants

    @property
    def total_steps(self) -> int:
        """Steps at all sizes."""
        if self.octaves is not None:
            return self.cost_in_steps
        return self.stages[-1][1].stop

    @property
    def cost_in_steps(self) -> int:
        """Number of steps at the final size that cost as much as all steps."""
        return self.optimizer.steps * (self.octaves.count if self.octaves else 1)

    @property
    def stages(self) -> list[tuple[tuple[int, int], range]]:
        """Height and width of each size without octaves, and its steps, the smallest first."""
        return self.growth.stages(self.image_size, self.optimizer.steps)

    @property
    def dataset_images_used(self) -> int:
        """Number of each target's strongest dataset images that its image is made from."""
        return max(self.init.dataset_images, self.objective.dataset_images)

    def describe(self) -> str:
        """Describe how images were made, as a methods section does, with every setting."""
        return " ".join(self._sentences())

    def summary(self) -> str:
        """Describe the recipe on one line, with the photographs that images are made from."""
        sizes = dict.fromkeys(_pixels(of) for of, _ in (self.stages[0], self.stages[-1]))
        size = " to ".join(sizes)
        start = f" {self.init.from_images}" if self.init.from_images else ""
        like = f" {self.objective.from_images}" if self.objective.from_images else ""
        steps = self.total_steps
        octaves = f" in {self.octaves.count} octaves" if self.octaves else ""
        return (
            f"{self.objective.name}{like}{self._variants()}, {self.parameterization.name}{start}, "
            f"{self.optimizer.name} {steps} step{'' if steps == 1 else 's'}{octaves}, {size} px, "
            f"{self.precision}"
        )

    def _sentences(self) -> Iterator[str]:
        height, width = self.image_size
        yield (
            f"For each target an image of {height} x {width} pixels was made by gradient "
            f"{self.objective.way} on {self.objective.describe()}."
        )
        masked = ", within a mask over a fixed picture" if self.mask is not None else ""
        yield (
            f"Images were parameterized by {self.parameterization.describe()}{masked}, starting "
            f"from {self.init.describe()}."
        )
        # Every setting below is in the text, which a test checks field by field.
        yield f"They were optimized by {self.optimizer.describe()}."
        if self.octaves is not None:
            yield (
                f"The optimization was repeated at {self.octaves.count} sizes, each "
                f"{self.octaves.scale:g} times as large as the one before "
                f"({self.octaves.references[0].cite})."
            )
        if len(self.stages) > 1:
            yield self._growth_sentence()
        views = listed(self.transforms.clauses().values())
        seen = f"each image through a random view: {views}" if views else "the images as they were"
        yield f"{'At each step the' if views else 'The'} network saw {seen}."
        penalties = listed(self.regularizers.clauses().values())
        if penalties:
            yield f"They were regularized by {penalties}."
        if self.keep_prefix_tokens:
            yield "Activations included the non-spatial tokens (class token, registers)."
        number_format = _PRECISIONS.get(self.precision, self.precision)
        yield f"The network ran in {number_format} (algorithm version {self.algorithm})."

    def _growth_sentence(self) -> str:
        *first, last = [f"{len(n)} at {h} x {w} pixels" for (h, w), n in self.stages]
        return f"Images grew, coarse to fine: steps were {', '.join(first)} and {last}."

    def _variants(self) -> str:
        """The names of the variants, in parentheses; empty for one usual image."""
        names = self.objective.variant_names
        # One image that raises the score is what a reader expects, and needs no mention.
        if names in (("0",), ("positive",)):
            return ""
        if names == tuple(map(str, range(len(names)))):
            return f" ({len(names)} images)"
        shown = names if len(names) <= _SHOWN_VARIANTS else (names[0], "...", names[-1])
        return f" ({', '.join(shown)})"


def _pixels(size: tuple[int, int]) -> str:
    height, width = size
    return f"{height}" if height == width else f"{width} x {height}"


_SHOWN_VARIANTS = 5
_TRACE_POINTS = 33


def trace_steps(steps: int) -> list[int]:
    """Return the steps at which scores are recorded: at most 33, evenly spread, ends included."""
    count = min(steps, _TRACE_POINTS)
    return sorted({round(i * (steps - 1) / max(count - 1, 1)) for i in range(count)})


def recorded_steps(recipe: Recipe) -> list[int]:
    """Return the steps at which scores are recorded: of every octave, or of all sizes together."""
    steps = _steps_of_a_run(recipe)
    starts = range(0, recipe.total_steps, steps)
    return [start + step for start in starts for step in trace_steps(steps)]


def _steps_of_a_run(recipe: Recipe) -> int:
    """Return the steps of an octave, or those of all sizes of an image that grows."""
    return recipe.total_steps // (recipe.octaves.count if recipe.octaves else 1)


def snapshot_steps(recipe: Recipe) -> list[int]:
    """Return the numbers of steps after which the image is kept: start, intervals, and end.

    With octaves, the end of each octave is among them.
    """
    steps, every = _steps_of_a_run(recipe), recipe.snapshots
    if not every:
        return []
    kept = [*range(every, steps, every), steps]
    return [0, *(start + step for start in range(0, recipe.total_steps, steps) for step in kept)]


def snapshot_count(recipe: Recipe) -> int:
    """Count the snapshots, which may be too many to list their steps."""
    steps, every = _steps_of_a_run(recipe), recipe.snapshots
    return 1 + -(-steps // every) * (recipe.total_steps // steps) if every else 0
