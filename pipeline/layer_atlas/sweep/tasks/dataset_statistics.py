"""Study: photographs are shown to all wanted layers at once, block by block."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layer_atlas.config.config import ModelConfig
from layer_atlas.config.datasets import DatasetConfig
from layer_atlas.datasets.listing import Listing
from layer_atlas.datasets.sources import open_dataset
from layer_atlas.datasets.statistics import summarise
from layer_atlas.datasets.statistics_files import write_arrays
from layer_atlas.datasets.tasks import StatisticsBlock, statistics_of
from layer_atlas.datasets.views import View, stream_views
from layer_atlas.models.device_model import Observe
from layer_atlas.models.responses import ChannelActivations
from layer_atlas.plan.jobs import LayerInfo, Product
from layer_atlas.plan.plan import DatasetPlan, ModelPlan
from layer_atlas.store.checksummed_file import Arrays
from layer_atlas.sweep.tasks.base import WorkerContext
from layer_atlas.sweep.tasks.pictures import reading_threads
from layer_atlas.visualization.optimization.memory import if_it_fits

BATCH = 64
"""Photographs per forward pass; blocks are multiples of it."""


@dataclass(frozen=True)
class BlockRequest:
    """Which photographs, and which of the bundle's layers see them."""

    start: int
    stop: int
    dataset_images: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class StatisticsBundle:
    """Blocks of photographs for one model."""

    models: tuple[ModelConfig, ...]
    """The network."""
    plan: ModelPlan
    dataset_plan: DatasetPlan
    dataset: DatasetConfig
    requests: tuple[BlockRequest, ...]

    def run(self, place: WorkerContext) -> None:
        """Show the photographs and commit what the layers answered.

        Raises:
            StorageError: the disk is full or fails.
        """
        waiting = [block for block in self.blocks() if not place.folder.is_done(block)]
        show = DatasetPass(place, self, waiting)
        for block in place.until_asked_to_stop(waiting):
            show.run(block)

    def blocks(self) -> list[StatisticsBlock]:
        """The tasks, in order."""
        return [
            StatisticsBlock(
                tuple(statistics_of(self.plan, layer, self.dataset_plan) for layer in r.layers),
                r.start,
                r.stop,
                r.dataset_images,
            )
            for r in self.requests
        ]


class DatasetPass:
    """Shows photographs to the layers of a network, block by block."""

    def __init__(
        self, place: WorkerContext, bundle: StatisticsBundle, blocks: Sequence[StatisticsBlock]
    ) -> None:
        self.place, self.dataset_stats = place, bundle.dataset_plan
        self.infos = {layer.info.name: layer.info for layer in bundle.plan.layers}
        self.dataset_images = open_dataset(bundle.dataset)
        self.listing = Listing(place.folder.listing(bundle.dataset_plan.listing))
        self.size = bundle.plan.dataset_image_size
        self.views = self._read(blocks)

    def run(self, block: StatisticsBlock) -> None:
        """Show one block and have it committed. Raises what earlier commits met."""
        heartbeat = self.place.heartbeat
        heartbeat.begin([block])
        begun, busy, done = time.monotonic(), heartbeat.facts["busy"], heartbeat.facts["done"]
        infos = [self.infos[dataset_stats.layer] for dataset_stats in block.statistics_tasks]
        see = self.place.renderer.network.observer(infos)
        parts = []
        for start in range(block.start, block.stop, BATCH):
            parts.append(self._see(see, min(BATCH, block.stop - start)))
            seen = start + len(parts[-1].readable) - block.start
            heartbeat.tick(done=done + seen, busy=busy + time.monotonic() - begun)
        files = {**self._summaries(block, parts), **self._fields(block, infos)}
        self.place.committer.submit([block.key], lambda: self._commit(files))

    def _see(self, see: Observe, n: int) -> "BlockActivations":
        """Show the next n photographs, filled up to a whole batch."""
        views = list(islice(self.views, n))
        pixels = np.zeros((BATCH, self.size, self.size, 3), np.uint8)
        for row, view in enumerate(views):
            if view.pixels is not None:
                pixels[row] = view.pixels
        answers = seen_in_parts(see, torch.from_numpy(pixels))
        return BlockActivations(
            readable=np.asarray([view.pixels is not None for view in views]),
            size=np.asarray([(view.width, view.height) for view in views], np.int32),
            answers={
                name: {part: value[:n].cpu().numpy() for part, value in vars(answer).items()}
                for name, answer in answers.items()
            },
        )

    def _summaries(
        self, block: StatisticsBlock, parts: Sequence["BlockActivations"]
    ) -> dict[Product, Arrays]:
        index = np.arange(block.start, block.stop)
        files = {}
        for dataset_stats in block.statistics_tasks:
            answers = [part.answers[dataset_stats.layer] for part in parts]
            whole = {name: np.concatenate([a[name] for a in answers]) for name in answers[0]}
            arrays = summarise(
                whole["mean"],
                whole["peak"],
                whole["place"].astype(np.int32),
                readable=np.concatenate([part.readable for part in parts]),
                first=block.start,
                kept=index % self.dataset_stats.stride == 0,
                top=self.dataset_stats.top,
                bottom=self.dataset_stats.bottom,
            )
            arrays["size"] = np.concatenate([part.size for part in parts])
            files[dataset_stats.block(block.start, block.dataset_images)] = arrays
        return files

    def _fields(self, block: StatisticsBlock, infos: Sequence[LayerInfo]) -> dict[Product, Arrays]:
        """Receptive fields; the worker of the first block finds them."""
        if block.start > 0:
            return {}
        fields = self.place.renderer.network.receptive_fields(infos)
        return {s.field: {"box": fields[s.layer].cpu().numpy()} for s in block.statistics_tasks}

    def _read(self, blocks: Sequence[StatisticsBlock]) -> Iterator[View]:
        """The views of all photographs of the blocks, read ahead."""
        numbered = (
            pair
            for block in blocks
            for pair in enumerate(self.listing.block(block.start, block.stop), block.start)
        )
        return stream_views(self.dataset_images, numbered, self.size, reading_threads())

    def _commit(self, files: dict[Product, Arrays]) -> None:
        for product, arrays in files.items():
            # A kill between two files of a layer leaves one of them, and it stays as it is.
            if not self.place.folder.exists(product):
                write_arrays(self.place.folder, product, arrays)


def seen_in_parts(see: Observe, views: Tensor) -> dict[str, ChannelActivations]:
    """What layers answer to views; those that memory does not hold at once are shown in halves.

    Raises:
        RuntimeError: there is no memory for a single view.
    """
    seen = if_it_fits(lambda: see(views), least=len(views) == 1)
    if seen is not None:
        return seen
    first, second = (seen_in_parts(see, half) for half in views.tensor_split(2))
    return {name: _joined(first[name], second[name]) for name in first}


def _joined(first: ChannelActivations, second: ChannelActivations) -> ChannelActivations:
    pairs = zip(vars(first).values(), vars(second).values(), strict=True)
    return ChannelActivations(*(torch.cat(pair) for pair in pairs))


@dataclass(frozen=True)
class BlockActivations:
    """What layers answered to some photographs."""

    readable: NDArray[np.bool_]
    """(n,)"""
    size: NDArray[np.int32]
    """(n, 2) width and height of the photographs."""
    answers: dict[str, dict[str, NDArray[Any]]]
    """mean, peak and place (n, K) of each layer."""
