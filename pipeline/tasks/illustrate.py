"""Illustrate: the photographs that channels answer to most and least, cut to the view, mapped."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline import rng
from pipeline.config import DatasetConfig, ModelConfig
from pipeline.objectives import make_objective
from pipeline.plan import ModelPlan, StudyPlan
from pipeline.records import digest
from pipeline.saliency import saliency_maps
from pipeline.statistics import from_bytes
from pipeline.study import LayerStudy
from pipeline.study_store import write_arrays
from pipeline.study_tasks import Examples, studies_of
from pipeline.tasks.base import Workplace
from pipeline.tasks.pictures import PictureBook, as_jpeg

_KINDS = ("strongest", "weakest")

Respond = Callable[[str], Callable[[Tensor], Tensor]]
"""A layer's name to what answers images (B, 3, H, W) in [0, 1] with its activations (B, K, L)."""


@dataclass(frozen=True)
class ExamplesRequest:
    """Which channels of which layer."""

    layer: str
    channels: tuple[int, ...]


@dataclass(frozen=True)
class ExamplesBundle:
    """Examples of one model's channels, layers back to back."""

    model: ModelConfig
    plan: ModelPlan
    study: StudyPlan
    dataset: DatasetConfig
    requests: tuple[ExamplesRequest, ...]

    def run(self, place: Workplace) -> None:
        """Pick and commit the examples.

        Raises:
            StorageError: the disk is full or fails.
        """
        book = PictureBook(place.folder, self.study, self.dataset, self.plan.recipe.image_size)
        studies = {study.layer: study for study in studies_of(self.plan, self.study)}
        tasks = (Examples(studies[r.layer], r.channels, self.study.saliency) for r in self.requests)
        infos = {layer.info.name: layer.info for layer in self.plan.layers}
        bench = place.bench
        # Cutting the network may take longer than the maps of a few channels.
        respond = lru_cache(maxsize=1)(lambda name: bench.responses(bench.exact, infos[name]))
        for task in place.until_told_to_leave(tasks):
            if not place.folder.is_done(task):
                self._illustrate(task, place, book, respond)

    def _illustrate(
        self, task: Examples, place: Workplace, book: PictureBook, respond: Respond
    ) -> None:
        place.pulse.beat(tasks=[task.key])
        begun = time.monotonic()
        arrays = _pick(task, book.study(task.study))
        pictures = book.pictures(
            np.concatenate([arrays[f"{name}_index"].ravel() for name in _KINDS]).tolist()
        )
        arrays["picture_index"] = np.asarray(list(pictures), np.int64)
        if task.saliency is not None and pictures:
            arrays["saliency"] = self._maps(
                task, arrays["strongest_index"], pictures, place, respond
            )

        def write() -> None:
            jpegs = np.empty(len(pictures), object)
            for i, picture in enumerate(pictures.values()):
                jpegs[i] = as_jpeg(picture)
            write_arrays(place.folder, task.products[0], {**arrays, "picture": jpegs})

        place.committer.submit([task.key], write)
        facts = place.pulse.facts
        busy = facts["busy"] + time.monotonic() - begun
        place.pulse.beat(done=facts["done"] + task.units, busy=busy)

    def _maps(
        self,
        task: Examples,
        strongest: NDArray[np.int64],
        pictures: dict[int, NDArray[np.uint8]],
        place: Workplace,
        respond: Respond,
    ) -> NDArray[np.uint8]:
        """Saliency maps (n, s, H, W) of the first photographs of each channel."""
        settings, bench = task.saliency, place.bench
        assert settings is not None
        shown = strongest[:, : settings.photographs]
        nothing = np.zeros_like(next(iter(pictures.values())))
        pixels = np.stack([pictures.get(index, nothing) for index in shown.ravel().tolist()])
        maps = saliency_maps(
            respond(task.study.layer),
            make_objective(bench.recipe.objective),
            from_bytes(torch.from_numpy(pixels)).to(bench.device),
            torch.tensor(np.repeat(task.channels, shown.shape[1]), device=bench.device),
            settings,
            rng.keys(_map_keys(task, shown), bench.device),
        )
        whole = (maps * 255.0).round().to(torch.uint8).cpu().numpy()
        return whole.reshape(*shown.shape, *whole.shape[1:])


def _pick(task: Examples, found: LayerStudy) -> dict[str, NDArray[Any]]:
    """Which photographs stand for each channel; fewer if there are no more."""
    channels = np.asarray(task.channels, np.int64)
    n = min(task.study.plan.examples, found.count)
    index = {
        name: ranking.index[channels, :n]
        for name, ranking in zip(_KINDS, (found.top, found.bottom), strict=True)
    }
    return {"channel": channels, **{f"{name}_index": places for name, places in index.items()}}


def _map_keys(task: Examples, shown: NDArray[np.int64]) -> list[str]:
    """A random key per map: of study, channel and photograph."""
    return [
        digest({"study": task.study.product.key, "channel": channel, "photograph": index})
        for channel, indices in zip(task.channels, shown.tolist(), strict=True)
        for index in indices
    ]
