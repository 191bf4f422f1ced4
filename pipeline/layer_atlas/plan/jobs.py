"""The nouns of a sweep, frozen: layers, series, shards and their results, and the keys of jobs.

A job is (network, layer, channel, seed) under a recipe. Jobs that differ in their channel alone
form a series; a shard is a block of a series. A shard is one kind of task: work that a worker
commits whole or not at all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from layer_atlas.config.recipe import Recipe
from layer_atlas.config.records import Record, digest, plain, require, setting

_MOST_CHANNELS = 2**24
"""Channels of a layer. No layer has more, only a record that was made up."""


@dataclass(frozen=True, kw_only=True)
class LayerInfo(Record):
    """The facts about a layer that one forward pass reveals."""

    name: str
    """Dotted name among the network's modules."""
    module_type: str
    """Class of the module."""
    kinds: tuple[str, ...]
    """Class of the module and its base classes."""
    n_channels: int = setting(at_least=1, at_most=_MOST_CHANNELS)
    shape: tuple[int, ...]
    """Shape of the activation without the batch."""
    channel_axis: int
    """Axis of the channels, counted with the batch in front."""
    calls: int
    """Number of calls of the module in one forward pass. Activations are those of the first."""
    flops: int
    """Floating-point operations of this layer alone, for one image."""
    flops_before: int
    """Floating-point operations up to and including this layer, for one image."""
    flops_share: float
    """Fraction of the operations of the whole forward pass."""
    prefix_tokens: int = 0
    """Number of leading non-spatial tokens (class token, registers), which activations exclude."""
    batch_axis: int = 0
    """Axis of the images; 1 where tokens come first (tokens, batch, channels)."""
    path: str = ""
    """How its activations are computed: the fastest way that the planner found to agree with the
    plain forward."""
    fingerprint: tuple[float, ...] = ()
    """Summary of its activations on fixed images; empty where that is not known."""
    suffix_tokens: int = setting(0, late=True)
    """Number of trailing non-spatial tokens (detection tokens), which activations exclude."""

    def check(self) -> None:
        """Check that the axes are those of the shape."""
        there = 1 <= self.channel_axis <= len(self.shape)
        require(self.batch_axis in range(len(self.shape) + 1), f"batch axis {self.batch_axis}.")
        require(
            there and self.shape[self.channel_axis - 1] == self.n_channels,
            f"{self.n_channels} channels along axis {self.channel_axis} of {list(self.shape)}.",
        )

    @property
    def positions(self) -> int:
        """Number of positions of an activation (B, C, L)."""
        others = self.prefix_tokens + self.suffix_tokens
        return math.prod(self.shape) // self.n_channels - others

    @property
    def map_size(self) -> tuple[int, int]:
        """Height and width of the map; tokens without one are a row, unless they make a square."""
        sides = [n for axis, n in enumerate(self.shape, 1) if axis != self.channel_axis]
        if len(sides) == 2:
            return sides[0], sides[1]
        count = self.positions
        side = math.isqrt(count)
        return (side, side) if side * side == count else (1, count)


@dataclass(frozen=True)
class NetworkIdentity:
    """The facts about a network that decide pixels; its label and the place of its file do not."""

    source: str
    """The architecture: `demo`, `torchvision/resnet50`, or the dotted name of a callable."""
    weights_sha256: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fixed_size: int | None = None
    """Height and width of the only images that the network takes; `None` if it takes any size."""
    code: str = ""
    """Digest of the network's code."""
    inputs: str = setting("", late=True)
    """Digest of the fixed values of its other inputs; empty if it takes images alone."""


UNTRAINED = "untrained (random weights)"
AS_CONSTRUCTED = "weights as its constructor left them"


@dataclass(frozen=True)
class Origin:
    """The sources of a network's weights, mean, standard deviation and input size, in words.

    None of this decides pixels, so it is part of no key. Unknown sources, as in manifests of older
    versions, are empty.
    """

    weights: str = ""
    """Source of the weights: `ImageNet weights (IMAGENET1K_V1)`, `weights from file NAME`, or a
    constant above."""
    mean: str = ""
    """Source of the mean: `torchvision's published preset`, `given in the config` or `ImageNet
    default, assumed`."""
    std: str = ""
    """Source of the standard deviation."""
    input_size: str = ""
    """Source of the input size."""
    loaded: str = ""
    """What was taken from a weights file: key, prefix, number of tensors."""
    interpolation: str = ""
    """Interpolation by which the images of the training were resized."""


UNKNOWN = Origin()


def seen_size(
    only: int | None, trained: int, image_size: tuple[int, int], origin: Origin
) -> tuple[tuple[int, int], Origin]:
    """Return the size of what a network gets for an image, and the sources with that of the size.

    Args:
        only: the only height and width that the network takes; `None` if it takes any.
        trained: the height and width that it was trained with, as far as its origin knows.
        image_size: height and width of the image.
        origin: the sources of its preprocessing.
    """
    source = origin.input_size
    if only is not None:
        size, words = (only, only), [source]
        if image_size != size:
            words.append("images are resized to it")
    elif image_size == (trained, trained):
        return image_size, origin
    else:
        size, words = image_size, ["image_size in the config"]
        if source and not source.endswith("assumed"):
            words.append(f"trained at {trained} px ({source})")
    return size, replace(origin, input_size=", ".join(filter(None, words)))


def preprocessing_words(
    mean: Sequence[float],
    std: Sequence[float],
    input_size: tuple[int, int] | None,
    origin: Origin,
) -> str:
    """Describe mean, standard deviation and input size with their sources.

    >>> preprocessing_words([0.5], [0.25], (64, 64), Origin("", "given", "assumed", "assumed"))
    'mean (0.5): given; std (0.25), input size 64 px: assumed'
    """
    values = [(f"mean {_numbers(mean)}", origin.mean), (f"std {_numbers(std)}", origin.std)]
    if input_size is not None:
        sides = " x ".join(map(str, dict.fromkeys(input_size)))
        values.append((f"input size {sides} px", origin.input_size))
    words = "; ".join(
        ", ".join(text for text, _ in some) + (f": {source}" if source else "")
        for source, some in groupby(values, key=lambda value: value[1])
    )
    if not origin.interpolation:
        return words
    other = origin.interpolation != "bilinear"
    here = "; dataset images are resized by bilinear interpolation" if other else ""
    return f"{words}; trained with {origin.interpolation} interpolation{here}"


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.4g}' for value in values)})"


def named(label: str, weights: str) -> str:
    """Return a network's label, marked if its weights are random, which no picture may conceal."""
    return f"{label}, {UNTRAINED}" if weights == UNTRAINED else label


@dataclass(frozen=True)
class Product:
    """A file that a task leaves in the store."""

    model: str
    layer: str
    key: str
    shelf: str = ""
    """Folder within the layer's; shards lie in the layer's own."""


class Task(Protocol):
    """Work that is committed whole: the unit of scheduling and resume."""

    @property
    def key(self) -> str:
        """Key that identifies the task."""
        ...

    @property
    def model(self) -> str:
        """Label of the model that the task needs."""
        ...

    @property
    def units(self) -> int:
        """Number of images or dataset images, for progress."""
        ...

    @property
    def products(self) -> Sequence[Product]:
        """The files of the task, which is done when all exist."""
        ...

    def request(self) -> dict[str, Any]:
        """Return what a worker needs besides the model, as plain data."""
        ...


@dataclass(frozen=True)
class Series:
    """All jobs of one layer and seed under one recipe."""

    model: str
    """The model's label in this sweep; not part of the identity."""
    network: NetworkIdentity
    layer: str
    seed: int
    recipe: Recipe

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The plain data that the keys are digests of."""
        # The label of the model is not part of it: a network may be renamed without new images.
        return {
            "network": plain(self.network),
            "layer": self.layer,
            "seed": self.seed,
            "recipe": plain(self.recipe.of_layer(self.layer)),
        }

    @cached_property
    def key(self) -> str:
        """SHA-256 (hex) of the identity."""
        return digest(self.identity)

    def job_key(self, target: int) -> str:
        """Return the SHA-256 that identifies one job and seeds its random numbers."""
        # The word is part of every key of existing stores.
        return digest({**self.identity, "channel": target})


@dataclass(frozen=True)
class Shard:
    """A block of jobs of one series: the unit of scheduling, commit and resume."""

    series: Series
    targets: tuple[int, ...]

    @cached_property
    def key(self) -> str:
        """SHA-256 (hex) of the series and the channels."""
        return digest({"series": self.series.key, "channels": self.targets})

    @property
    def model(self) -> str:
        """Label of the model."""
        return self.series.model

    @property
    def units(self) -> int:
        """Number of jobs."""
        return len(self.targets)

    @property
    def product(self) -> Product:
        """The shard's file."""
        return Product(self.series.model, self.series.layer, self.key)

    @property
    def products(self) -> tuple[Product]:
        """The shard's file, as a task has them."""
        return (self.product,)

    def request(self) -> dict[str, Any]:
        """Return layer, seed and targets, which identify the shard within the model's plan."""
        where = {"layer": self.series.layer, "seed": self.series.seed}
        return {**where, "targets": list(self.targets)}

    @property
    def job_keys(self) -> list[str]:
        """The key of each job, in order of channels."""
        return [self.series.job_key(target) for target in self.targets]

    def __str__(self) -> str:
        first, last = self.targets[0], self.targets[-1]
        series = self.series
        return f"{series.model}/{series.layer} channels {first}-{last} seed {series.seed}"


STATUS = {"ok": 0, "dead": 1, "diverged": 2, "failed": 3, "missing": 4, "silent": 5}
"""Outcomes of a job. Shards have only the first three; collation finds the rest."""

WITHOUT_IMAGE = (STATUS["failed"], STATUS["missing"])
"""Outcomes that leave no image."""

FATES = {code: word for word, code in STATUS.items() if word != "ok"}
"""Words of pictures for jobs that are not ok."""

_SHARED = {"trace_step", "snapshot_step"}
"""Arrays that do not have a row per job."""


@dataclass(frozen=True)
class ShardResult:
    """Images and statistics of the n jobs of a shard, in order of targets."""

    arrays: dict[str, NDArray[Any]]
    """target (n,), status (n,), start (n,) uint8; image (n, H, W, C) uint8, activation,
    activation_robust, activation_max, high_frequency and clipped (n,) float32, trace (n, T) float32
    with trace_step (T,), response (n, K) float32; where it is asked for alpha (n, H, W) uint8,
    part_activation (n, parts) float32, snapshot (n, N, H, W, C) uint8 with snapshot_step (N,). All
    from image on have an axis V after the first if a job has several variants. Of facets also the
    facet of each dataset image (n, N) uint8."""
    facts: dict[str, Any] = field(default_factory=dict)
    """How the shard was made: seconds, environment. Comparisons leave it out."""

    def rows(self, positions: "NDArray[np.intp] | slice") -> "dict[str, NDArray[Any]]":
        """Return the arrays of some of the jobs; what all jobs share stays as it is."""
        return {k: v if k in _SHARED else v[positions] for k, v in self.arrays.items()}


def joined(parts: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Join the arrays of several batches of jobs."""
    return {
        name: array if name in _SHARED else np.concatenate([part[name] for part in parts])
        for name, array in parts[0].items()
    }
