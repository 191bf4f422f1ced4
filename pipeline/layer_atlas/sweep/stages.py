"""The stages of a sweep: kinds of tasks, in the order in which they build on each other.

Photographs are studied, then images are made, then examples are picked. Each stage says what is
missing of it, how long that takes, and what a worker must be told to do it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from layer_atlas.atlas.gather import LayerView, layer_views
from layer_atlas.config.config import Config
from layer_atlas.config.recipe import Recipe
from layer_atlas.config.records import plain
from layer_atlas.datasets.listing import Listing
from layer_atlas.datasets.statistics_files import merge_statistics, read_evidence
from layer_atlas.datasets.tasks import (
    Examples,
    LayerStatistics,
    StatisticsBlock,
    all_statistics,
    blocks_of,
    examples_of,
    restricted,
    statistics_of,
)
from layer_atlas.errors import tell
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
from layer_atlas.store.checksummed_file import CorruptFile
from layer_atlas.store.folder import OutputFolder


class ShardIndex:
    """Looks through a store for the shards of a plan, and again only after files came or went.

    A sweep asks before it begins, in each of its rounds, and before it collates. It takes seconds
    to work out what the files of ten million jobs are called, and a tenth of one to list them.
    """

    def __init__(self, folder: OutputFolder, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self._there: dict[str, frozenset[str]] | None = None
        self._views: list[LayerView] = []

    def views(self) -> list[LayerView]:
        """A view of every layer of the plan."""
        there = {
            place: frozenset(names)
            for root in (self.folder.store, self.folder.failures)
            for place, _, names in os.walk(root)
        }
        if there != self._there:
            self._there, self._views = there, list(layer_views(self.folder, self.plan))
        return self._views

    def missing(self) -> list[Shard]:
        """What is left to make, in the order of the plan."""
        return [shard for view in self.views() for _, shard in view.left()]


@dataclass(frozen=True)
class Sweep:
    """A plan, how to run it, and where."""

    config: Config
    plan: Plan
    folder: OutputFolder
    devices: Sequence[str]

    def model(self, label: str) -> ModelPlan:
        """What is wanted of a model."""
        return next(model for model in self.plan.models if model.label == label)

    @cached_property
    def shard_index(self) -> ShardIndex:
        """What is there."""
        return ShardIndex(self.folder, self.plan)

    def has_finished(self, dataset_stats: LayerStatistics) -> bool:
        """Whether what a study found is there and sound; else it is to be put together again."""
        if dataset_stats not in self._finished:
            try:
                read_evidence(self.folder, dataset_stats)
                self._finished.add(dataset_stats)
            except FileNotFoundError:
                return False
            except CorruptFile as error:
                tell(f"corrupt file set aside, to be computed again: {error}")
                return False
        return True

    @cached_property
    def _finished(self) -> set[LayerStatistics]:
        return set()

    @cached_property
    def flops_per_second(self) -> float:
        """A guess at one worker's speed."""
        return flops_per_second(self.devices)

    def seconds_by_layer(
        self, flops: Callable[[LayerPlan, Recipe], float]
    ) -> dict[tuple[str, str], float]:
        """What so many FLOPs take a worker, by labels of models and names of layers."""
        return {
            (model.label, layer.info.name): flops(layer, model.recipe) / self.flops_per_second
            for model in self.plan.models
            for layer in model.layers
        }

    def bundle(self, kind: str, tasks: Sequence[Task]) -> dict[str, Any]:
        """What every bundle tells: the model, and of its layers those that the tasks need."""
        model = self.model(tasks[0].model)
        wanted = {product.layer for task in tasks for product in task.products}
        layers = tuple(
            replace(layer, targets=(), space=None)
            for layer in model.layers
            if layer.info.name in wanted
        )
        configs = {config.title: config for config in self.config.models}
        labels = replace(model, layers=layers).networks
        return {
            "kind": kind,
            "models": [plain(configs[label]) for label in labels],
            "plan": plain(replace(model, layers=layers)),
            "dataset_plan": plain(self.plan.dataset_plan),
            "dataset": plain(self.config.dataset),
            "requests": [task.request() for task in tasks],
        }


@dataclass(frozen=True)
class Finished:
    """What became of putting together what is done."""

    made: int = 0
    """So many files were."""
    corrupt: tuple[Path, ...] = ()
    """Files that were set aside, to be made again."""


class Stage(Protocol):
    """One kind of tasks; also tells the scheduler what it must know of them."""

    name: str
    unit: str
    """What is counted."""

    @property
    def total(self) -> int:
        """How many units there are altogether."""
        ...

    def missing(self) -> list[Any]:
        """The tasks that are not done."""
        ...

    def finish(self) -> "Finished":
        """Put together what is done."""
        ...

    def seconds(self, task: Any) -> float:
        """About how long a worker takes for a task."""
        ...

    def bundle(self, tasks: Sequence[Any]) -> dict[str, Any]:
        """What a worker is told."""
        ...


def stages(sweep: Sweep) -> list[Stage]:
    """The stages of a sweep, in order."""
    dataset_stats = sweep.plan.dataset_plan
    if dataset_stats is None:
        return [OptimizationStage(sweep)]
    return [
        StatisticsStage(sweep, dataset_stats),
        OptimizationStage(sweep),
        ExamplesStage(sweep, dataset_stats),
    ]


class OptimizationStage:
    """Images are made."""

    name, unit = "making", "channels"

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.total = sweep, sweep.plan.n_jobs

    def missing(self) -> list[Shard]:
        """The shards that are not done; of layers whose photographs are needed, if these are."""
        return [shard for shard in self.sweep.shard_index.missing() if self._may_begin(shard)]

    def finish(self) -> Finished:
        """Collation puts shards together."""
        return Finished()

    def seconds(self, task: Shard) -> float:
        """By FLOPs."""
        return self._job_seconds[task.model, task.series.layer] * task.units

    def bundle(self, tasks: Sequence[Shard]) -> dict[str, Any]:
        """Shards of one model."""
        return {**self.sweep.bundle("optimize", tasks), "batch_size": self.sweep.config.batch_size}

    def _may_begin(self, shard: Shard) -> bool:
        dataset_stats = self.sweep.plan.dataset_plan
        if dataset_stats is None or shard.series.recipe.init.name != "dataset":
            return True
        model = self.sweep.model(shard.model)
        return self.sweep.has_finished(statistics_of(model, shard.series.layer, dataset_stats))

    @cached_property
    def _job_seconds(self) -> dict[tuple[str, str], float]:
        return self.sweep.seconds_by_layer(flops_per_job)


class StatisticsStage:
    """Photographs are shown to all wanted layers."""

    name, unit = "studying", "photographs"

    def __init__(self, sweep: Sweep, dataset_stats: DatasetPlan) -> None:
        self.sweep, self.dataset_stats = sweep, dataset_stats
        self.total = dataset_stats.count * len(sweep.plan.models)

    def missing(self) -> list[StatisticsBlock]:
        """The blocks of unfinished studies that are not done."""
        found = []
        for statistics_tasks in self._unfinished():
            for block in blocks_of(statistics_tasks, self._listing):
                exists = {p: self.sweep.folder.exists(p) for p in block.products}
                if not all(exists.values()):
                    found.append(restricted(block, [p for p in exists if not exists[p]]))
        return found

    def finish(self) -> Finished:
        """Merge the studies whose blocks are all there. Raises StorageError."""
        made, corrupt = 0, []
        for statistics_tasks in self._unfinished():
            # Listed once for all layers: the digests of a million photographs take seconds.
            blocks = list(blocks_of(statistics_tasks, self._listing))
            for dataset_stats in statistics_tasks:
                corrupt += merge_statistics(self.sweep.folder, dataset_stats, blocks)
                made += self.sweep.folder.exists(dataset_stats.product)
        return Finished(made, tuple(corrupt))

    def seconds(self, task: StatisticsBlock) -> float:
        """By FLOPs of the deepest layer, and reading."""
        model = self.sweep.model(task.model)
        flops = max(layer.info.flops_before for layer in model.layers)
        return dataset_image_seconds(flops, self.sweep.flops_per_second) * task.units

    def bundle(self, tasks: Sequence[StatisticsBlock]) -> dict[str, Any]:
        """Blocks for one model."""
        return self.sweep.bundle("statistics", tasks)

    def _unfinished(self) -> Iterator[tuple[LayerStatistics, ...]]:
        """The studies that are not merged, or lack their receptive fields, model by model."""
        exists = self.sweep.folder.exists
        for model in self.sweep.plan.models:
            statistics_tasks = all_statistics(model, self.dataset_stats)
            left = tuple(s for s in statistics_tasks if not (exists(s.product) and exists(s.field)))
            if left:
                yield left

    @cached_property
    def _listing(self) -> Listing:
        return Listing(self.sweep.folder.listing(self.dataset_stats.listing))


class ExamplesStage:
    """Each channel's photographs are picked, cut to the view, and mapped."""

    name, unit = "picking examples", "channels"

    def __init__(self, sweep: Sweep, dataset_stats: DatasetPlan) -> None:
        self.sweep, self.dataset_stats = sweep, dataset_stats
        layers = (layer for model in sweep.plan.models for layer in model.layers)
        self.total = sum(len(layer.targets) for layer in layers)

    def missing(self) -> list[Examples]:
        """The examples of finished studies that are not done."""
        tasks = examples_of(self.sweep.plan, self.dataset_stats)
        left = [task for task in tasks if not self.sweep.folder.is_done(task)]
        return [task for task in left if self.sweep.has_finished(task.dataset_stats)]

    def finish(self) -> Finished:
        """Collation puts examples together."""
        return Finished()

    def seconds(self, task: Examples) -> float:
        """Mostly reading; a map costs about as much as a few steps of ascent."""
        reading = 2 * self.dataset_stats.examples * READING_SECONDS
        return (reading + self._map_seconds[task.model, task.dataset_stats.layer]) * task.units

    def bundle(self, tasks: Sequence[Examples]) -> dict[str, Any]:
        """Examples of one model's channels."""
        return self.sweep.bundle("examples", tasks)

    @cached_property
    def _map_seconds(self) -> dict[tuple[str, str], float]:
        passes = 2.0 * maps_per_channel(self.dataset_stats)
        return self.sweep.seconds_by_layer(lambda layer, recipe: passes * layer.info.flops_before)


def maps_per_channel(dataset_stats: DatasetPlan) -> int:
    """How many gradients the saliency maps of a channel take."""
    settings = dataset_stats.saliency
    if settings is None:
        return 0
    return settings.dataset_images * getattr(settings, "samples", getattr(settings, "steps", 1))
