"""Judging: the features that finished images have in the judge, shard by shard."""

import logging
import time
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layer_atlas.atlas.gather import LayerView
from layer_atlas.datasets.statistics_files import write_arrays
from layer_atlas.datasets.tasks import Judging, statistics_of
from layer_atlas.models.device_model import Observe
from layer_atlas.models.pixels import from_bytes, resized, to_bytes
from layer_atlas.plan.jobs import Shard
from layer_atlas.plan.plan import ModelPlan, Plan, required_environments
from layer_atlas.store.resume import DoneIndex
from layer_atlas.sweep.tasks import WorkerContext
from layer_atlas.sweep.tasks.dataset_statistics import BATCH, DatasetBundle, observe_in_parts
from layer_atlas.sweep.tasks.optimize import ShardRequest

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JudgeBundle(DatasetBundle):
    """Shards of one model. The bundle's own plan is that of the judge."""

    judged: ModelPlan
    """The plan of the model that the images were made for, with the layers of the shards."""
    requests: tuple[ShardRequest, ...]

    def run(self, context: WorkerContext) -> None:
        """Show the images of the missing tasks to the judge, and commit their features.

        A task whose shard turns out to be corrupt is left: the driver makes the shard anew first.

        Raises:
            StorageError: the disk is full or fails.
        """
        (layer,) = self.plan.layers
        observe = context.renderer.network.observer([layer.info])
        index = DoneIndex(context.folder, required_environments([self.judged]))
        for task in context.until_drained(self.tasks()):
            if context.folder.is_done(task):
                continue
            context.heartbeat.begin([task])
            started, facts = time.monotonic(), context.heartbeat.facts
            busy, done = facts["busy"], facts["done"]
            images = self._images(context, index, task.shard)
            if images is None:
                logger.warning("%s is corrupt and was set aside, to be made again", task.shard)
                continue
            features = self._features(observe, images)
            commit = partial(_commit, context, task, features)
            context.committer.submit([task.key], commit)
            context.heartbeat.tick(done=done + task.units, busy=busy + time.monotonic() - started)

    def tasks(self) -> list[Judging]:
        """The tasks, in order."""
        judge = statistics_of(self.plan, self.plan.layers[0].info.name, self.dataset_plan)
        return [Judging(judge, request.shard(self.judged)) for request in self.requests]

    def _images(
        self, context: WorkerContext, index: DoneIndex, shard: Shard
    ) -> NDArray[np.uint8] | None:
        """Read the images (n, H, W, C) of a shard; `None` if one of its files is corrupt."""
        layers = {layer.info.name: layer for layer in self.judged.layers}
        layer = replace(layers[shard.series.layer], targets=shard.targets)
        model = replace(self.judged, layers=(layer,))
        plan = Plan((model,), (shard.series.seed,), len(shard.targets))
        view = LayerView(context.folder, plan, model, layer, index)
        height, width = view.image_size
        images = np.zeros((len(shard.targets), height, width, view.colours), np.uint8)
        read = np.zeros(len(images), np.bool_)
        for jobs in view.stored_jobs():
            images[jobs.rows] = jobs.arrays["image"]
            read[jobs.rows] = True
        return images if read.all() else None

    def _features(self, observe: Observe, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The mean response (n, K) of each channel of the judge's layer to images."""
        parts = [
            self._observed(observe, torch.from_numpy(images[start : start + BATCH]))
            for start in range(0, len(images), BATCH)
        ]
        return np.concatenate(parts)

    def _observed(self, observe: Observe, pixels: Tensor) -> NDArray[np.float32]:
        """The same of one batch, which is filled up: bits depend on the size of a batch."""
        size = self.plan.recipe.image_size
        images = from_bytes(pixels).expand(-1, 3, -1, -1)
        views = torch.zeros(BATCH, *size, 3, dtype=torch.uint8)
        # 8-bit at the judge's size, as it sees the dataset images.
        views[: len(pixels)] = to_bytes(resized(images, size))
        (response,) = observe_in_parts(observe, views).values()
        return response.mean[: len(pixels)].cpu().numpy()


def _commit(context: WorkerContext, task: Judging, features: NDArray[np.float32]) -> None:
    write_arrays(context.folder, task.products[0], {"feature": features})
