"""The stages of a sweep: kinds of tasks, in the order in which they build on each other.

Dataset statistics come first, then images, which may start from dataset images, then examples.
Each stage knows which of its tasks are missing, how long they take, and what a worker needs.
"""

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from layer_atlas.atlas.gather import LayerView, layer_views
from layer_atlas.config.config import Config
from layer_atlas.config.recipe import Recipe
from layer_atlas.config.records import plain
from layer_atlas.datasets.activation_map import SampleReader, make_map
from layer_atlas.datasets.sources import Listing
from layer_atlas.datasets.statistics_files import merge_statistics, read_evidence
from layer_atlas.datasets.tasks import (
    Examples,
    Judging,
    LayerSamples,
    LayerStatistics,
    StatisticsBlock,
    all_statistics,
    blocks_of,
    examples_of,
    judge_of,
    judgings_of,
    restricted,
    statistics_of,
)
from layer_atlas.logs import step
from layer_atlas.plan.jobs import Shard, Task
from layer_atlas.plan.plan import (
    READING_SECONDS,
    DatasetPlan,
    LayerPlan,
    ModelPlan,
    Plan,
    dataset_image_seconds,
    flops_per_job,
    flops_per_second,
)
from layer_atlas.store.connections import LayerConnections, all_connections
from layer_atlas.store.files import CorruptFile
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.resume import DoneIndex
from layer_atlas.sweep.gpus import DeviceHealth

logger = logging.getLogger(__name__)

SET_UP_SECONDS = 2.0
"""Approximate time until a worker has traced the network up to a layer and tried out batches."""


class ShardIndex:
    """Finds the shards of a plan in the store; searches again only after files came or went.

    A sweep asks before it begins, in each of its rounds, and before it collates. Deriving the file
    names of ten million jobs takes seconds, listing them a tenth of one.
    """

    def __init__(self, folder: OutputFolder, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self._listing: dict[str, frozenset[str]] | None = None
        self._views: list[LayerView] = []

    def views(self) -> list[LayerView]:
        """A view of every layer of the plan."""
        # Failures as well: a shard in quarantine counts as given up in a view.
        listing = {
            parent: frozenset(names)
            for root in (self.folder.store, self.folder.failures)
            for parent, _, names in os.walk(root)
        }
        if listing != self._listing:
            self._listing, self._views = listing, list(layer_views(self.folder, self.plan))
        return self._views

    def missing(self) -> list[Shard]:
        """The shards that are not done, in plan order."""
        return [shard for view in self.views() for _, shard in view.left()]


@dataclass(frozen=True)
class Sweep:
    """A plan, how to run it, and where."""

    config: Config
    plan: Plan
    folder: OutputFolder
    devices: Sequence[str]
    health: DeviceHealth = field(default_factory=DeviceHealth)

    @property
    def usable_devices(self) -> list[str]:
        """The devices that have not turned out to be broken."""
        return [device for device in self.devices if device not in self.health.excluded]

    def model(self, label: str) -> ModelPlan:
        """The plan of a model."""
        return next(model for model in self.plan.dataset_models if model.label == label)

    @cached_property
    def shard_index(self) -> ShardIndex:
        """The index of the store."""
        return ShardIndex(self.folder, self.plan)

    def has_finished(self, statistics: LayerStatistics) -> bool:
        """Whether the statistics of a layer are there and sound; else they are merged again."""
        if statistics not in self._finished:
            try:
                # Reading checks the digest of a large file, so it is done once.
                read_evidence(self.folder, statistics)
                self._finished.add(statistics)
            except FileNotFoundError:
                return False
            except CorruptFile as error:
                logger.warning("corrupt file set aside, to be computed again: %s", error)
                return False
        return True

    @cached_property
    def _finished(self) -> set[LayerStatistics]:
        return set()

    @cached_property
    def flops_per_second(self) -> float:
        """Estimated speed of one worker."""
        return flops_per_second(self.devices)

    def seconds_by_layer(
        self, flops: Callable[[LayerPlan, Recipe], float]
    ) -> dict[tuple[str, str], float]:
        """Estimated seconds for some FLOPs per layer, by model label and layer name."""
        return {
            (model.label, layer.info.name): flops(layer, model.recipe) / self.flops_per_second
            for model in self.plan.models
            for layer in model.layers
        }

    def bundle(self, kind: str, tasks: Sequence[Task]) -> dict[str, Any]:
        """Write tasks of one model as a bundle: plain data, with the layers that they need."""
        model = self.model(tasks[0].model)
        wanted = {product.layer for task in tasks for product in task.products}
        # Each request names its targets; those of whole layers may be millions.
        layers = tuple(
            replace(layer, targets=(), space=None)
            for layer in model.layers
            if layer.info.name in wanted
        )
        judge = [self.config.judge] if self.config.judge else []
        configs = {config.title: config for config in (*self.config.models, *judge)}
        labels = replace(model, layers=layers).networks
        kinds = {device.partition(":")[0] for device in self.devices}
        return {
            "kind": kind,
            "device": kinds.pop() if len(kinds) == 1 else "",
            "models": [plain(configs[label]) for label in labels],
            "plan": plain(replace(model, layers=layers)),
            "dataset_plan": plain(self.plan.dataset_plan),
            "dataset": plain(self.config.dataset),
            "requests": [task.request() for task in tasks],
        }


@dataclass(frozen=True)
class Finished:
    """The result of merging the finished tasks of a stage."""

    made: int = 0
    """Number of files made."""
    corrupt: tuple[Path, ...] = ()
    """Corrupt files that were set aside, to be computed again."""


class Stage(ABC):
    """One kind of tasks."""

    name: str
    kind: str
    """The kind of its bundles."""
    unit: str
    """What `total` counts, for people."""
    total: int
    """Number of units, done or not."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep

    @abstractmethod
    def missing(self) -> list[Any]:
        """The tasks that are not done and can begin."""

    @abstractmethod
    def seconds(self, task: Any) -> float:
        """Estimated seconds that a worker takes for a task; good enough to pack bundles."""

    def can_begin(self, task: Any) -> bool:
        """Whether what a task reads is still there; a worker may have set a corrupt file aside."""
        return True

    def costs(self, tasks: Sequence[Any]) -> list[float]:
        """Estimated seconds of each of a worker's tasks, which it does one after the other."""
        return [self.seconds(task) for task in tasks]

    def bundle(self, tasks: Sequence[Any]) -> dict[str, Any]:
        """The bundle file of tasks of one model: plain data."""
        return self.sweep.bundle(self.kind, tasks)

    def finish(self) -> Finished:
        """Merge what is done; by default collation does that."""
        return Finished()


def stages(sweep: Sweep) -> list[Stage]:
    """The stages of a sweep, in order."""
    dataset_plan, connected = sweep.plan.dataset_plan, all_connections(sweep.plan)
    weights = [ConnectionsStage(sweep, connected)] if connected else []
    if dataset_plan is None:
        return [OptimizationStage(sweep), *weights]
    return [
        StatisticsStage(sweep, dataset_plan),
        OptimizationStage(sweep),
        *weights,
        ExamplesStage(sweep, dataset_plan),
        *([JudgeStage(sweep, judge)] if (judge := judge_of(sweep.plan)) else []),
    ]


class OptimizationStage(Stage):
    """Images are optimized, shard by shard."""

    name, kind, unit = "optimization", "optimize", "channels"

    def __init__(self, sweep: Sweep) -> None:
        super().__init__(sweep)
        self.total = sweep.plan.n_jobs

    def missing(self) -> list[Shard]:
        """The shards that are not done; without those whose dataset images are not known yet."""
        return [shard for shard in self.sweep.shard_index.missing() if self._may_begin(shard)]

    def seconds(self, task: Shard) -> float:
        """Estimate by FLOPs."""
        return self._job_seconds[task.model, task.series.layer] * task.units

    def costs(self, tasks: Sequence[Shard]) -> list[float]:
        """Add the time to set up a layer to its first shard."""
        layers = [task.series.layer for task in tasks]
        return [
            self.seconds(task) + (SET_UP_SECONDS if layer != before else 0.0)
            for task, layer, before in zip(tasks, layers, ["", *layers], strict=False)
        ]

    def bundle(self, tasks: Sequence[Shard]) -> dict[str, Any]:
        """Add the batch size."""
        return {**super().bundle(tasks), "batch_size": self.sweep.config.batch_size}

    def _may_begin(self, shard: Shard) -> bool:
        dataset_plan = self.sweep.plan.dataset_plan
        if dataset_plan is None or not shard.series.recipe.dataset_images_used:
            return True
        # An image is made from the top dataset images of its channel.
        model = self.sweep.model(shard.model)
        return self.sweep.has_finished(statistics_of(model, shard.series.layer, dataset_plan))

    @cached_property
    def _job_seconds(self) -> dict[tuple[str, str], float]:
        return self.sweep.seconds_by_layer(flops_per_job)


class StatisticsStage(Stage):
    """Every dataset image is shown to all layers, block by block."""

    name, kind, unit = "dataset statistics", "statistics", "photographs"

    def __init__(self, sweep: Sweep, dataset_plan: DatasetPlan) -> None:
        super().__init__(sweep)
        self.dataset_plan = dataset_plan
        if sweep.plan.models[0].recipe.objective.of_dataset:
            self.name = "activation samples"
        networks = len(sweep.plan.dataset_models)
        self.total = dataset_plan.count * networks
        if networks > 1:
            self.unit = f"photographs, {dataset_plan.count} for each of {networks} networks"

    def missing(self) -> list[StatisticsBlock]:
        """The missing blocks, each restricted to the layers that lack it."""
        found = []
        for statistics in self._unfinished():
            for block in blocks_of(statistics, self._listing):
                # A layer that was added later lacks blocks that others have.
                exists = {p: self.sweep.folder.exists(p) for p in block.products}
                if not all(exists.values()):
                    found.append(restricted(block, [p for p in exists if not exists[p]]))
        return found

    def finish(self) -> Finished:
        """Merge the statistics of layers whose blocks are all there. Raises StorageError."""
        made, corrupt = 0, []
        for statistics in self._unfinished():
            # Listed once for all layers: hashing the names of a million images takes seconds.
            blocks = list(blocks_of(statistics, self._listing))
            for layer in statistics:
                if isinstance(layer, LayerSamples):
                    with step(f"mapping {layer.model}/{layer.layer}"):
                        corrupt += make_map(SampleReader(self.sweep.folder, layer, blocks))
                else:
                    corrupt += merge_statistics(self.sweep.folder, layer, blocks)
                made += self.sweep.folder.exists(layer.product)
        return Finished(made, tuple(corrupt))

    def seconds(self, task: StatisticsBlock) -> float:
        """Estimate by the FLOPs of the deepest layer, and reading."""
        model = self.sweep.model(task.model)
        flops = float(max(layer.info.flops_before for layer in model.layers))
        for samples in task.layer_statistics:
            if isinstance(samples, LayerSamples) and samples.objective.labels:
                flops += 2 * samples.info.flops / max(samples.info.flops_share, 1e-9)
        return dataset_image_seconds(flops, self.sweep.flops_per_second) * task.units

    def _unfinished(self) -> Iterator[tuple[LayerStatistics, ...]]:
        """The layers without merged statistics or receptive fields, model by model."""
        exists = self.sweep.folder.exists
        for model in self.sweep.plan.dataset_models:
            statistics = all_statistics(model, self.dataset_plan)
            left = tuple(s for s in statistics if not all(map(exists, s.products)))
            if left:
                yield left

    @cached_property
    def _listing(self) -> Listing:
        return Listing(self.sweep.folder.listing(self.dataset_plan.listing))


class ConnectionsStage(Stage):
    """The weights between the layers of each network are computed, layer by layer."""

    name, kind, unit = "connections", "connections", "channels"

    def __init__(self, sweep: Sweep, tasks: Sequence[LayerConnections]) -> None:
        super().__init__(sweep)
        self.tasks, self.total = tasks, sum(task.units for task in tasks)

    def missing(self) -> list[LayerConnections]:
        """The layers without a file of weights."""
        return [task for task in self.tasks if not self.sweep.folder.is_done(task)]

    def seconds(self, task: LayerConnections) -> float:
        """Estimate by FLOPs: a backward pass of the layer for each channel."""
        return task.units * task.info.flops / self.sweep.flops_per_second

    def bundle(self, tasks: Sequence[LayerConnections]) -> dict[str, Any]:
        """Bundle all layers of the model, as any of them may lie before those of the tasks."""
        model = self.sweep.model(tasks[0].model)
        layers = tuple(replace(layer, targets=(), space=None) for layer in model.layers)
        plan, most = plain(replace(model, layers=layers)), self.sweep.plan.connections
        return {**super().bundle(tasks), "plan": plan, "most": most}


class ExamplesStage(Stage):
    """The top dataset images of every channel are cut to the view, with saliency maps."""

    name, kind, unit = "examples", "examples", "channels"

    def __init__(self, sweep: Sweep, dataset_plan: DatasetPlan) -> None:
        super().__init__(sweep)
        self.dataset_plan = dataset_plan
        layers = (layer for model in sweep.plan.models for layer in model.layers)
        self.total = sum(len(layer.targets) for layer in layers)

    def missing(self) -> list[Examples]:
        """The missing examples of layers with finished statistics."""
        tasks = examples_of(self.sweep.plan, self.dataset_plan)
        # Done first: whether statistics are finished takes longer to find out.
        left = [task for task in tasks if not self.sweep.folder.is_done(task)]
        return [task for task in left if self.sweep.has_finished(task.statistics)]

    def seconds(self, task: Examples) -> float:
        """Estimate by reading and maps; a saliency map costs about as much as a few steps."""
        reading = 2 * self.dataset_plan.examples * READING_SECONDS
        return (reading + self._map_seconds[task.model, task.statistics.layer]) * task.units

    @cached_property
    def _map_seconds(self) -> dict[tuple[str, str], float]:
        # There and back for saliency, there for activation maps.
        passes = 2.0 * maps_per_channel(self.dataset_plan) + self.dataset_plan.examples
        return self.sweep.seconds_by_layer(lambda layer, recipe: passes * layer.info.flops_before)


class JudgeStage(Stage):
    """The judge of the sweep sees every finished image."""

    name, kind, unit = "judging", "judge", "channels"

    def __init__(self, sweep: Sweep, judge: LayerStatistics) -> None:
        super().__init__(sweep)
        self.judge = judge
        judged = [model for model in sweep.plan.models if sweep.plan.is_judged(model)]
        channels = sum(len(layer.targets) for model in judged for layer in model.layers)
        self.total = channels * len(sweep.plan.seeds)

    def missing(self) -> list[Judging]:
        """The shards whose images all exist and are not judged."""
        # What is left of a shard may be a part of it, so targets are compared, not keys.
        unmade: dict[str, set[int]] = {}
        for shard in self.sweep.shard_index.missing():
            unmade.setdefault(shard.series.key, set()).update(shard.targets)
        plan, nothing = self.sweep.plan, set[int]()
        return [
            task
            for model in plan.models
            for layer in model.layers
            for task in judgings_of(plan, model, layer)
            if unmade.get(task.shard.series.key, nothing).isdisjoint(task.shard.targets)
            and not self.sweep.folder.is_done(task)
        ]

    def can_begin(self, task: Judging) -> bool:
        """Whether the images of the shard exist."""
        index = DoneIndex(self.sweep.folder, self.sweep.plan.environments)
        return not any(index.missing([task.shard]))

    def seconds(self, task: Judging) -> float:
        """Estimate by FLOPs."""
        return task.units * self.judge.info.flops_before / self.sweep.flops_per_second

    def bundle(self, tasks: Sequence[Judging]) -> dict[str, Any]:
        """Bundle the judge, with the model that the images were made for as its subject."""
        judge = self.sweep.config.judge
        assert judge is not None
        subject = super().bundle(tasks)
        plan = plain(self.sweep.plan.judge)
        return {**subject, "models": [plain(judge)], "plan": plan, "judged": subject["plan"]}


def maps_per_channel(dataset_plan: DatasetPlan) -> int:
    """Number of gradients that the saliency maps of a channel take."""
    settings = dataset_plan.saliency
    if settings is None:
        return 0
    return settings.dataset_images * getattr(settings, "samples", getattr(settings, "steps", 1))
