"""Examples: the dataset images with the highest and lowest activations, cut to the view, mapped."""

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from layer_atlas.config.datasets import DatasetConfig, SaliencyMethod
from layer_atlas.config.records import digest
from layer_atlas.datasets.image_files import as_jpeg, joined
from layer_atlas.datasets.statistics import DatasetStats
from layer_atlas.datasets.statistics_files import write_arrays
from layer_atlas.datasets.tasks import Examples, statistics_of
from layer_atlas.models.colours import from_bytes, recoloured
from layer_atlas.models.forwards import Forward
from layer_atlas.plan.plan import DatasetPlan
from layer_atlas.store.checksummed_file import Arrays
from layer_atlas.sweep.tasks.base import Bundle, ImageCache, WorkerContext
from layer_atlas.visualization import rng
from layer_atlas.visualization.saliency import saliency_maps

_RANKINGS = ("strongest", "weakest")

Images = dict[int, NDArray[np.uint8]]
"""Dataset images (H, W, 3) by their index in the listing."""


@dataclass(frozen=True)
class ExamplesRequest:
    """Channels of a layer."""

    layer: str
    targets: tuple[int, ...]


@dataclass(frozen=True)
class ExamplesBundle(Bundle):
    """Examples of one model's channels, layers back to back."""

    dataset_plan: DatasetPlan
    dataset: DatasetConfig
    requests: tuple[ExamplesRequest, ...]

    def run(self, context: WorkerContext) -> None:
        """Pick and commit the missing examples.

        Raises:
            StorageError: the disk is full or fails.
        """
        writer = ExampleWriter(context, self)
        plan = self.dataset_plan
        tasks = (
            Examples(statistics_of(self.plan, r.layer, plan), r.targets, plan.saliency)
            for r in self.requests
        )
        for task in context.until_drained(tasks):
            if not context.folder.is_done(task):
                writer.run(task)


class ExampleWriter:
    """Picks the dataset images of channels, and computes their saliency maps."""

    def __init__(self, context: WorkerContext, bundle: ExamplesBundle) -> None:
        self.context = context
        size = bundle.plan.dataset_image_size
        self.colours = len(bundle.plan.network.mean)
        self.cache = ImageCache(context.folder, bundle.dataset_plan, bundle.dataset, size)
        self.infos = {layer.info.name: layer.info for layer in bundle.plan.layers}
        # Truncating the network may take longer than the maps of a few channels.
        self.forward = lru_cache(maxsize=1)(self._forward)

    def run(self, task: Examples) -> None:
        """Do one task and have it committed; raises errors of earlier commits."""
        heartbeat = self.context.heartbeat
        heartbeat.begin([task])
        begun = time.monotonic()
        arrays = _pick(task, self.cache.dataset_stats(task.statistics))
        shown = np.concatenate([arrays[f"{name}_index"].ravel() for name in _RANKINGS])
        images = self.cache.images(shown.tolist())
        # Each image is stored once, however many channels of the task it stands for.
        arrays["picture_index"] = np.asarray(list(images), np.int64)
        if task.saliency is not None and images:
            mapped = arrays["strongest_index"][:, : task.saliency.dataset_images]
            arrays["saliency"] = self._maps(task, task.saliency, mapped, images)
        self.context.committer.submit([task.key], lambda: self._commit(task, arrays, images))
        busy = heartbeat.facts["busy"] + time.monotonic() - begun
        heartbeat.tick(done=heartbeat.facts["done"] + task.units, busy=busy)

    def _maps(
        self, task: Examples, method: SaliencyMethod, shown: NDArray[np.int64], images: Images
    ) -> NDArray[np.uint8]:
        """Saliency maps (n, s, H, W) of the images `shown` (n, s) of each channel."""
        device = self.context.renderer.device
        black = np.zeros_like(next(iter(images.values())))
        pixels = np.stack([images.get(index, black) for index in shown.ravel().tolist()])
        maps = saliency_maps(
            self.forward(task.statistics.layer),
            recoloured(from_bytes(torch.from_numpy(pixels)).to(device), self.colours),
            torch.tensor(np.repeat(task.targets, shown.shape[1]), device=device),
            method,
            rng.keys(_map_keys(task, shown), device),
        )
        rounded = (maps * 255.0).round().to(torch.uint8).cpu().numpy()
        return rounded.reshape(*shown.shape, *rounded.shape[1:])

    def _commit(self, task: Examples, arrays: Arrays, images: Images) -> None:
        files = joined([as_jpeg(image) for image in images.values()])
        write_arrays(self.context.folder, task.products[0], {**arrays, **files})

    def _forward(self, layer: str) -> Forward:
        return self.context.renderer.network.exact_path([self.infos[layer]]).forward


def _pick(task: Examples, stats: DatasetStats) -> dict[str, NDArray[Any]]:
    """The examples of each channel by rank; fewer if the dataset has no more images."""
    channels = np.asarray(task.targets, np.int64)
    # A dataset may have fewer images than examples are asked for.
    n = min(task.statistics.plan.examples, stats.count)
    index = {
        name: ranking.index[channels, :n]
        for name, ranking in zip(_RANKINGS, (stats.top, stats.bottom), strict=True)
    }
    return {"target": channels, **{f"{name}_index": ranks for name, ranks in index.items()}}


def _map_keys(task: Examples, shown: NDArray[np.int64]) -> list[str]:
    """A random key per map: of layer statistics, channel and image."""
    # The words are part of the keys: other words would make other maps.
    return [
        digest({"study": task.statistics.product.key, "channel": channel, "photograph": index})
        for channel, indices in zip(task.targets, shown.tolist(), strict=True)
        for index in indices
    ]
