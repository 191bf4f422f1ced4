"""Illustrate: the photographs that channels answer to most and least, cut to the view, mapped."""

import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from layer_atlas.config.config import ModelConfig
from layer_atlas.config.datasets import DatasetConfig, SaliencyMethod
from layer_atlas.config.records import digest
from layer_atlas.datasets.image_files import as_jpeg, joined
from layer_atlas.datasets.statistics import DatasetStats
from layer_atlas.datasets.statistics_files import write_arrays
from layer_atlas.datasets.tasks import Examples, statistics_of
from layer_atlas.models.colours import from_bytes, recoloured
from layer_atlas.models.forwards import Forward
from layer_atlas.plan.plan import DatasetPlan, ModelPlan
from layer_atlas.store.frames import Arrays
from layer_atlas.sweep.tasks.base import WorkerContext
from layer_atlas.sweep.tasks.pictures import ImageCache
from layer_atlas.visualization import rng
from layer_atlas.visualization.saliency import saliency_maps

_KINDS = ("strongest", "weakest")

Pictures = dict[int, NDArray[np.uint8]]
"""Photographs (H, W, 3) by their places in the listing."""


@dataclass(frozen=True)
class ExamplesRequest:
    """Which channels of which layer."""

    layer: str
    targets: tuple[int, ...]


@dataclass(frozen=True)
class ExamplesBundle:
    """Examples of one model's channels, layers back to back."""

    models: tuple[ModelConfig, ...]
    """The network."""
    plan: ModelPlan
    dataset_plan: DatasetPlan
    dataset: DatasetConfig
    requests: tuple[ExamplesRequest, ...]

    def run(self, place: WorkerContext) -> None:
        """Pick and commit the examples.

        Raises:
            StorageError: the disk is full or fails.
        """
        illustrator = ExampleWriter(place, self)
        tasks = (
            Examples(
                statistics_of(self.plan, r.layer, self.dataset_plan),
                r.targets,
                self.dataset_plan.saliency,
            )
            for r in self.requests
        )
        for task in place.until_asked_to_stop(tasks):
            if not place.folder.is_done(task):
                illustrator.run(task)


class ExampleWriter:
    """Picks the photographs of channels, and maps what of them a channel answers to."""

    def __init__(self, place: WorkerContext, bundle: ExamplesBundle) -> None:
        self.place = place
        size = bundle.plan.dataset_image_size
        self.colours = len(bundle.plan.network.mean)
        self.book = ImageCache(place.folder, bundle.dataset_plan, bundle.dataset, size)
        self.infos = {layer.info.name: layer.info for layer in bundle.plan.layers}
        # Cutting the network may take longer than the maps of a few channels.
        self.forward = lru_cache(maxsize=1)(self._forward)

    def run(self, task: Examples) -> None:
        """Do one task and have it committed. Raises what earlier commits met."""
        self.place.heartbeat.begin([task])
        begun = time.monotonic()
        arrays = _pick(task, self.book.dataset_stats(task.dataset_stats))
        shown = np.concatenate([arrays[f"{name}_index"].ravel() for name in _KINDS])
        pictures = self.book.pictures(shown.tolist())
        arrays["picture_index"] = np.asarray(list(pictures), np.int64)
        if task.saliency is not None and pictures:
            mapped = arrays["strongest_index"][:, : task.saliency.dataset_images]
            arrays["saliency"] = self._maps(task, task.saliency, mapped, pictures)
        self.place.committer.submit([task.key], lambda: self._commit(task, arrays, pictures))
        facts = self.place.heartbeat.facts
        busy = facts["busy"] + time.monotonic() - begun
        self.place.heartbeat.tick(done=facts["done"] + task.units, busy=busy)

    def _maps(
        self, task: Examples, method: SaliencyMethod, shown: NDArray[np.int64], pictures: Pictures
    ) -> NDArray[np.uint8]:
        """Saliency maps (n, s, H, W) of the photographs `shown` (n, s) of each channel."""
        device = self.place.renderer.device
        nothing = np.zeros_like(next(iter(pictures.values())))
        pixels = np.stack([pictures.get(index, nothing) for index in shown.ravel().tolist()])
        maps = saliency_maps(
            self.forward(task.dataset_stats.layer),
            recoloured(from_bytes(torch.from_numpy(pixels)).to(device), self.colours),
            torch.tensor(np.repeat(task.targets, shown.shape[1]), device=device),
            method,
            rng.keys(_map_keys(task, shown), device),
        )
        whole = (maps * 255.0).round().to(torch.uint8).cpu().numpy()
        return whole.reshape(*shown.shape, *whole.shape[1:])

    def _commit(self, task: Examples, arrays: Arrays, pictures: Pictures) -> None:
        files = joined([as_jpeg(picture) for picture in pictures.values()])
        write_arrays(self.place.folder, task.products[0], {**arrays, **files})

    def _forward(self, layer: str) -> Forward:
        return self.place.renderer.network.exact_path([self.infos[layer]]).forward


def _pick(task: Examples, found: DatasetStats) -> dict[str, NDArray[Any]]:
    """Which photographs stand for each channel; fewer if there are no more."""
    channels = np.asarray(task.targets, np.int64)
    n = min(task.dataset_stats.plan.examples, found.count)
    index = {
        name: ranking.index[channels, :n]
        for name, ranking in zip(_KINDS, (found.top, found.bottom), strict=True)
    }
    return {"channel": channels, **{f"{name}_index": places for name, places in index.items()}}


def _map_keys(task: Examples, shown: NDArray[np.int64]) -> list[str]:
    """A random key per map: of study, channel and photograph."""
    return [
        digest({"study": task.dataset_stats.product.key, "channel": channel, "photograph": index})
        for channel, indices in zip(task.targets, shown.tolist(), strict=True)
        for index in indices
    ]
