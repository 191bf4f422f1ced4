"""Dataset statistics: every image of a dataset is shown to all layers at once, block by block."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
from layer_atlas.plan.plan import DatasetPlan
from layer_atlas.store.checksummed_file import Arrays
from layer_atlas.sweep.tasks.base import Bundle, WorkerContext, reading_threads
from layer_atlas.visualization.optimization.memory import if_it_fits

BATCH = 64
"""Images per forward pass; the length of a block is a multiple of it."""


@dataclass(frozen=True)
class BlockRequest:
    """A block of images, and the layers that see it."""

    start: int
    stop: int
    dataset_images: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class StatisticsBundle(Bundle):
    """Blocks of images for one model."""

    dataset_plan: DatasetPlan
    dataset: DatasetConfig
    requests: tuple[BlockRequest, ...]

    def run(self, context: WorkerContext) -> None:
        """Show the missing blocks and commit the activations.

        Raises:
            StorageError: the disk is full or fails.
        """
        waiting = [block for block in self.blocks() if not context.folder.is_done(block)]
        dataset_pass = DatasetPass(context, self, waiting)
        for block in context.until_drained(waiting):
            dataset_pass.run(block)

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
    """Shows dataset images to the layers of a network, block by block."""

    def __init__(
        self, context: WorkerContext, bundle: StatisticsBundle, blocks: Sequence[StatisticsBlock]
    ) -> None:
        self.context, self.plan = context, bundle.dataset_plan
        self.infos = {layer.info.name: layer.info for layer in bundle.plan.layers}
        self.dataset_images = open_dataset(bundle.dataset)
        self.listing = Listing(context.folder.listing(bundle.dataset_plan.listing))
        self.size = bundle.plan.dataset_image_size
        # One stream through all blocks, so that reading ahead does not stop at their ends.
        self.views = self._read(blocks)

    def run(self, block: StatisticsBlock) -> None:
        """Show one block and have it committed; raises errors of earlier commits."""
        heartbeat = self.context.heartbeat
        heartbeat.begin([block])
        begun, busy, done = time.monotonic(), heartbeat.facts["busy"], heartbeat.facts["done"]
        infos = [self.infos[statistics.layer] for statistics in block.layer_statistics]
        observe = self.context.renderer.network.observer(infos)
        parts = []
        for start in range(block.start, block.stop, BATCH):
            parts.append(self._observe(observe, min(BATCH, block.stop - start)))
            seen = start + len(parts[-1].readable) - block.start
            heartbeat.tick(done=done + seen, busy=busy + time.monotonic() - begun)
        files = {**self._summaries(block, parts), **self._fields(block, infos)}
        self.context.committer.submit([block.key], lambda: self._commit(files))

    def _observe(self, observe: Observe, n: int) -> "BatchActivations":
        """Show the next n images, padded to a whole batch."""
        views = list(islice(self.views, n))
        # Unreadable images stay black; `readable` excludes them.
        pixels = np.zeros((BATCH, self.size, self.size, 3), np.uint8)
        for row, view in enumerate(views):
            if view.pixels is not None:
                pixels[row] = view.pixels
        activations = observe_in_parts(observe, torch.from_numpy(pixels))
        return BatchActivations(
            readable=np.asarray([view.pixels is not None for view in views]),
            size=np.asarray([(view.width, view.height) for view in views], np.int32),
            layers={
                name: ChannelActivations(*(part[:n].cpu() for part in vars(layer).values()))
                for name, layer in activations.items()
            },
        )

    def _summaries(
        self, block: StatisticsBlock, parts: Sequence["BatchActivations"]
    ) -> dict[Product, Arrays]:
        index = np.arange(block.start, block.stop)
        files = {}
        for statistics in block.layer_statistics:
            block_activations = _joined([part.layers[statistics.layer] for part in parts])
            arrays = summarise(
                block_activations.mean.numpy(),
                block_activations.peak.numpy(),
                block_activations.place.numpy().astype(np.int32),
                readable=np.concatenate([part.readable for part in parts]),
                first=block.start,
                kept=index % self.plan.stride == 0,
                top=self.plan.top,
                bottom=self.plan.bottom,
            )
            arrays["size"] = np.concatenate([part.size for part in parts])
            files[statistics.block(block.start, block.dataset_images)] = arrays
        return files

    def _fields(self, block: StatisticsBlock, infos: Sequence[LayerInfo]) -> dict[Product, Arrays]:
        """Receptive fields; the worker of the first block finds them."""
        if block.start > 0:
            return {}
        # They do not depend on images, so one worker per layer suffices.
        fields = self.context.renderer.network.receptive_fields(infos)
        return {s.field: {"box": fields[s.layer].cpu().numpy()} for s in block.layer_statistics}

    def _read(self, blocks: Sequence[StatisticsBlock]) -> Iterator[View]:
        """The views of all images of the blocks, read ahead."""
        numbered = (
            pair
            for block in blocks
            for pair in enumerate(self.listing.block(block.start, block.stop), block.start)
        )
        return stream_views(self.dataset_images, numbered, self.size, reading_threads())

    def _commit(self, files: dict[Product, Arrays]) -> None:
        for product, arrays in files.items():
            # A kill between two files of a block leaves one of them, and it stays as it is.
            if not self.context.folder.exists(product):
                write_arrays(self.context.folder, product, arrays)


def observe_in_parts(observe: Observe, views: Tensor) -> dict[str, ChannelActivations]:
    """Observe layers on views; halves the batch where memory does not suffice.

    Raises:
        RuntimeError: there is no memory for a single view.
    """
    activations = if_it_fits(lambda: observe(views), least=len(views) == 1)
    if activations is not None:
        return activations
    halves = [observe_in_parts(observe, half) for half in views.tensor_split(2)]
    return {name: _joined([half[name] for half in halves]) for name in halves[0]}


def _joined(parts: Sequence[ChannelActivations]) -> ChannelActivations:
    fields = zip(*(vars(part).values() for part in parts), strict=True)
    return ChannelActivations(*(torch.cat(tensors) for tensors in fields))


@dataclass(frozen=True)
class BatchActivations:
    """The activations of layers on a batch of images."""

    readable: NDArray[np.bool_]
    """(n,)"""
    size: NDArray[np.int32]
    """(n, 2) width and height of the images."""
    layers: dict[str, ChannelActivations]
    """(n, K) of each layer."""
