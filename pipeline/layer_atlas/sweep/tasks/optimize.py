"""Optimise: the jobs of shards, batch by batch."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from layer_atlas.config.config import ModelConfig
from layer_atlas.config.datasets import DatasetConfig
from layer_atlas.config.recipe import DatasetInit
from layer_atlas.config.records import plain
from layer_atlas.datasets.tasks import statistics_of
from layer_atlas.errors import UserError, tell
from layer_atlas.models.colours import from_bytes, recoloured
from layer_atlas.plan.environment import Environment, environment_here
from layer_atlas.plan.jobs import Series, Shard, ShardResult, joined
from layer_atlas.plan.plan import DatasetPlan, ModelPlan, flops_per_job
from layer_atlas.store.shards import commit
from layer_atlas.sweep.tasks.base import WorkerContext
from layer_atlas.sweep.tasks.pictures import ImageCache
from layer_atlas.visualization.optimization.memory import if_it_fits
from layer_atlas.visualization.optimization.renderer import LayerRenderer

Starts = Callable[[Sequence[int]], Tensor | None]
"""Channels to the photographs (n, 3, H, W) that their images start from, if any."""


@dataclass(frozen=True)
class ShardRequest:
    """Which shard, within the bundle's model."""

    layer: str
    seed: int
    targets: tuple[int, ...]


@dataclass(frozen=True)
class OptimizationBundle:
    """Shards of one model, layers back to back."""

    models: tuple[ModelConfig, ...]
    """The network, and further ones that its images are for as well."""
    plan: ModelPlan
    dataset_plan: DatasetPlan | None
    """For images that start from photographs."""
    dataset: DatasetConfig | None
    batch_size: int | Literal["auto"]
    requests: tuple[ShardRequest, ...]

    def run(self, place: WorkerContext) -> None:
        """Make and commit the missing shards, layer by layer.

        Raises:
            StorageError: the disk is full or fails.
            UserError: images must be made with another environment than this worker's.
        """
        environment = self._environment(place)
        layers = {layer.info.name: layer for layer in self.plan.layers}
        book = self._book(place)
        for name, group in groupby(self.shards(), key=lambda shard: shard.series.layer):
            waiting = list(group)
            # What goes wrong from here on is charged to it.
            place.heartbeat.begin(waiting[:1])
            renderer = place.renderer.layer(layers[name].info, layers[name].others)
            flops = flops_per_job(layers[name], self.plan.recipe)
            starts = self._starts(book, name)
            runner = ShardRunner(place, renderer, flops, self.batch_size, starts, environment)
            for shards in place.until_asked_to_stop(together(waiting, runner.batch_size)):
                runner.run([shard for shard in shards if not place.folder.is_done(shard)])

    def _environment(self, place: WorkerContext) -> Environment:
        """What this worker computes with, if images may be made with it."""
        sources = [network.source for network in self.plan.networks.values()]
        here, wanted = environment_here(str(place.renderer.device), sources), self.plan.environment
        if wanted is not None and not wanted.accepts(here):
            raise UserError(
                f"versions=strict wants images made with {wanted.text}, and a worker has "
                f"{here.text}. Have workers of one kind (executor.options={{constraint: ...}} on "
                "Slurm), or take versions=any, or another name."
            )
        return here

    def _book(self, place: WorkerContext) -> ImageCache | None:
        """The photographs to start from, if the recipe wants them; opening them may take long."""
        recipe = self.plan.recipe
        if not isinstance(recipe.init, DatasetInit):
            return None
        assert self.dataset_plan is not None
        assert self.dataset is not None
        return ImageCache(
            place.folder, self.dataset_plan, self.dataset, self.plan.dataset_image_size
        )

    def _starts(self, book: ImageCache | None, layer: str) -> Starts:
        if book is None or self.dataset_plan is None:
            return lambda channels: None
        dataset_stats = statistics_of(self.plan, layer, self.dataset_plan)
        colours = len(self.plan.network.mean)

        def starts(channels: Sequence[int]) -> Tensor:
            pixels = torch.from_numpy(book.strongest(dataset_stats, channels))
            return recoloured(from_bytes(pixels), colours)

        return starts

    def shards(self) -> list[Shard]:
        """The shards, in order."""
        plan = self.plan
        return [
            Shard(Series(plan.label, plan.network, r.layer, r.seed, plan.recipe), r.targets)
            for r in self.requests
        ]


class ShardRunner:
    """Makes shards of one layer: batches of jobs in, shards for the committer out."""

    def __init__(
        self,
        place: WorkerContext,
        renderer: LayerRenderer,
        flops: float,
        batch_size: int | Literal["auto"],
        starts: Starts,
        environment: Environment,
    ) -> None:
        self.place, self.renderer, self.heartbeat, self.starts = (
            place,
            renderer,
            place.heartbeat,
            starts,
        )
        self.flops, self.environment = flops, plain(environment)
        self.batch_size = renderer.auto_batch() if batch_size == "auto" else batch_size

    def run(self, shards: Sequence[Shard]) -> None:
        """Make some shards together and have each committed. Raises what earlier commits met."""
        if not shards:
            return
        self.heartbeat.begin(shards)
        started = time.monotonic()
        jobs = [(key, c) for s in shards for key, c in zip(s.job_keys, s.targets, strict=True)]
        made = ShardResult(self._make(jobs))
        seconds = (time.monotonic() - started) / len(jobs)
        facts = {
            "seconds_per_job": round(seconds, 4),
            "environment": self.environment,
            "path": self.renderer.path,
        }
        results, end = [], 0
        for shard in shards:
            start, end = end, end + len(shard.targets)
            results.append(ShardResult(made.rows(slice(start, end)), facts))
        self.place.committer.submit([s.key for s in shards], lambda: self._commit(shards, results))

    def _commit(self, shards: Sequence[Shard], results: Sequence[ShardResult]) -> None:
        for shard, result in zip(shards, results, strict=True):
            commit(self.place.folder, shard, result)

    def _make(self, jobs: list[tuple[str, int]]) -> dict[str, NDArray[Any]]:
        """Make jobs in batches; out of memory halves the batch, for the rest of the layer too."""
        parts: list[dict[str, NDArray[Any]]] = []
        start = 0
        while start < len(jobs):
            make = partial(self._make_batch, jobs[start : start + self.batch_size])
            made = if_it_fits(make, least=self.batch_size == 1)
            if made is None:
                self.batch_size //= 2
                tell(f"out of memory: batch size is now {self.batch_size}")
                continue
            parts.append(made)
            start += len(made["target"])
        return joined(parts)

    def _make_batch(self, batch: list[tuple[str, int]]) -> dict[str, NDArray[Any]]:
        before = {name: self.heartbeat.facts[name] for name in ("done", "flops", "busy")}
        parts = self.renderer.recipe.total_steps + 1  # measuring counts as one more step
        started = time.monotonic()

        def on_step(step: int) -> None:
            jobs = len(batch) * (step + 1) / parts
            self.heartbeat.tick(
                done=before["done"] + jobs,
                flops=before["flops"] + jobs * self.flops,
                busy=before["busy"] + time.monotonic() - started,
            )

        keys, channels = [key for key, _ in batch], [channel for _, channel in batch]
        arrays = self.renderer.make(keys, channels, on_step, self.starts(channels))
        on_step(parts - 1)
        return arrays


def together(shards: Sequence[Shard], batch_size: int) -> Iterator[list[Shard]]:
    """Group neighbouring shards so that each group fills a batch; a large shard stands alone."""
    group: list[Shard] = []
    for shard in shards:
        if group and sum(len(s.targets) for s in [*group, shard]) > batch_size:
            yield group
            group = []
        group.append(shard)
    if group:
        yield group
