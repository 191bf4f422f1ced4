"""The plan: which images a sweep consists of. Pure: no torch, no files.

config + what the forward passes told  ->  Plan  ->  shards
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from layer_atlas.config.config import LARGEST_SHARD
from layer_atlas.config.datasets import MOST_PHOTOGRAPHS, SaliencyMethod
from layer_atlas.config.objectives import JointObjective
from layer_atlas.config.ranges import not_negative, one_or_more, require, within
from layer_atlas.config.recipe import Recipe, snapshot_count
from layer_atlas.plan.environment import Environment
from layer_atlas.plan.jobs import LayerInfo, NetworkIdentity, Series, Shard
from layer_atlas.plan.origin import UNKNOWN, Origin
from layer_atlas.plan.targets import TargetSpace, is_ascending

FLOPS_PER_SECOND = {"cpu": 3e10, "cuda": 2e13}
"""A guess at a worker's speed, for cutting bundles and for estimates before the first shard."""

_BLOCKS = 2048
"""A dataset is cut into about so many blocks at most, until they reach 1,024 photographs."""

READING_SECONDS = 2e-3
"""A photograph is read and resized in about that."""

_MEASURED_VIEWS = 17
"""Forward passes of the finished image, for its statistics."""

MOST_TARGETS = 2**20
"""Of a layer in one sweep; the montage of so many just fits into memory."""

LARGEST_PICTURE = 2**31
"""Bytes; HDF5 takes no more in one chunk than twice that."""

_MOST_COLOURS = 4096

_MOST_COUNTED = 2**32 - 1
"""Photographs of a dataset."""

_PICTURES_AT_ONCE = 2**28
"""Bytes of pictures, those on the way included, that a batch or a shard holds at most. A worker has
several in memory: the one that it makes, copies of it, and those that wait to be written."""


@dataclass(frozen=True)
class LayerRef:
    """A further layer whose activations decide about an image."""

    model: str
    """Label of its model, which may be another."""
    network: NetworkIdentity
    info: LayerInfo
    origin: Origin = UNKNOWN
    """Where its weights and preprocessing come from."""


@dataclass(frozen=True)
class LayerPlan:
    """The targets wanted of one layer, in ascending order; mostly they are its channels."""

    info: LayerInfo
    targets: range | tuple[int, ...]
    """Their numbers; a range, which is small however long, where they are evenly spaced."""
    space: TargetSpace | None = None
    """What the numbers stand for; default: the layer's channels."""
    others: tuple[LayerRef, ...] = ()
    """Further layers, for objectives that read several."""

    def __post_init__(self) -> None:
        targets = self.target_space
        within(0, MOST_TARGETS, targets=len(self.targets))
        within_all = not self.targets or 0 <= self.targets[0] <= self.targets[-1] < targets.count
        require(
            is_ascending(self.targets) and within_all,
            f"targets that are not among {targets.count}, ascending.",
        )
        named = len(targets.names) in (0, targets.count)
        require(named, f"{len(targets.names)} names of {targets.count} targets.")
        parts, layers = len(targets.sizes), 1 + len(self.others)
        require(parts == 1 or parts % layers == 0, f"{parts} parts of {layers} layers.")

    @property
    def target_space(self) -> TargetSpace:
        """Every target that could be wanted."""
        return self.space or TargetSpace((self.info.n_channels,))

    @property
    def flops(self) -> int:
        """Of a forward pass that reads them all, one image."""
        return self.info.flops_before + sum(tap.info.flops_before for tap in self.others)


@dataclass(frozen=True)
class ModelPlan:
    """What is wanted of one network."""

    label: str
    network: NetworkIdentity
    input_size: int
    recipe: Recipe
    layers: tuple[LayerPlan, ...]
    origin: Origin = UNKNOWN
    """Where its weights and preprocessing come from."""
    environment: Environment | None = None
    """What its images must have been made with to count as done; `None`: anything."""
    note: str = ""
    """What was found out about the network that a user should know."""

    def __post_init__(self) -> None:
        names = [layer.info.name for layer in self.layers]
        require(len(set(names)) == len(names), "two layers of one name.")
        mean, std = self.network.mean, self.network.std
        require(len(mean) == len(std), f"mean of {len(mean)} colours and std of {len(std)}.")
        within(1, _MOST_COLOURS, colours=len(mean))
        one = math.prod(self.recipe.image_size) * self.colours
        require(one < LARGEST_PICTURE, f"pictures of {one} bytes.")
        objective = self.recipe.objective
        terms = len(objective.terms) if isinstance(objective, JointObjective) else 1
        several = all(len(layer.others) == terms - 1 for layer in self.layers)
        require(several, f"layers that are not read {terms} together.")

    @property
    def colours(self) -> int:
        """Of its images."""
        return len(self.network.mean)

    @property
    def networks(self) -> dict[str, NetworkIdentity]:
        """The network, and further ones that its images are for as well, by their labels."""
        taps = (tap for layer in self.layers for tap in layer.others)
        return {self.label: self.network, **{tap.model: tap.network for tap in taps}}

    @property
    def origins(self) -> dict[str, Origin]:
        """Where the weights of the same networks come from, by their labels."""
        taps = (tap for layer in self.layers for tap in layer.others)
        return {self.label: self.origin, **{tap.model: tap.origin for tap in taps}}

    @property
    def dataset_image_size(self) -> int:
        """Height and width of photographs; the images of sweeps with photographs are squares."""
        return self.recipe.image_size[0]


@dataclass(frozen=True)
class SkippedModel:
    """A model that the sweep goes on without, because the file of its weights is of no use."""

    model: str
    """Its label."""
    why: str
    """What is wrong with the file."""

    def __str__(self) -> str:
        return f"model {self.model!r} is left out: {self.why}"


@dataclass(frozen=True)
class DatasetPlan:
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

    def __post_init__(self) -> None:
        one_or_more(count=self.count, top=self.top, reference=self.reference)
        not_negative(bottom=self.bottom)
        within(1, _MOST_COUNTED, count=self.count)
        within(0, MOST_PHOTOGRAPHS, examples=self.examples)

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
    dataset_plan: DatasetPlan | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    """Where the files that recipes refer to came from."""
    skipped_models: tuple[SkippedModel, ...] = ()
    """Models that were asked for and could not be planned."""
    selection: Any = None
    """How targets were asked for, as `channels` of the config; None in plans of older versions."""

    def __post_init__(self) -> None:
        labels = [model.label for model in self.models]
        require(len(set(labels)) == len(labels) > 0, f"models called {labels}.")
        require(all(model.layers for model in self.models), "a model without layers.")
        require(len(set(self.seeds)) == len(self.seeds) > 0, f"seeds {list(self.seeds)}.")
        within(-(2**63), 2**63 - 1, **{"seeds": min(self.seeds), "the largest": max(self.seeds)})
        within(1, LARGEST_SHARD, shard_size=self.shard_size)

    def shards(self) -> Iterator[Shard]:
        """All shards, model by model, layer by layer, seed by seed."""
        for model in self.models:
            for layer in model.layers:
                for seed in self.seeds:
                    yield from self.layer_shards(model, layer, seed)

    def layer_shards(self, model: ModelPlan, layer: LayerPlan, seed: int) -> Iterator[Shard]:
        """The shards of one layer and seed: blocks of its channels, in order."""
        series = Series(model.label, model.network, layer.info.name, seed, model.recipe)
        for start in range(0, len(layer.targets), self.shard_size):
            yield Shard(series, tuple(layer.targets[start : start + self.shard_size]))

    @property
    def environments(self) -> dict[str, Environment]:
        """What images must have been made with, by the models of which that matters."""
        wanted = ((model.label, model.environment) for model in self.models)
        return {label: environment for label, environment in wanted if environment is not None}

    @property
    def variants(self) -> int:
        """Images per job; all models have one objective."""
        return self.models[0].recipe.variants

    @property
    def n_jobs(self) -> int:
        """Number of jobs: of images, unless a job has several."""
        channels = sum(len(layer.targets) for model in self.models for layer in model.layers)
        return channels * len(self.seeds)


def without_paths(plan: Plan) -> Plan:
    """A plan that does not say how activations are computed."""

    def model(of: ModelPlan) -> ModelPlan:
        return replace(of, layers=tuple(map(layer, of.layers)))

    def layer(of: LayerPlan) -> LayerPlan:
        taps = tuple(replace(tap, info=replace(tap.info, path="")) for tap in of.others)
        return replace(of, info=replace(of.info, path=""), others=taps)

    return replace(plan, models=tuple(map(model, plan.models)))


def flops_per_job(layer: LayerPlan, recipe: Recipe) -> float:
    """Floating-point operations of one job: passes of its steps forward and backward, and views."""
    passes = recipe.total_steps * recipe.optimizer.passes_per_step
    return layer.flops * recipe.variants * (2.0 * passes + _MEASURED_VIEWS)


def dataset_image_seconds(flops: float, rate: float) -> float:
    """About how long one photograph takes: reading it, and a forward pass."""
    return READING_SECONDS + flops / rate


def flops_per_second(devices: Iterable[str]) -> float:
    """A guess at the speed of the slowest worker."""
    return min(FLOPS_PER_SECOND[device.split(":")[0]] for device in devices)


def picture_bytes(recipe: Recipe, colours: int) -> int:
    """Of all pictures of a job, those on the way included; one byte for each colour of a pixel."""
    layers = colours * (1 + snapshot_count(recipe)) + recipe.parameterization.alpha
    return math.prod(recipe.image_size) * recipe.variants * layers


def jobs_at_once(recipe: Recipe, colours: int) -> int:
    """How many jobs a batch or a shard holds at most, at least one."""
    return max(1, _PICTURES_AT_ONCE // picture_bytes(recipe, colours))


def bytes_needed(plan: Plan, shards: Iterable[Shard]) -> float:
    """About how much disk some shards will take, in store and atlas together.

    Nearly all of it are pictures, which hardly compress.
    """
    one = {model.label: picture_bytes(model.recipe, model.colours) for model in plan.models}
    jobs: Counter[str] = Counter()
    for shard in shards:
        jobs[shard.series.model] += len(shard.targets)
    return float(2 * sum(n * one[label] for label, n in jobs.items()))
