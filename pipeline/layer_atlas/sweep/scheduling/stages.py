"""The stages of a sweep: kinds of tasks, in the order in which they build on each other.

Photographs are studied, then images are made, then examples are picked. Each stage says what is
missing of it, how long that takes, and what a worker must be told to do it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from layer_atlas.config.config import Config
from layer_atlas.config.recipe import Recipe
from layer_atlas.config.records import plain
from layer_atlas.datasets.listing import Listing
from layer_atlas.datasets.statistics_files import merge_study, read_findings
from layer_atlas.datasets.tasks import (
    Examples,
    Study,
    StudyBlock,
    blocks_of,
    examples_of,
    restricted,
    studies_of,
    study_of,
)
from layer_atlas.errors import tell
from layer_atlas.plan.jobs import Shard, Task
from layer_atlas.plan.plan import (
    READING_SECONDS,
    LayerPlan,
    ModelPlan,
    Plan,
    StudyPlan,
    flops_per_job,
    flops_per_second,
    photograph_seconds,
)
from layer_atlas.store.checksummed_file import CorruptFile
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.scheduling.shard_index import Stock


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
    def stock(self) -> Stock:
        """What is there."""
        return Stock(self.folder, self.plan)

    def has_finished(self, study: Study) -> bool:
        """Whether what a study found is there and sound; else it is to be put together again."""
        if study not in self._finished:
            try:
                read_findings(self.folder, study)
                self._finished.add(study)
            except FileNotFoundError:
                return False
            except CorruptFile as error:
                tell(f"corrupt file set aside, to be computed again: {error}")
                return False
        return True

    @cached_property
    def _finished(self) -> set[Study]:
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
            replace(layer, channels=(), targets=None)
            for layer in model.layers
            if layer.info.name in wanted
        )
        configs = {config.title: config for config in self.config.models}
        labels = replace(model, layers=layers).networks
        return {
            "kind": kind,
            "models": [plain(configs[label]) for label in labels],
            "plan": plain(replace(model, layers=layers)),
            "study": plain(self.plan.study),
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
    study = sweep.plan.study
    if study is None:
        return [AscentStage(sweep)]
    return [StudyStage(sweep, study), AscentStage(sweep), ExamplesStage(sweep, study)]


class AscentStage:
    """Images are made."""

    name, unit = "making", "channels"

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.total = sweep, sweep.plan.n_jobs

    def missing(self) -> list[Shard]:
        """The shards that are not done; of layers whose photographs are needed, if these are."""
        return [shard for shard in self.sweep.stock.missing() if self._may_begin(shard)]

    def finish(self) -> Finished:
        """Collation puts shards together."""
        return Finished()

    def seconds(self, task: Shard) -> float:
        """By FLOPs."""
        return self._job_seconds[task.model, task.series.layer] * task.units

    def bundle(self, tasks: Sequence[Shard]) -> dict[str, Any]:
        """Shards of one model."""
        return {**self.sweep.bundle("ascend", tasks), "batch_size": self.sweep.config.batch_size}

    def _may_begin(self, shard: Shard) -> bool:
        study = self.sweep.plan.study
        if study is None or shard.series.recipe.init.name != "dataset":
            return True
        model = self.sweep.model(shard.model)
        return self.sweep.has_finished(study_of(model, shard.series.layer, study))

    @cached_property
    def _job_seconds(self) -> dict[tuple[str, str], float]:
        return self.sweep.seconds_by_layer(flops_per_job)


class StudyStage:
    """Photographs are shown to all wanted layers."""

    name, unit = "studying", "photographs"

    def __init__(self, sweep: Sweep, study: StudyPlan) -> None:
        self.sweep, self.study = sweep, study
        self.total = study.count * len(sweep.plan.models)

    def missing(self) -> list[StudyBlock]:
        """The blocks of unfinished studies that are not done."""
        found = []
        for studies in self._unfinished():
            for block in blocks_of(studies, self._listing):
                exists = {p: self.sweep.folder.exists(p) for p in block.products}
                if not all(exists.values()):
                    found.append(restricted(block, [p for p in exists if not exists[p]]))
        return found

    def finish(self) -> Finished:
        """Merge the studies whose blocks are all there. Raises StorageError."""
        made, corrupt = 0, []
        for studies in self._unfinished():
            # Listed once for all layers: the digests of a million photographs take seconds.
            blocks = list(blocks_of(studies, self._listing))
            for study in studies:
                corrupt += merge_study(self.sweep.folder, study, blocks)
                made += self.sweep.folder.exists(study.product)
        return Finished(made, tuple(corrupt))

    def seconds(self, task: StudyBlock) -> float:
        """By FLOPs of the deepest layer, and reading."""
        model = self.sweep.model(task.model)
        flops = max(layer.info.flops_before for layer in model.layers)
        return photograph_seconds(flops, self.sweep.flops_per_second) * task.units

    def bundle(self, tasks: Sequence[StudyBlock]) -> dict[str, Any]:
        """Blocks for one model."""
        return self.sweep.bundle("study", tasks)

    def _unfinished(self) -> Iterator[tuple[Study, ...]]:
        """The studies that are not merged, or lack their receptive fields, model by model."""
        exists = self.sweep.folder.exists
        for model in self.sweep.plan.models:
            studies = studies_of(model, self.study)
            left = tuple(s for s in studies if not (exists(s.product) and exists(s.field)))
            if left:
                yield left

    @cached_property
    def _listing(self) -> Listing:
        return Listing(self.sweep.folder.listing(self.study.listing))


class ExamplesStage:
    """Each channel's photographs are picked, cut to the view, and mapped."""

    name, unit = "picking examples", "channels"

    def __init__(self, sweep: Sweep, study: StudyPlan) -> None:
        self.sweep, self.study = sweep, study
        layers = (layer for model in sweep.plan.models for layer in model.layers)
        self.total = sum(len(layer.channels) for layer in layers)

    def missing(self) -> list[Examples]:
        """The examples of finished studies that are not done."""
        tasks = examples_of(self.sweep.plan, self.study)
        left = [task for task in tasks if not self.sweep.folder.is_done(task)]
        return [task for task in left if self.sweep.has_finished(task.study)]

    def finish(self) -> Finished:
        """Collation puts examples together."""
        return Finished()

    def seconds(self, task: Examples) -> float:
        """Mostly reading; a map costs about as much as a few steps of ascent."""
        reading = 2 * self.study.examples * READING_SECONDS
        return (reading + self._map_seconds[task.model, task.study.layer]) * task.units

    def bundle(self, tasks: Sequence[Examples]) -> dict[str, Any]:
        """Examples of one model's channels."""
        return self.sweep.bundle("illustrate", tasks)

    @cached_property
    def _map_seconds(self) -> dict[tuple[str, str], float]:
        passes = 2.0 * maps_per_channel(self.study)
        return self.sweep.seconds_by_layer(lambda layer, recipe: passes * layer.info.flops_before)


def maps_per_channel(study: StudyPlan) -> int:
    """How many gradients the saliency maps of a channel take."""
    settings = study.saliency
    if settings is None:
        return 0
    return settings.photographs * getattr(settings, "samples", getattr(settings, "steps", 1))
