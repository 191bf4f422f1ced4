"""Optimization: the jobs of shards, batch by batch."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor

from layer_atlas.config.records import plain
from layer_atlas.datasets.tasks import statistics_of
from layer_atlas.errors import UserError
from layer_atlas.models.normalization import FEATURE_IMAGES
from layer_atlas.models.pixels import from_bytes, recoloured
from layer_atlas.plan.environment import Environment, environment_here
from layer_atlas.plan.jobs import Series, Shard, ShardResult, joined
from layer_atlas.plan.plan import LayerPlan, ModelPlan, flops_per_job
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.shards import commit
from layer_atlas.sweep.tasks import Bundle, ImageCache, WorkerContext
from layer_atlas.visualization.optimization.memory import if_it_fits
from layer_atlas.visualization.optimization.renderer import LayerRenderer

logger = logging.getLogger(__name__)

StrongestImages = Callable[[Sequence[int]], Tensor | None]
"""Maps channels to the dataset images (n, N, C, H, W) that their images are made from, if any."""


@dataclass(frozen=True)
class ShardRequest:
    """A shard of the bundle's model."""

    layer: str
    seed: int
    targets: tuple[int, ...]

    def shard(self, model: ModelPlan) -> Shard:
        """Return the shard, by the plan of its model."""
        series = Series(model.label, model.network, self.layer, self.seed, model.recipe)
        return Shard(series, self.targets)


@dataclass(frozen=True)
class OptimizationBundle(Bundle):
    """Shards of one model, layers back to back."""

    batch_size: int | Literal["auto"]
    requests: tuple[ShardRequest, ...]

    def run(self, context: WorkerContext) -> None:
        """Make and commit the missing shards, layer by layer.

        Raises:
            StorageError: the disk is full or fails.
            UserError: images must be made with another environment than this worker's.
        """
        environment = self._environment(context)
        layers = {layer.info.name: layer for layer in self.plan.layers}
        images = self._image_cache(context)
        for name, group in groupby(self.shards(), key=lambda shard: shard.series.layer):
            self._run_layer(context, layers[name], list(group), images, environment)

    def _run_layer(
        self,
        context: WorkerContext,
        layer: LayerPlan,
        waiting: Sequence[Shard],
        images: ImageCache | None,
        environment: Environment,
    ) -> None:
        """Make and commit the missing shards of one layer.

        A method of its own, so that nothing of a layer is in memory when the batch size of the next
        is measured.
        """
        # A crash while the layer is being prepared is charged to its first shard.
        context.heartbeat.begin(waiting[:1])
        views = partial(self._evenly_spread, images) if images is not None else None
        renderer = context.renderer.layer(layer.info, layer.others, views)
        asked = self.batch_size
        size = renderer.auto_batch(layer.batch_size) if asked == "auto" else asked
        renderer.gpu_multiple = size
        flops = flops_per_job(layer, self.plan.recipe)
        strongest = partial(self._strongest_images, images, layer.info.name)
        runner = ShardRunner(context, renderer, size, flops, strongest, environment)
        for shards in context.until_drained(group_by_batch(waiting, runner.batch_size)):
            # Checked as late as possible: a worker thought to be lost may have done them.
            runner.run([shard for shard in shards if not context.folder.is_done(shard)])

    def _environment(self, context: WorkerContext) -> Environment:
        """The environment of this worker, if images may be made with it."""
        sources = [network.source for network in self.plan.networks.values()]
        here, wanted = (
            environment_here(str(context.renderer.device), sources),
            self.plan.environment,
        )
        # A cluster may start this worker on another kind of device than the plan counts on.
        if wanted is not None and not wanted.accepts(here):
            raise UserError(
                f"versions=strict wants images made with {wanted.text}, and a worker has "
                f"{here.text}. Have workers of one kind (executor.options={{constraint: ...}} on "
                "Slurm), or take versions=any, or another name."
            )
        return here

    def _image_cache(self, context: WorkerContext) -> ImageCache | None:
        """The dataset images, if the recipe wants any; opening may take long."""
        recipe = self.plan.recipe
        if not recipe.dataset_images_used and not recipe.regularizers.dataset:
            return None
        assert self.dataset_plan is not None
        assert self.dataset is not None
        size = self.plan.dataset_image_size
        return ImageCache(context.folder, self.dataset_plan, self.dataset, size)

    def _evenly_spread(self, images: ImageCache) -> Tensor:
        return torch.from_numpy(images.evenly_spread(FEATURE_IMAGES))

    def _strongest_images(
        self, images: ImageCache | None, layer: str, channels: Sequence[int]
    ) -> Tensor | None:
        if images is None or self.dataset_plan is None or not self.plan.recipe.dataset_images_used:
            return None
        statistics = statistics_of(self.plan, layer, self.dataset_plan)
        pixels = images.strongest(statistics, channels, self.plan.recipe.dataset_images_used)
        flat = from_bytes(torch.from_numpy(pixels).flatten(0, 1))
        strongest = recoloured(flat, len(self.plan.network.mean))
        return strongest.view(*pixels.shape[:2], *strongest.shape[1:])

    def shards(self) -> list[Shard]:
        """The shards, in order."""
        return [request.shard(self.plan) for request in self.requests]


@dataclass
class ShardRunner:
    """Makes shards of one layer: batches of jobs in, shards for the committer out."""

    context: WorkerContext
    renderer: LayerRenderer
    batch_size: int
    flops: float
    """FLOPs per job."""
    strongest: StrongestImages
    environment: Environment

    def run(self, shards: Sequence[Shard]) -> None:
        """Make some shards together and have each committed; raises errors of earlier commits."""
        if not shards:
            return
        self.context.heartbeat.begin(shards)
        started = time.monotonic()
        jobs = [(key, c) for s in shards for key, c in zip(s.job_keys, s.targets, strict=True)]
        # Shards that share a batch share its time.
        made = ShardResult(self._make(jobs))
        seconds = (time.monotonic() - started) / len(jobs)
        facts = {
            "seconds_per_job": round(seconds, 4),
            "environment": plain(self.environment),
            "path": self.renderer.path,
            "batch_size": self.batch_size,
        }
        results, end = [], 0
        for shard in shards:
            start, end = end, end + len(shard.targets)
            results.append(ShardResult(made.rows(slice(start, end)), facts))
        keys = [shard.key for shard in shards]
        # Without `self`, whose renderer the next layer must not find in memory.
        write = partial(_commit, self.context.folder, shards, results)
        self.context.committer.submit(keys, write)

    def _make(self, jobs: list[tuple[str, int]]) -> dict[str, NDArray[Any]]:
        """Make jobs in batches; out of memory halves the batch size for the rest of the layer."""
        parts: list[dict[str, NDArray[Any]]] = []
        start = 0
        while start < len(jobs):
            make = partial(self._make_batch, jobs[start : start + self.batch_size])
            made = if_it_fits(make, least=self.batch_size == 1)
            if made is None:
                self.batch_size //= 2
                self.renderer.gpu_multiple = min(self.renderer.gpu_multiple, self.batch_size)
                logger.warning("out of memory: batch size is now %d", self.batch_size)
                continue
            parts.append(made)
            start += len(made["target"])
        return joined(parts)

    def _make_batch(self, batch: list[tuple[str, int]]) -> dict[str, NDArray[Any]]:
        heartbeat = self.context.heartbeat
        # Kept aside, so that a batch that runs out of memory is not counted twice.
        before = {name: heartbeat.facts[name] for name in ("done", "flops", "busy")}
        parts = self.renderer.recipe.total_steps + 1  # measuring counts as one more step
        started = time.monotonic()

        def on_step(step: int) -> None:
            jobs = len(batch) * (step + 1) / parts
            heartbeat.tick(
                done=before["done"] + jobs,
                flops=before["flops"] + jobs * self.flops,
                busy=before["busy"] + time.monotonic() - started,
            )

        keys, channels = [key for key, _ in batch], [channel for _, channel in batch]
        arrays = self.renderer.make(keys, channels, on_step, self.strongest(channels))
        on_step(parts - 1)
        return arrays


def _commit(folder: OutputFolder, shards: Sequence[Shard], results: Sequence[ShardResult]) -> None:
    for shard, result in zip(shards, results, strict=True):
        commit(folder, shard, result)


def group_by_batch(shards: Sequence[Shard], batch_size: int) -> Iterator[list[Shard]]:
    """Group neighbouring shards that fit into one batch; a large shard stands alone."""
    group: list[Shard] = []
    for shard in shards:
        if group and sum(len(s.targets) for s in [*group, shard]) > batch_size:
            yield group
            group = []
        group.append(shard)
    if group:
        yield group
