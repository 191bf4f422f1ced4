"""The plan: which images a sweep consists of. Pure: no torch, no files.

config + facts about the layers  ->  Plan  ->  shards
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from layer_atlas.config.config import LARGEST_SHARD, MOST_CONNECTIONS, Config
from layer_atlas.config.datasets import SaliencyMethod
from layer_atlas.config.objectives import (
    MOST_STRONGEST,
    JointObjective,
    Objective,
    StrongestImagesObjective,
)
from layer_atlas.config.recipe import Recipe, snapshot_count
from layer_atlas.config.records import Record, require, setting
from layer_atlas.plan.environment import Environment
from layer_atlas.plan.jobs import (
    UNKNOWN,
    LayerInfo,
    NetworkIdentity,
    Origin,
    Series,
    Shard,
    seen_size,
)
from layer_atlas.plan.targets import TargetSpace, is_ascending

FLOPS_PER_SECOND = {"cpu": 4e10, "cuda": 2e13}
"""Guess at a worker's speed, for the size of bundles and for estimates before the first shard."""

START_SECONDS = 6.0
"""Approximate time from the start of a worker to its first task: imports, and loading a network."""

COLLATING_SECONDS = (2.0, 5e-3)
"""Approximate time to collate: of any atlas, and of each image."""

_IMAGE_FLOPS = 2.7e4
"""Cost of rendering a pixel and its random view, per step, in FLOPs of a network that take as long
on a CPU."""

_BLOCKS = 2048
"""Approximate largest number of blocks of a dataset, until a block has 1,024 images."""

READING_SECONDS = 2e-3
"""Approximate time to read and resize a dataset image."""

_MEASURED_VIEWS = 17
"""Forward passes of the finished image for its statistics."""

MOST_TARGETS = 2**20
"""Targets of a layer in one sweep; their montage just fits into memory."""

LARGEST_PICTURE = 2**31
"""Bytes of a picture; a chunk of HDF5 holds twice that."""

_MOST_COLOURS = 4096

_MOST_COUNTED = 2**32 - 1
"""Images of a dataset."""

_PICTURES_AT_ONCE = 2**28
"""Largest number of bytes of pictures, snapshots included, in a batch or a shard. A worker has
several in memory: the one that it makes, copies of it, and those that wait to be written."""


GPU_BATCH = 512
"""Largest batch on a GPU in samples; larger ones are no faster on any."""

_DATASET_IMAGES_AT_ONCE = 2048
"""Largest number of dataset images that the jobs of a batch are made from."""

_BATCH_FRACTION = 0.4
"""Fraction of a GPU's memory that a batch is planned for: dead jobs are tried again beside it, and
the network, measurement and other processes need the rest."""

_BYTES_PER_IMAGE_VALUE = 160
"""Estimated memory of the image side, for each colour of a pixel: parameters and their optimizer,
the image, its view and their gradients."""


@dataclass(frozen=True)
class LayerRef:
    """A further layer whose activations enter the score of an image."""

    model: str
    """Label of its model, which may be another."""
    network: NetworkIdentity
    info: LayerInfo
    origin: Origin = UNKNOWN
    """Sources of its weights and preprocessing."""


@dataclass(frozen=True)
class LayerPlan(Record):
    """The targets wanted of one layer, in ascending order; mostly they are its channels."""

    info: LayerInfo
    targets: range | tuple[int, ...]
    """Their numbers; a range where they are evenly spaced, which is small however long."""
    space: TargetSpace | None = None
    """The space that the numbers index; the default is the layer's channels."""
    others: tuple[LayerRef, ...] = ()
    """Further layers, for objectives that read several."""
    batch_size: int = setting(0, at_least=0, late=True)
    """Jobs of a batch on a GPU, a power of two; 0 where no GPU is known to compute them."""

    def check(self) -> None:
        """Check that the targets exist, and that names and parts are as many."""
        targets = self.target_space
        few = len(self.targets) <= MOST_TARGETS
        require(few, f"targets must be {MOST_TARGETS} at most, not {len(self.targets)}.")
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


@dataclass(frozen=True)
class ModuleInfo(Record):
    """A module of a network, whether images are made for it or not."""

    name: str
    """Dotted name."""
    module_type: str
    """Class of the module."""
    shape: tuple[int, ...]
    """Shape of its output without the batch."""


@dataclass(frozen=True)
class ModelPlan(Record):
    """The part of a plan that one network has."""

    label: str
    network: NetworkIdentity
    input_size: int
    recipe: Recipe
    layers: tuple[LayerPlan, ...]
    origin: Origin = UNKNOWN
    """Sources of its weights and preprocessing."""
    environment: Environment | None = None
    """Environment that its images must come from to count as done; `None` accepts any."""
    note: str = ""
    """Finding about the network that the user should know."""
    features: str = ""
    """Source of the feature statistics that images are held to, in words."""
    is_judge: bool = setting(False, late=True)
    """Whether it only judges the images of others."""
    categories: tuple[str, ...] = setting((), late=True)
    """Names of its classes, where a map labels cells by them."""
    modules: tuple[ModuleInfo, ...] = setting((), late=True)
    """All modules with channels in the order of the forward pass, to show where layers lie."""

    def check(self) -> None:
        """Check layers against each other, and the size of a picture."""
        names = [layer.info.name for layer in self.layers]
        require(len(set(names)) == len(names), "two layers of one name.")
        mean, std = self.network.mean, self.network.std
        require(len(mean) == len(std), f"mean of {len(mean)} colours and std of {len(std)}.")
        few = 1 <= len(mean) <= _MOST_COLOURS
        require(few, f"colours must be 1 to {_MOST_COLOURS}, not {len(mean)}.")
        one = math.prod(self.recipe.image_size) * self.colours
        require(one < LARGEST_PICTURE, f"pictures of {one} bytes.")
        objective = self.recipe.objective
        # Which may find none before a layer.
        if not isinstance(objective, StrongestImagesObjective):
            terms = len(objective.terms) if isinstance(objective, JointObjective) else 1
            several = all(len(layer.others) == terms - 1 for layer in self.layers)
            require(several, f"layers that are not read {terms} together.")

    @property
    def colours(self) -> int:
        """Number of colours of its images."""
        return len(self.network.mean)

    @property
    def seen_size(self) -> tuple[tuple[int, int], Origin]:
        """Height and width of what the network gets for an image, and the source of that size."""
        only, trained = self.network.fixed_size, self.input_size
        return seen_size(only, trained, self.recipe.image_size, self.origin)

    @property
    def networks(self) -> dict[str, NetworkIdentity]:
        """The network, and further ones that its images are for, by their labels."""
        taps = (tap for layer in self.layers for tap in layer.others)
        return {self.label: self.network, **{tap.model: tap.network for tap in taps}}

    @property
    def origins(self) -> dict[str, Origin]:
        """Sources of the weights of the same networks, by their labels."""
        taps = (tap for layer in self.layers for tap in layer.others)
        return {self.label: self.origin, **{tap.model: tap.origin for tap in taps}}

    @property
    def dataset_image_size(self) -> int:
        """Height and width of dataset images; images of sweeps with a dataset are squares."""
        return self.recipe.image_size[0]


@dataclass(frozen=True)
class SkippedModel:
    """A model that the sweep goes on without, because the file of its weights is of no use."""

    model: str
    """Its label."""
    why: str
    """The fault of the file."""

    def __str__(self) -> str:
        return f"model {self.model!r} is skipped: {self.why}"


@dataclass(frozen=True, kw_only=True)
class DatasetPlan(Record):
    """The dataset images that all planned layers see, and how much of the responses is kept."""

    source: str
    """Name of the dataset, for people."""
    listing: str
    """Digest of the list of dataset images."""
    count: int = setting(at_least=1, at_most=_MOST_COUNTED)
    """Number of dataset images, readable or not."""
    top: int = setting(at_least=1)
    """Number of dataset images per channel that are kept of those with the largest responses."""
    bottom: int = setting(at_least=0)
    """Number of dataset images per channel that are kept of those with the smallest responses."""
    reference: int = setting(at_least=1)
    """Approximate number of dataset images of which all responses are kept."""
    examples: int = setting(at_least=0, at_most=MOST_STRONGEST)
    """Number of the top and of the bottom images that are kept as pictures."""
    saliency: SaliencyMethod | None
    """Method of the saliency maps of the top images; `None` makes none."""

    @property
    def block(self) -> int:
        """Dataset images per block: about a thousand blocks, none too small or too large."""
        return min(max(64, 1 << (self.count // _BLOCKS).bit_length()), 1024)

    @property
    def stride(self) -> int:
        """Distance between dataset images of which all responses are kept."""
        return math.ceil(self.count / self.reference)


@dataclass(frozen=True)
class Plan(Record):
    """The whole sweep."""

    models: tuple[ModelPlan, ...]
    seeds: tuple[int, ...] = setting(at_least=-(2**63), at_most=2**63 - 1)
    shard_size: int = setting(at_least=1, at_most=LARGEST_SHARD)
    dataset_plan: DatasetPlan | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    """Paths of the files that recipes refer to, by reference."""
    skipped_models: tuple[SkippedModel, ...] = ()
    """Models of the config that could not be planned."""
    selection: Any = None
    """The value of `channels` in the config; None in plans of older versions."""
    judge: ModelPlan | None = None
    """The network that judges recognisability, with its one layer, of which no target is planned.
    """
    connections: int = setting(0, at_least=0, at_most=MOST_CONNECTIONS, late=True)
    """Number of incoming channels of each sign that are kept of each channel."""

    def check(self) -> None:
        """Check that labels and seeds differ, and that no model is without layers."""
        labels = [model.label for model in self.dataset_models]
        differ = len(set(labels)) == len(labels)
        require(differ and len(self.models) > 0, f"models called {labels}.")
        require(all(model.layers for model in self.models), "a model without layers.")
        require(len(set(self.seeds)) == len(self.seeds) > 0, f"seeds {list(self.seeds)}.")
        alone = self.judge is None or (self.dataset_plan and len(self.judge.layers) == 1)
        require(bool(alone), "a judge needs one layer and a dataset.")

    def shards(self) -> Iterator[Shard]:
        """Yield all shards, model by model, layer by layer, seed by seed."""
        for model in self.models:
            for layer in model.layers:
                for seed in self.seeds:
                    yield from self.layer_shards(model, layer, seed)

    def layer_shards(self, model: ModelPlan, layer: LayerPlan, seed: int) -> Iterator[Shard]:
        """Yield the shards of one layer and seed: blocks of its targets, in order."""
        series = Series(model.label, model.network, layer.info.name, seed, model.recipe)
        for start in range(0, len(layer.targets), self.shard_size):
            yield Shard(series, tuple(layer.targets[start : start + self.shard_size]))

    @property
    def dataset_models(self) -> tuple[ModelPlan, ...]:
        """The models that see the dataset images: those that images are made for, and the judge."""
        return (*self.models, *([self.judge] if self.judge else []))

    def is_judged(self, model: ModelPlan) -> bool:
        """Whether images of a model are judged, which a network never does with its own."""
        return self.judge is not None and self.judge.network != model.network

    @property
    def environments(self) -> dict[str, Environment]:
        """The environment that images must come from, by the models that require one."""
        return required_environments(self.models)

    @property
    def variants(self) -> int:
        """Images per job; all models have one objective."""
        return self.models[0].recipe.variants

    @property
    def n_jobs(self) -> int:
        """Number of jobs, which is that of images unless a job has several."""
        channels = sum(len(layer.targets) for model in self.models for layer in model.layers)
        return channels * len(self.seeds)


def required_environments(models: Iterable[ModelPlan]) -> dict[str, Environment]:
    """Return the environment that images must come from, by the models that require one."""
    wanted = ((model.label, model.environment) for model in models)
    return {label: environment for label, environment in wanted if environment is not None}


def without_paths(plan: Plan) -> Plan:
    """Return a plan without the ways in which activations are computed."""

    def model(of: ModelPlan) -> ModelPlan:
        return replace(of, layers=tuple(map(layer, of.layers)))

    def layer(of: LayerPlan) -> LayerPlan:
        taps = tuple(replace(tap, info=replace(tap.info, path="")) for tap in of.others)
        return replace(of, info=replace(of.info, path=""), others=taps)

    return replace(plan, models=tuple(map(model, plan.models)))


def flops_per_job(layer: LayerPlan, recipe: Recipe) -> float:
    """Return the operations of one job: its steps forward and backward, their images, and views."""
    passes = recipe.cost_in_steps * recipe.optimizer.passes_per_step
    of_network = _flops_of_pass(layer, recipe.objective) * (2.0 * passes + _MEASURED_VIEWS)
    of_images = math.prod(recipe.image_size) * _IMAGE_FLOPS * passes
    return recipe.variants * (of_network + of_images)


def _flops_of_pass(layer: LayerPlan, objective: Objective) -> int:
    """Return the operations of a forward pass up to all layers that an objective reads."""
    infos = [layer.info, *(ref.info for ref in layer.others)]
    networks = [""] * len(infos)
    if isinstance(objective, JointObjective):
        networks = [term.network for term in objective.terms]
    # One pass of a network, up to the deepest, shows all of its layers.
    deepest: dict[str, int] = {}
    for network, info in zip(networks, infos, strict=True):
        deepest[network] = max(deepest.get(network, 0), info.flops_before)
    return sum(deepest.values())


def dataset_image_seconds(flops: float, rate: float) -> float:
    """Estimate the seconds that one dataset image takes: reading it, and a forward pass."""
    return READING_SECONDS + flops / rate


def flops_per_second(devices: Iterable[str]) -> float:
    """Guess the speed of the slowest worker."""
    return min(FLOPS_PER_SECOND[device.split(":")[0]] for device in devices)


def picture_bytes(recipe: Recipe, colours: int) -> int:
    """Return the bytes of a job's pictures, snapshots included: one for each colour of a pixel."""
    layers = colours * (1 + snapshot_count(recipe)) + recipe.parameterization.alpha
    return math.prod(recipe.image_size) * recipe.variants * layers


def jobs_at_once(recipe: Recipe, colours: int) -> int:
    """Return the largest number of jobs of a batch or a shard, at least one."""
    return max(1, _PICTURES_AT_ONCE // picture_bytes(recipe, colours))


def most_jobs(recipe: Recipe, colours: int, samples: int) -> int:
    """Return the largest number of jobs of a batch of at most so many samples, at least one."""
    used = max(recipe.dataset_images_used, 1)
    pictures, dataset_images = jobs_at_once(recipe, colours), _DATASET_IMAGES_AT_ONCE // used
    return max(1, min(samples // recipe.variants, pictures, dataset_images))


def shard_size(config: Config, models: Sequence[ModelPlan], devices: Sequence[str]) -> int:
    """Return the jobs per shard: so few that every device has work that is worth a worker."""
    # A worker holds the images of a whole shard in memory.
    most = min(config.shard_size, *(jobs_at_once(m.recipe, m.colours) for m in models))
    layers = [(model, layer) for model in models for layer in model.layers]
    jobs = len(config.seeds) * sum(len(layer.targets) for _, layer in layers)
    flops = len(config.seeds) * sum(
        len(layer.targets) * flops_per_job(layer, model.recipe) for model, layer in layers
    )
    seconds = flops / flops_per_second(devices)
    workers = min(len(devices), 1 + int(seconds / START_SECONDS))
    return max(1, min(most, math.ceil(jobs / workers)))


def gpu_batch(recipe: Recipe, colours: int, targets: int, values: int, gpu_bytes: int) -> int:
    """Plan the jobs of a batch on a GPU, whose kernels and so last bits depend on their number.

    It follows from the plan and the kind of GPU, never from free memory or the number of GPUs.

    Args:
        recipe: of the images.
        colours: number of colours of the images.
        targets: number of the layer's targets, as batches are filled up.
        values: activations of the layer and of all layers before it, for one image.
        gpu_bytes: memory of the GPU.
    Returns: a power of two.
    """
    # Each activation and its gradient, in the precision of the network.
    of_network = 2 * values * (4 if recipe.precision == "fp32" else 2)
    of_image = math.prod(recipe.image_size) * colours * _BYTES_PER_IMAGE_VALUE
    # The CUDA graphs of every size keep their memory.
    of_all_sizes = recipe.growth.relative_memory(recipe.image_size)
    job = recipe.variants * (of_network + of_image) * of_all_sizes
    fitting = int(_BATCH_FRACTION * gpu_bytes / job)
    most = min(most_jobs(recipe, colours, GPU_BATCH), max(1, fitting))
    return min(power_of_two(most), 1 << (targets - 1).bit_length())


def power_of_two(most: int) -> int:
    """Return the largest power of two up to a number.

    >>> [power_of_two(most) for most in (1, 3, 4, 1000)]
    [1, 2, 4, 512]
    """
    return 1 << (most.bit_length() - 1)


def bytes_needed(plan: Plan, shards: Iterable[Shard]) -> float:
    """Estimate the bytes of disk that some shards take, in store and atlas together.

    Nearly all of them are pictures, which hardly compress.
    """
    one = {model.label: picture_bytes(model.recipe, model.colours) for model in plan.models}
    jobs: Counter[str] = Counter()
    for shard in shards:
        jobs[shard.series.model] += len(shard.targets)
    return float(2 * sum(n * one[label] for label, n in jobs.items()))
