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
from layer_atlas.datasets.tasks import StudyBlock, study_of
from layer_atlas.datasets.views import View, stream_views
from layer_atlas.models.device_model import Observe
from layer_atlas.models.responses import Answer
from layer_atlas.plan.jobs import LayerInfo, Product
from layer_atlas.plan.plan import ModelPlan, StudyPlan
from layer_atlas.store.frames import Arrays
from layer_atlas.sweep.tasks.base import Workplace
from layer_atlas.sweep.tasks.pictures import reading_threads
from layer_atlas.visualization.optimization.memory import if_it_fits

BATCH = 64
"""Photographs per forward pass; blocks are multiples of it."""


@dataclass(frozen=True)
class BlockRequest:
    """Which photographs, and which of the bundle's layers see them."""

    start: int
    stop: int
    photographs: str
    layers: tuple[str, ...]


@dataclass(frozen=True)
class StudyBundle:
    """Blocks of photographs for one model."""

    models: tuple[ModelConfig, ...]
    """The network."""
    plan: ModelPlan
    study: StudyPlan
    dataset: DatasetConfig
    requests: tuple[BlockRequest, ...]

    def run(self, place: Workplace) -> None:
        """Show the photographs and commit what the layers answered.

        Raises:
            StorageError: the disk is full or fails.
        """
        waiting = [block for block in self.blocks() if not place.folder.is_done(block)]
        show = Show(place, self, waiting)
        for block in place.until_told_to_leave(waiting):
            show.run(block)

    def blocks(self) -> list[StudyBlock]:
        """The tasks, in order."""
        return [
            StudyBlock(
                tuple(study_of(self.plan, layer, self.study) for layer in r.layers),
                r.start,
                r.stop,
                r.photographs,
            )
            for r in self.requests
        ]


class Show:
    """Shows photographs to the layers of a network, block by block."""

    def __init__(self, place: Workplace, bundle: StudyBundle, blocks: Sequence[StudyBlock]) -> None:
        self.place, self.study = place, bundle.study
        self.infos = {layer.info.name: layer.info for layer in bundle.plan.layers}
        self.photographs = open_dataset(bundle.dataset)
        self.listing = Listing(place.folder.listing(bundle.study.listing))
        self.size = bundle.plan.photograph_size
        self.views = self._read(blocks)

    def run(self, block: StudyBlock) -> None:
        """Show one block and have it committed. Raises what earlier commits met."""
        pulse = self.place.pulse
        pulse.begin([block])
        begun, busy, done = time.monotonic(), pulse.facts["busy"], pulse.facts["done"]
        infos = [self.infos[study.layer] for study in block.studies]
        see = self.place.bench.network.observer(infos)
        parts = []
        for start in range(block.start, block.stop, BATCH):
            parts.append(self._see(see, min(BATCH, block.stop - start)))
            seen = start + len(parts[-1].readable) - block.start
            pulse.beat(done=done + seen, busy=busy + time.monotonic() - begun)
        files = {**self._summaries(block, parts), **self._fields(block, infos)}
        self.place.committer.submit([block.key], lambda: self._commit(files))

    def _see(self, see: Observe, n: int) -> "Seen":
        """Show the next n photographs, filled up to a whole batch."""
        views = list(islice(self.views, n))
        pixels = np.zeros((BATCH, self.size, self.size, 3), np.uint8)
        for row, view in enumerate(views):
            if view.pixels is not None:
                pixels[row] = view.pixels
        answers = seen_in_parts(see, torch.from_numpy(pixels))
        return Seen(
            readable=np.asarray([view.pixels is not None for view in views]),
            size=np.asarray([(view.width, view.height) for view in views], np.int32),
            answers={
                name: {part: value[:n].cpu().numpy() for part, value in vars(answer).items()}
                for name, answer in answers.items()
            },
        )

    def _summaries(self, block: StudyBlock, parts: Sequence["Seen"]) -> dict[Product, Arrays]:
        index = np.arange(block.start, block.stop)
        files = {}
        for study in block.studies:
            answers = [part.answers[study.layer] for part in parts]
            whole = {name: np.concatenate([a[name] for a in answers]) for name in answers[0]}
            arrays = summarise(
                whole["mean"],
                whole["peak"],
                whole["place"].astype(np.int32),
                readable=np.concatenate([part.readable for part in parts]),
                first=block.start,
                kept=index % self.study.stride == 0,
                top=self.study.top,
                bottom=self.study.bottom,
            )
            arrays["size"] = np.concatenate([part.size for part in parts])
            files[study.block(block.start, block.photographs)] = arrays
        return files

    def _fields(self, block: StudyBlock, infos: Sequence[LayerInfo]) -> dict[Product, Arrays]:
        """Receptive fields; the worker of the first block finds them."""
        if block.start > 0:
            return {}
        fields = self.place.bench.network.receptive_fields(infos)
        return {s.field: {"box": fields[s.layer].cpu().numpy()} for s in block.studies}

    def _read(self, blocks: Sequence[StudyBlock]) -> Iterator[View]:
        """The views of all photographs of the blocks, read ahead."""
        numbered = (
            pair
            for block in blocks
            for pair in enumerate(self.listing.block(block.start, block.stop), block.start)
        )
        return stream_views(self.photographs, numbered, self.size, reading_threads())

    def _commit(self, files: dict[Product, Arrays]) -> None:
        for product, arrays in files.items():
            # A kill between two files of a layer leaves one of them, and it stays as it is.
            if not self.place.folder.exists(product):
                write_arrays(self.place.folder, product, arrays)


def seen_in_parts(see: Observe, views: Tensor) -> dict[str, Answer]:
    """What layers answer to views; those that memory does not hold at once are shown in halves.

    Raises:
        RuntimeError: there is no memory for a single view.
    """
    seen = if_it_fits(lambda: see(views), least=len(views) == 1)
    if seen is not None:
        return seen
    first, second = (seen_in_parts(see, half) for half in views.tensor_split(2))
    return {name: _joined(first[name], second[name]) for name in first}


def _joined(first: Answer, second: Answer) -> Answer:
    pairs = zip(vars(first).values(), vars(second).values(), strict=True)
    return Answer(*(torch.cat(pair) for pair in pairs))


@dataclass(frozen=True)
class Seen:
    """What layers answered to some photographs."""

    readable: NDArray[np.bool_]
    """(n,)"""
    size: NDArray[np.int32]
    """(n, 2) width and height of the photographs."""
    answers: dict[str, dict[str, NDArray[Any]]]
    """mean, peak and place (n, K) of each layer."""
