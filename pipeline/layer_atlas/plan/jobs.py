"""The nouns of a sweep, frozen: layers, series, shards and their results, and the keys of jobs.

A job is (network, layer, channel, seed) under a recipe. Jobs that differ in their channel alone
form a series; a shard is a block of a series. A shard is one kind of task: work that a worker
commits whole or not at all.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from layer_atlas.config.ranges import require, within
from layer_atlas.config.recipe import Recipe
from layer_atlas.config.records import digest, plain

_MOST_CHANNELS = 2**24
"""Of a layer; more of them nobody has, but a record that was made up."""


@dataclass(frozen=True)
class LayerInfo:
    """What one forward pass tells about a layer."""

    name: str
    """Dotted name among the network's modules."""
    module_type: str
    """Class of the module."""
    kinds: tuple[str, ...]
    """Class of the module and its base classes."""
    n_channels: int
    shape: tuple[int, ...]
    """Shape of the activation without the batch."""
    channel_axis: int
    """Axis of the channels, counted with the batch in front."""
    calls: int
    """How often one forward pass calls the module; the first call counts."""
    flops: int
    """Of this layer alone, one image."""
    flops_before: int
    """Of the forward pass up to and including this layer, one image."""
    flops_share: float
    """Of the whole forward pass."""
    prefix_tokens: int = 0
    """Leading tokens that are left out of activations, because they are no positions."""
    batch_axis: int = 0
    """Axis of the images; 1 where tokens come first (tokens, batch, channels)."""
    path: str = ""
    """How its activations are computed, as found while planning: which way agrees with the plain
    one."""
    fingerprint: tuple[float, ...] = ()
    """What its activations on fixed images come down to; empty where that is not known."""

    def __post_init__(self) -> None:
        within(1, _MOST_CHANNELS, n_channels=self.n_channels)
        there = 1 <= self.channel_axis <= len(self.shape)
        require(self.batch_axis in range(len(self.shape) + 1), f"batch axis {self.batch_axis}.")
        require(
            there and self.shape[self.channel_axis - 1] == self.n_channels,
            f"{self.n_channels} channels along axis {self.channel_axis} of {list(self.shape)}.",
        )

    @property
    def positions(self) -> int:
        """Number of positions of an activation (B, C, L)."""
        return math.prod(self.shape) // self.n_channels - self.prefix_tokens

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
    """What of a network decides pixels; how it is called or where its file lies does not."""

    source: str
    """Which architecture: `demo`, `torchvision/resnet50`, or the dotted name of a callable."""
    weights_sha256: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fixed_size: int | None = None
    """Height and width that images are resized to before a network that takes no other; `None`: it
    sees them as they are."""
    code: str = ""
    """Digest of the code that the network consists of."""


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
        """Tells it from all other tasks."""
        ...

    @property
    def model(self) -> str:
        """Label of the model that it needs."""
        ...

    @property
    def units(self) -> int:
        """How much there is to count: images, photographs."""
        ...

    @property
    def products(self) -> Sequence[Product]:
        """Its files; it is done when all are there."""
        ...

    def request(self) -> dict[str, Any]:
        """What a worker must know of it besides its model, as plain data."""
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
        """What the keys are made of, as plain data."""
        names = ("network", "layer", "seed", "recipe")
        return {name: plain(getattr(self, name)) for name in names}

    @cached_property
    def key(self) -> str:
        """SHA-256 of the identity."""
        return digest(self.identity)

    def job_key(self, channel: int) -> str:
        """SHA-256 that identifies one job, and seeds its random numbers."""
        return digest({**self.identity, "channel": channel})


@dataclass(frozen=True)
class Shard:
    """A block of jobs of one series: the unit of scheduling, commit and resume."""

    series: Series
    targets: tuple[int, ...]

    @cached_property
    def key(self) -> str:
        """SHA-256 of the series and the channels."""
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
        """Its file."""
        return Product(self.series.model, self.series.layer, self.key)

    @property
    def products(self) -> tuple[Product]:
        """Its file, as of every task."""
        return (self.product,)

    def request(self) -> dict[str, Any]:
        """Which shard, within the model's plan."""
        where = {"layer": self.series.layer, "seed": self.series.seed}
        return {**where, "targets": list(self.targets)}

    @property
    def job_keys(self) -> list[str]:
        """The key of each job, in order of channels."""
        return [self.series.job_key(channel) for channel in self.targets]

    def __str__(self) -> str:
        first, last = self.targets[0], self.targets[-1]
        series = self.series
        return f"{series.model}/{series.layer} channels {first}-{last} seed {series.seed}"


STATUS = {"ok": 0, "dead": 1, "diverged": 2, "failed": 3, "missing": 4, "silent": 5}
"""What became of a job. Shards know only the first three; the rest is found at collation."""

FATES = {code: word for word, code in STATUS.items() if word != "ok"}
"""What pictures say of a job that did not go well."""

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
    from image on have an axis V after the first if a job has several variants."""
    facts: dict[str, Any] = field(default_factory=dict)
    """How it was made: seconds, environment. Never part of what is compared."""

    def rows(self, positions: "NDArray[np.intp] | slice") -> "dict[str, NDArray[Any]]":
        """The arrays of some of the jobs; what all jobs share is left as it is."""
        return {k: v if k in _SHARED else v[positions] for k, v in self.arrays.items()}


def joined(parts: Sequence[dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The arrays of several batches of jobs as those of one."""
    return {
        name: array if name in _SHARED else np.concatenate([part[name] for part in parts])
        for name, array in parts[0].items()
    }
