"""Tasks of dataset statistics: the responses to measure, and the units of work that measure them.

Dataset statistics belong to one layer and one dataset. All layers of a model process the dataset
images together, block by block. Each block leaves a file per layer, and these are merged when all
exist. Examples follow: the images with the largest and smallest responses of a channel, with
saliency maps.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

from layer_atlas.config.datasets import SaliencyMethod
from layer_atlas.config.objectives import ActivationAtlasObjective
from layer_atlas.config.records import digest, plain
from layer_atlas.datasets.sources import Listing
from layer_atlas.plan.jobs import LayerInfo, NetworkIdentity, Product, Shard
from layer_atlas.plan.plan import DatasetPlan, LayerPlan, ModelPlan, Plan

STUDY_VERSION = 1
"""Version of the algorithm; increased with every code change that affects the statistics."""

SAMPLES_VERSION = 2
"""The same for the samples of activations, and for the maps that are made of them."""

_OF_FIELDS = ("network", "layer", "image_size", "keep_prefix_tokens", "version")
"""Parts of the identity of dataset statistics that receptive fields depend on."""

_MOST_CELLS = 28
"""Cells per side of an activation map that is kept: less than a kilobyte."""

_PAIRS = ("attention_map", "attn_drop")
"""Modules whose positions are pairs of tokens, and no places on an image."""

_MOST_CHANNELS = 64
"""Largest number of channels in a task of examples: all of its images are in memory at a time."""


@dataclass(frozen=True)
class LayerStatistics:
    """Dataset statistics of one layer over one dataset."""

    model: str
    """The model's label in this sweep; not part of the identity."""
    network: NetworkIdentity
    info: LayerInfo
    image_size: int
    plan: DatasetPlan
    keep_prefix_tokens: bool = False
    """Whether non-spatial tokens (class token, registers) are part of the activations."""
    has_fields: bool = True
    """Whether receptive fields are part of them; a judge's images are never cut to one."""
    block_shelf: ClassVar[str] = "photographs"
    """Folder of the files of blocks, within the layer's."""

    @property
    def layer(self) -> str:
        """Name of the layer."""
        return self.info.name

    @property
    def shown(self) -> dict[str, Any]:
        """What is shown dataset images, and how: the part of keys that all of a layer share."""
        return {
            "network": plain(self.network),
            "layer": self.layer,
            "image_size": self.image_size,
            "keep_prefix_tokens": self.keep_prefix_tokens,
        }

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The plain data that keys are digests of, without the images."""
        return {
            **self.shown,
            "stride": self.plan.stride,
            "top": self.plan.top,
            "bottom": self.plan.bottom,
            # Everything that changes a number is in the key, so that a stale file is never reused.
            "version": STUDY_VERSION,
            **({} if self.has_fields else {"fields": False}),
        }

    @cached_property
    def product(self) -> Product:
        """The file of the merged statistics."""
        key = digest({**self.identity, "listing": self.plan.listing, "block": self.plan.block})
        return Product(self.model, self.layer, key, "study")

    @property
    def field(self) -> Product | None:
        """The file of the layer's receptive fields, if they are wanted."""
        if not self.has_fields:
            return None
        # Fewer fields than the statistics: changing top or stride must not recompute them.
        identity = {name: self.identity[name] for name in _OF_FIELDS}
        return Product(self.model, self.layer, digest(identity), "fields")

    @property
    def products(self) -> tuple[Product, ...]:
        """The files that stay: merged statistics and, if they are wanted, receptive fields."""
        return (self.product,) if self.field is None else (self.product, self.field)

    def block(self, start: int, dataset_images: str) -> Product:
        """Return the file of a block, by the digest of its part of the listing."""
        key = digest({**self.identity, "start": start, "photographs": dataset_images})
        return Product(self.model, self.layer, key, self.block_shelf)


@dataclass(frozen=True, kw_only=True)
class LayerSamples(LayerStatistics):
    """Activations of a layer at one position of each dataset image, and the map made of them.

    The blocks and the merged file take the place of those of statistics.
    """

    objective: ActivationAtlasObjective
    block_shelf: ClassVar[str] = "samples"

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The plain data that keys of blocks are digests of, without the images."""
        return {
            **self.shown,
            "seed": self.objective.seed,
            "labels": self.objective.labels,
            "version": SAMPLES_VERSION,
        }

    @cached_property
    def product(self) -> Product:
        """The file of the map, by everything that decides it."""
        # The cosine enters images alone, and the digests of maps are not known yet.
        settings = plain(replace(self.objective, maps=None, cosine_power=0.0))
        identity = {**self.identity, "listing": self.plan.listing, "block": self.plan.block}
        return Product(self.model, self.layer, digest({**identity, "map": settings}), "map")


@dataclass(frozen=True)
class ListingPart:
    """Some images of a dataset, one after another."""

    start: int
    """Index of the first image in the listing."""
    stop: int
    """Index of the first image after the last."""
    dataset_images: str
    """Digest of this part of the listing."""


@dataclass(frozen=True)
class BlockRequest(ListingPart):
    """What a bundle file has of a block."""

    layers: tuple[str, ...]
    """Names of the layers that see it."""


@dataclass(frozen=True)
class StatisticsBlock(ListingPart):
    """A task: some dataset images, processed by several layers of one model."""

    layer_statistics: tuple[LayerStatistics, ...]

    @property
    def model(self) -> str:
        """Label of the model."""
        return self.layer_statistics[0].model

    @property
    def units(self) -> int:
        """Number of dataset images."""
        return self.stop - self.start

    @cached_property
    def products(self) -> tuple[Product, ...]:
        """One file per layer; the first block also produces the receptive fields."""
        blocks = [
            statistics.block(self.start, self.dataset_images)
            for statistics in self.layer_statistics
        ]
        fields = [statistics.field for statistics in self.layer_statistics if self.start == 0]
        return (*blocks, *(field for field in fields if field is not None))

    @cached_property
    def key(self) -> str:
        """SHA-256 of its files' keys."""
        return digest([product.key for product in self.products])

    def request(self) -> dict[str, Any]:
        """Return the images and the layers of the task, as plain data."""
        layers = tuple(statistics.layer for statistics in self.layer_statistics)
        request = BlockRequest(self.start, self.stop, self.dataset_images, layers)
        return {**plain(request)}

    def __str__(self) -> str:
        return f"{self.model}, dataset images {self.start}-{self.stop - 1}"


@dataclass(frozen=True)
class Examples:
    """A task: the images with the largest and smallest responses of some channels of a layer."""

    statistics: LayerStatistics
    targets: tuple[int, ...]
    saliency: SaliencyMethod | None

    @property
    def model(self) -> str:
        """Label of the model."""
        return self.statistics.model

    @property
    def units(self) -> int:
        """Number of channels."""
        return len(self.targets)

    @cached_property
    def key(self) -> str:
        """SHA-256 of the statistics, the channels, and the settings of saliency maps."""
        settings = {"examples": self.statistics.plan.examples, "saliency": plain(self.saliency)}
        return digest({"study": self.statistics.product.key, "channels": self.targets, **settings})

    @property
    def map_size(self) -> tuple[int, int] | None:
        """Height and width of the activation maps that are kept; None if the layer has no maps."""
        height, width = (min(side, _MOST_CELLS) for side in self.statistics.info.map_size)
        pairs = self.statistics.layer.rpartition(".")[2] in _PAIRS
        return None if pairs or min(height, width) == 1 else (height, width)

    @property
    def products(self) -> tuple[Product]:
        """The file of the examples."""
        return (Product(self.model, self.statistics.layer, self.key, "examples"),)

    def request(self) -> dict[str, Any]:
        """Return the layer and its channels, as plain data."""
        return {"layer": self.statistics.layer, "targets": list(self.targets)}

    def __str__(self) -> str:
        first, last = self.targets[0], self.targets[-1]
        return f"{self.model}/{self.statistics.layer} examples of channels {first}-{last}"


@dataclass(frozen=True)
class Judging:
    """A task: the features that the images of a shard have in the judge of the sweep."""

    judge: LayerStatistics
    shard: Shard

    @property
    def model(self) -> str:
        """Label of the model that the images were made for."""
        return self.shard.model

    @property
    def units(self) -> int:
        """Number of jobs."""
        return self.shard.units

    @cached_property
    def key(self) -> str:
        """SHA-256 of the shard and of the judge: its network, layer and input size."""
        judge = {name: self.judge.identity[name] for name in _OF_FIELDS}
        return digest({"shard": self.shard.key, "judge": judge})

    @property
    def products(self) -> tuple[Product]:
        """The file of the features."""
        return (Product(self.model, self.shard.series.layer, self.key, "judged"),)

    def request(self) -> dict[str, Any]:
        """Return layer, seed and targets, as of the shard."""
        return self.shard.request()

    def __str__(self) -> str:
        return f"{self.shard}, judged"


def judge_of(plan: Plan) -> LayerStatistics | None:
    """Return the dataset statistics of the judge's layer, if the sweep has a judge."""
    if plan.judge is None or plan.dataset_plan is None:
        return None
    return statistics_of(plan.judge, plan.judge.layers[0].info.name, plan.dataset_plan)


def judgings_of(plan: Plan, model: ModelPlan, layer: LayerPlan) -> Iterator[Judging]:
    """Yield the tasks of judging the images of a layer, seed by seed; none without a judge."""
    judge = judge_of(plan)
    if judge is None or not plan.is_judged(model):
        return
    for seed in plan.seeds:
        for shard in plan.layer_shards(model, layer, seed):
            yield Judging(judge, shard)


def statistics_of(model: ModelPlan, layer: str, plan: DatasetPlan) -> LayerStatistics:
    """Return the dataset statistics of one layer of a model: samples where it is to be mapped."""
    info = next(known.info for known in model.layers if known.info.name == layer)
    where = (model.label, model.network, info, model.dataset_image_size, plan)
    kept, objective = model.recipe.keep_prefix_tokens, model.recipe.objective
    if isinstance(objective, ActivationAtlasObjective):
        return LayerSamples(*where, keep_prefix_tokens=kept, objective=objective)
    return LayerStatistics(*where, keep_prefix_tokens=kept, has_fields=not model.is_judge)


def all_statistics(model: ModelPlan, plan: DatasetPlan) -> tuple[LayerStatistics, ...]:
    """Return the dataset statistics of a model's selected layers."""
    return tuple(statistics_of(model, layer.info.name, plan) for layer in model.layers)


def blocks_of(
    layer_statistics: tuple[LayerStatistics, ...], listing: Listing
) -> Iterator[StatisticsBlock]:
    """Yield all blocks of a model's dataset statistics, in the order of the listing."""
    size = layer_statistics[0].plan.block
    for start in range(0, listing.count, size):
        stop = min(start + size, listing.count)
        yield StatisticsBlock(start, stop, listing.digest_of(start, stop), layer_statistics)


def examples_of(plan: Plan, dataset_plan: DatasetPlan) -> Iterator[Examples]:
    """Yield the tasks of examples of every selected channel, layer by layer."""
    for model in plan.models:
        if model.recipe.objective.of_dataset:
            continue  # cells are no channels, and keep their members' pictures with the samples
        for layer, statistics in zip(
            model.layers, all_statistics(model, dataset_plan), strict=True
        ):
            yield from examples_of_layer(statistics, layer, plan.shard_size)


def examples_of_layer(
    statistics: LayerStatistics, layer: LayerPlan, shard_size: int
) -> Iterator[Examples]:
    """Yield the tasks of examples of a layer's selected channels."""
    if statistics.plan.examples:
        # Also bounded by the shard size, like the tasks that optimize images.
        size = min(shard_size, _MOST_CHANNELS)
        for start in range(0, len(layer.targets), size):
            channels = tuple(layer.targets[start : start + size])
            yield Examples(statistics, channels, statistics.plan.saliency)


def restricted(block: StatisticsBlock, missing: Iterable[Product]) -> StatisticsBlock:
    """Restrict a block to the layers whose files are missing."""
    incomplete = {product.layer for product in missing}
    return replace(
        block, layer_statistics=tuple(s for s in block.layer_statistics if s.layer in incomplete)
    )
