"""Committed jobs of a layer: where they are, and reading them one shard file at a time."""

from collections import Counter
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.datasets.statistics_files import (
    DatasetEvidence,
    read_evidence,
    read_examples,
    read_features,
)
from layer_atlas.datasets.tasks import (
    Examples,
    LayerSamples,
    LayerStatistics,
    examples_of_layer,
    judge_of,
    judgings_of,
    statistics_of,
)
from layer_atlas.plan.environment import Environment
from layer_atlas.plan.jobs import FATES, STATUS, Shard, Task
from layer_atlas.plan.plan import LayerPlan, ModelPlan, Plan
from layer_atlas.store.connections import (
    Connections,
    LayerConnections,
    connections_of,
    read_connections,
)
from layer_atlas.store.files import Arrays, ArraySpec, CorruptFile, set_aside
from layer_atlas.store.folder import OutputFolder, safe_name
from layer_atlas.store.quarantine import quarantined, read_failures
from layer_atlas.store.resume import DoneIndex, without
from layer_atlas.store.shards import ShardFile, job_specs, read_environment, read_shard

Located = tuple[int, Shard, dict[Path, tuple[int, ...]]]
"""A seed's index, a shard of that seed, and the files that hold its targets."""


@dataclass(frozen=True)
class StoredJobs:
    """Some jobs of a layer, read from one shard file."""

    rows: NDArray[np.intp]
    """Rows of the jobs in arrays of the layer."""
    seed_index: int
    arrays: Arrays
    """Arrays with a row per job, images included."""
    facts: dict[str, Any]
    """How the jobs were made."""


@dataclass
class LayerView:
    """The jobs of one layer of a plan, with the files that hold them."""

    folder: OutputFolder
    plan: Plan
    model: ModelPlan
    layer: LayerPlan
    index: DoneIndex
    given_up: Set[str] = frozenset()
    """Keys of tasks in quarantine."""
    corrupt: list[Path] = field(default_factory=list)
    """Files that turned out to be corrupt, and were set aside."""

    @property
    def targets(self) -> NDArray[np.int64]:
        """The planned targets (C,)."""
        return np.asarray(self.layer.targets, dtype=np.int64)

    @property
    def group(self) -> str:
        """Path of the layer's group in the atlas."""
        return f"{safe_name(self.model.label)}/{safe_name(self.layer.info.name)}"

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return self.model.recipe.image_size

    @property
    def colours(self) -> int:
        """Number of colours of the images."""
        return self.model.colours

    @property
    def variants(self) -> tuple[int, ...]:
        """Shape of the axis of variants: empty if a job has one image."""
        count = self.model.recipe.variants
        return () if count == 1 else (count,)

    @cached_property
    def specs(self) -> dict[str, ArraySpec]:
        """Specs of what is stored of each job, without the axis of jobs."""
        return job_specs(self.model, self.layer)

    def shards(self) -> Iterator[tuple[int, Shard]]:
        """Yield every shard with its seed's index."""
        for seed_index, seed in enumerate(self.plan.seeds):
            for shard in self.plan.layer_shards(self.model, self.layer, seed):
                yield seed_index, shard

    def located(self) -> Iterator[Located]:
        """Yield every shard with its seed's index and the files that hold its targets."""
        for seed_index, shard in self.shards():
            yield seed_index, shard, self.index.locate(shard)

    @cached_property
    def without_file(self) -> list[Located]:
        """The same for those shards alone that have no file under their own name."""
        shards = [(index, shard) for index, shard in self.shards() if not self.index.has(shard)]
        return [(index, shard, self.index.locate(shard)) for index, shard in shards]

    def left(self) -> Iterator[tuple[int, Shard]]:
        """Yield what is not done, shard by shard, with its seed's index."""
        for seed_index, shard, located in self.without_file:
            rest = without(shard, located)
            if rest is not None:
                yield seed_index, rest

    def environments(self) -> "Counter[Environment | None]":
        """Count images by the environment that made them, as the headers of their files say."""
        made: Counter[Environment | None] = Counter()
        for _, _, located in self.located():
            for path in located.keys() - set(self.corrupt):
                made[read_environment(path)] += len(located[path]) * self.model.recipe.variants
        return made

    def stored_jobs(self) -> Iterator[StoredJobs]:
        """Read the layer, one file in memory at a time.

        Corrupt files are set aside and listed in `corrupt`.
        """
        row_of = {target: row for row, target in enumerate(self.layer.targets)}
        for seed_index, shard, located in self.located():
            for path, targets in located.items():
                file = self._read(path, shard, set(targets))
                if file is None:
                    continue
                header, wanted = file.header, set(targets)
                inside = [i for i, target in enumerate(header.targets) if target in wanted]
                rows = np.asarray([row_of[header.targets[i]] for i in inside])
                # The usual case, a whole file, copies nothing.
                chosen = slice(None) if len(inside) == len(header.targets) else inside
                arrays = {name: array[chosen] for name, array in file.arrays.items()}
                yield StoredJobs(rows, seed_index, arrays, header.facts)

    def _read(self, path: Path, shard: Shard, wanted: Set[int]) -> ShardFile | None:
        if path in self.corrupt:
            return None
        try:
            file = read_shard(path, self.model, self.layer)
            # The digest cannot show that a file was renamed, or copied from another sweep.
            if file.header.series != shard.series.key or not wanted <= set(file.header.targets):
                raise CorruptFile("it holds other jobs than its name says")
            return file
        except (CorruptFile, FileNotFoundError):
            self.corrupt.append(path)
            set_aside(path)
            return None

    @cached_property
    def statistics(self) -> LayerStatistics | None:
        """The dataset statistics of this layer, if the sweep has a dataset to compare with."""
        plan = self.plan.dataset_plan
        if plan is None or self.samples is not None:
            return None
        return statistics_of(self.model, self.layer.info.name, plan)

    @cached_property
    def samples(self) -> LayerSamples | None:
        """The activations that the layer's map is made of, if it has one."""
        plan = self.plan.dataset_plan
        found = statistics_of(self.model, self.layer.info.name, plan) if plan else None
        return found if isinstance(found, LayerSamples) else None

    def evidence(self) -> DatasetEvidence | None:
        """Read the dataset statistics; `None` if they are not complete."""
        return self._read_evidence(self.statistics)

    def _read_evidence(self, statistics: LayerStatistics | None) -> DatasetEvidence | None:
        if statistics is None:
            return None
        try:
            return read_evidence(self.folder, statistics)
        except FileNotFoundError:
            return None
        except CorruptFile:
            self.corrupt.append(self.folder.product(statistics.product))
            return None

    def judged(self, status: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Correct the status (C, S) of jobs by the dataset statistics.

        `dead` is left to channels that respond to no dataset image either. Other jobs without a
        response are `silent`: the image fails, not the channel.
        """
        dead = status == STATUS["dead"]
        if not dead.any() or self._responds is None:
            return status
        return np.where(dead & self._responds[:, None], STATUS["silent"], status).astype(np.uint8)

    def fate(self, row: int, status: int) -> str:
        """Name the corrected status of a job; empty for `ok`."""
        # The status in shards is older than the dataset statistics, and stays as it is.
        silent = status == STATUS["dead"] and self._responds is not None and self._responds[row]
        return FATES.get(STATUS["silent"] if silent else status, "")

    @cached_property
    def _responds(self) -> NDArray[np.bool_] | None:
        """Which targets (C,) respond to some dataset image, if that is known."""
        evidence = self.evidence()
        if evidence is None:
            return None
        return (evidence.stats.max > evidence.stats.min)[self.targets]

    @cached_property
    def connections_task(self) -> LayerConnections | None:
        """The task of the weights between this layer and those before it, if they are wanted."""
        targets, most = self.layer.targets, self.plan.connections
        return connections_of(self.model, self.layer, targets, most)

    def connections(self) -> Connections | None:
        """Read the weights between this layer and those before it; `None` if there are none."""
        if self.connections_task is None:
            return None
        try:
            return read_connections(self.folder, self.connections_task)
        except FileNotFoundError:
            return None
        except CorruptFile:
            self.corrupt.append(self.folder.product(self.connections_task.product))
            return None

    def products_done(self) -> list[str]:
        """Keys of the committed files besides shards: of the dataset, judgements, weights."""
        products = [self.connections_task.product] if self.connections_task else []
        products += [self.statistics.product] if self.statistics else []
        products += self.samples.products if self.samples else ()
        products += [self.judge.product] if self.judge else []
        judgings = judgings_of(self.plan, self.model, self.layer)
        tasks: list[Task] = [*self._examples(), *judgings]
        products += [product for task in tasks for product in task.products]
        return [product.key for product in products if self.folder.exists(product)]

    def examples(self) -> Iterator[Arrays]:
        """Read the committed examples, block by block of targets."""
        for task in self._examples():
            try:
                yield read_examples(self.folder, task)
            except FileNotFoundError:
                continue
            except CorruptFile:
                self.corrupt += map(self.folder.product, task.products)

    def _examples(self) -> Iterable[Examples]:
        if self.statistics is None:
            return ()
        return examples_of_layer(self.statistics, self.layer, self.plan.shard_size)

    @cached_property
    def judge(self) -> LayerStatistics | None:
        """The dataset statistics of the judge of this layer's images, if there is one."""
        return judge_of(self.plan) if self.plan.is_judged(self.model) else None

    def judge_evidence(self) -> DatasetEvidence | None:
        """Read the dataset statistics of the judge; `None` if they are not complete."""
        return self._read_evidence(self.judge)

    def judged_features(self) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.float32]]]:
        """Read the features of images in the judge, task by task: seed's index, rows, (n, K)."""
        seed_index = {seed: index for index, seed in enumerate(self.plan.seeds)}
        for task in judgings_of(self.plan, self.model, self.layer):
            try:
                features = read_features(self.folder, task)
            except FileNotFoundError:
                continue
            except CorruptFile:
                self.corrupt += map(self.folder.product, task.products)
                continue
            rows = self.rows_of(np.asarray(task.shard.targets, np.int64))
            yield seed_index[task.shard.series.seed], rows, features

    def rows_of(self, targets: NDArray[np.int64]) -> NDArray[np.intp]:
        """Rows of targets in arrays of the layer."""
        return np.searchsorted(self.targets, targets)

    def initial_status(self) -> NDArray[np.uint8]:
        """Status (C, S) before any shard is read: `missing`, or `failed` if in quarantine."""
        status = np.full((len(self.targets), len(self.plan.seeds)), STATUS["missing"], np.uint8)
        # Quarantine is rare; without it no file of the layer needs to be located.
        for seed_index, shard in self.left() if self.given_up else ():
            if shard.key in self.given_up:
                rows = self.rows_of(np.asarray(shard.targets, np.int64))
                status[rows, seed_index] = STATUS["failed"]
        return status


def layer_views(folder: OutputFolder, plan: Plan) -> Iterator[LayerView]:
    """Yield a view of every layer of the plan."""
    index = DoneIndex(folder, plan.environments)
    given_up = quarantined(read_failures(folder))
    for model in plan.models:
        for layer in model.layers:
            yield LayerView(folder, plan, model, layer, index, given_up)
