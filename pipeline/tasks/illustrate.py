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
from pipeline.tasks.pictures import PictureBook

Responses = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) in [0, 1] to a layer's activations (B, K, L)."""


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
        # Cutting the network takes longer than the maps of a few channels.
        respond = lru_cache(maxsize=1)(lambda layer: self._responses(layer, place))
        for task in place.until_told_to_leave(tasks):
            if not place.folder.is_done(task):
                self._illustrate(task, place, book, respond)

    def _responses(self, layer: str, place: Workplace) -> Responses:
        info = next(plan.info for plan in self.plan.layers if plan.info.name == layer)
        return place.bench.responses(place.bench.exact, info)

    def _illustrate(
        self,
        task: Examples,
        place: Workplace,
        book: PictureBook,
        respond: Callable[[str], Responses],
    ) -> None:
        place.pulse.beat(tasks=[task.key])
        begun = time.monotonic()
        found = book.study(task.study)
        arrays = _pick(task, found, book)
        if task.saliency is not None and arrays["strongest"].size:
            arrays["saliency"] = _maps(task, arrays, place, respond(task.study.layer))
        (product,) = task.products
        place.committer.submit([task.key], lambda: write_arrays(place.folder, product, arrays))
        facts = place.pulse.facts
        busy = facts["busy"] + time.monotonic() - begun
        place.pulse.beat(done=facts["done"] + task.units, busy=busy)


def _maps(
    task: Examples, arrays: dict[str, NDArray[Any]], place: Workplace, responses: Responses
) -> NDArray[np.uint8]:
    """Saliency maps (n, s, H, W) uint8 of the first photographs of each channel."""
    settings, bench = task.saliency, place.bench
    assert settings is not None
    pictures = arrays["strongest"][:, : settings.photographs]
    photographs = from_bytes(torch.from_numpy(pictures.reshape(-1, *pictures.shape[2:])))
    maps = saliency_maps(
        responses,
        make_objective(bench.recipe.objective),
        photographs.to(bench.device),
        torch.tensor(np.repeat(arrays["channel"], pictures.shape[1]), device=bench.device),
        settings,
        rng.keys(_map_keys(task, arrays), bench.device),
    )
    whole: NDArray[np.uint8] = (maps * 255.0).round().to(torch.uint8).cpu().numpy()
    return whole.reshape(*pictures.shape[:2], *whole.shape[1:])


def _pick(task: Examples, found: LayerStudy, book: PictureBook) -> dict[str, NDArray[Any]]:
    """Which photographs stand for each channel, and their pictures; fewer if there are no more."""
    channels = np.asarray(task.channels, np.int64)
    n = min(task.study.plan.examples, found.count)
    arrays: dict[str, NDArray[Any]] = {"channel": channels}
    for name, ranking in (("strongest", found.top), ("weakest", found.bottom)):
        index = ranking.index[channels, :n]
        pictures = book.pictures(index.ravel().tolist()) if index.size else np.zeros(0, np.uint8)
        arrays[f"{name}_index"] = index
        arrays[name] = pictures.reshape(*index.shape, book.size, book.size, 3)
    return arrays


def _map_keys(task: Examples, arrays: dict[str, NDArray[Any]]) -> list[str]:
    """A random key per map: of study, channel and photograph."""
    assert task.saliency is not None
    shown = arrays["strongest_index"][:, : task.saliency.photographs]
    return [
        digest({"study": task.study.product.key, "channel": channel, "photograph": index})
        for channel, indices in zip(arrays["channel"].tolist(), shown.tolist(), strict=True)
        for index in indices
    ]
