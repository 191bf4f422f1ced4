"""The plan: which images a sweep consists of. Pure: no torch, no files.

config + what the forward passes told  ->  Plan  ->  shards
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.config import SaliencyMethod
from pipeline.errors import UserError
from pipeline.jobs import LayerInfo, NetworkIdentity, Series, Shard
from pipeline.recipe import Recipe

FLOPS_PER_SECOND = {"cpu": 3e10, "cuda": 2e13}
"""A guess at a worker's speed, for cutting bundles and for estimates before the first shard."""

_BLOCKS = 2048
"""A dataset is cut into about so many blocks at most, until they reach 1,024 photographs."""

READING_SECONDS = 2e-3
"""A photograph is read and resized in about that."""

_MEASURED_VIEWS = 17
"""Forward passes of the finished image, for its statistics."""

_BYTES_PER_PIXEL = 3 * 2
"""An image is stored twice, in its shard and in the atlas; noise hardly compresses."""


@dataclass(frozen=True)
class LayerPlan:
    """The channels wanted of one layer, in ascending order."""

    info: LayerInfo
    channels: tuple[int, ...]


@dataclass(frozen=True)
class ModelPlan:
    """What is wanted of one network."""

    label: str
    network: NetworkIdentity
    input_size: int
    recipe: Recipe
    layers: tuple[LayerPlan, ...]


@dataclass(frozen=True)
class StudyPlan:
    """The photographs that all wanted layers are shown, and what is kept of that."""

    source: str
    """Which dataset, for people."""
    listing: str
    """Digest of the list of photographs."""
    count: int
    """Number of photographs, readable or not."""
    top: int
    """So many of the photographs that a channel answers to most are kept for it."""
    bottom: int
    """So many of those that it answers to least."""
    reference: int
    """Of about so many photographs all responses are kept."""
    examples: int
    """So many of top and bottom are kept as pictures."""
    saliency: SaliencyMethod | None
    """How maps of the top photographs are made."""

    @property
    def block(self) -> int:
        """Photographs per block: about a thousand blocks, none too small or too large."""
        return min(max(64, 1 << (self.count // _BLOCKS).bit_length()), 1024)

    @property
    def stride(self) -> int:
        """All responses are kept of every so manyth photograph."""
        return math.ceil(self.count / self.reference)


@dataclass(frozen=True)
class Plan:
    """The whole sweep."""

    models: tuple[ModelPlan, ...]
    seeds: tuple[int, ...]
    shard_size: int
    study: StudyPlan | None = None

    def shards(self) -> Iterator[Shard]:
        """All shards, model by model, layer by layer, seed by seed."""
        for model in self.models:
            for layer in model.layers:
                for seed in self.seeds:
                    yield from self.layer_shards(model, layer, seed)

    def layer_shards(self, model: ModelPlan, layer: LayerPlan, seed: int) -> Iterator[Shard]:
        """The shards of one layer and seed: blocks of its channels, in order."""
        series = Series(model.label, model.network, layer.info.name, seed, model.recipe)
        for start in range(0, len(layer.channels), self.shard_size):
            yield Shard(series, layer.channels[start : start + self.shard_size])

    @property
    def n_jobs(self) -> int:
        """Number of images."""
        channels = sum(len(layer.channels) for model in self.models for layer in model.layers)
        return channels * len(self.seeds)


def flops_per_job(layer: LayerInfo, recipe: Recipe) -> float:
    """Floating-point operations of one job: passes of its steps forward and backward, and views."""
    passes = recipe.optimizer.steps * recipe.optimizer.passes_per_step
    return layer.flops_before * (2.0 * passes + _MEASURED_VIEWS)


def photograph_seconds(flops: float, rate: float) -> float:
    """About how long one photograph takes: reading it, and a forward pass."""
    return READING_SECONDS + flops / rate


def flops_per_second(devices: Iterable[str]) -> float:
    """A guess at the speed of the slowest worker."""
    return min(FLOPS_PER_SECOND[device.split(":")[0]] for device in devices)


def bytes_needed(plan: Plan, shards: Iterable[Shard]) -> float:
    """About how much disk some shards will take, in store and atlas together."""
    size = {model.label: model.recipe.image_size for model in plan.models}
    images: Counter[str] = Counter()
    for shard in shards:
        images[shard.series.model] += len(shard.channels)
    return float(sum(n * size[label] ** 2 * _BYTES_PER_PIXEL for label, n in images.items()))


def select_channels(selection: Any, n_channels: int, where: str) -> tuple[int, ...]:
    """The channel numbers that a selection names, ascending.

    Args:
        selection: `all`, a range "start:stop[:step]", a list of numbers, or {random: n}.
        n_channels: number of channels of the layer.
        where: model and layer, for messages.
    Raises:
        UserError: an empty selection, a number out of range, or something else altogether.

    >>> select_channels("0:8:3", 512, "net/layer")
    (0, 3, 6)
    """
    chosen = _chosen(selection, n_channels, where)
    wrong = [c for c in chosen if not 0 <= c < n_channels]
    if wrong:
        raise UserError(
            f"channel {wrong[0]} is out of range: {where} has channels 0 to {n_channels - 1}."
        )
    if not chosen:
        raise UserError(
            f"channels={selection!r} selects no channel of {where} (it has {n_channels})."
        )
    return tuple(sorted(set(chosen)))


def _chosen(selection: Any, n_channels: int, where: str) -> list[int]:
    if selection == "all":
        return list(range(n_channels))
    if isinstance(selection, int) and not isinstance(selection, bool):
        return [selection]
    if isinstance(selection, str) and ":" in selection:
        return _range(selection, n_channels)
    if isinstance(selection, Mapping) and list(selection) == ["random"]:
        return _random(selection["random"], n_channels)
    if isinstance(selection, list | tuple) and all(type(c) is int for c in selection):
        return list(selection)
    raise UserError(
        f"channels={selection!r} is not understood; give all, a range such as '0:64' or "
        "'0:512:16', a list such as [3,17], or {random: 32}."
    )


def _range(text: str, n_channels: int) -> list[int]:
    try:
        parts = [int(part) if part.strip() else None for part in text.split(":")]
        if len(parts) > 3 or parts[2:] == [0]:
            raise ValueError
    except ValueError:
        raise UserError(
            f"channels={text!r} is not a range; write start:stop or start:stop:step."
        ) from None
    # As for Python's slices, the end may lie beyond the last channel: layers differ in width.
    return list(range(n_channels))[slice(*parts)]


def _random(n: Any, n_channels: int) -> list[int]:
    """The n channels whose hashes are smallest: layers of one width get the same, and a larger n
    only adds to a smaller one."""
    if type(n) is not int or n < 1:
        raise UserError(f"channels={{random: {n}}} needs a whole number of 1 or more.")
    order = sorted(range(n_channels), key=lambda c: hashlib.sha256(str(c).encode()).digest())
    return order[:n]
