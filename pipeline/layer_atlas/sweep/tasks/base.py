"""What every kind of task shares: its bundle, the worker around it, the committer, the images."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from layer_atlas.config.config import ModelConfig
from layer_atlas.config.datasets import DatasetConfig
from layer_atlas.datasets.listing import Entry, Listing
from layer_atlas.datasets.sources import open_dataset
from layer_atlas.datasets.statistics import DatasetStats
from layer_atlas.datasets.statistics_files import read_evidence
from layer_atlas.datasets.tasks import LayerStatistics
from layer_atlas.datasets.views import stream_views
from layer_atlas.errors import UserError
from layer_atlas.models.load import Network, load_network
from layer_atlas.plan.jobs import NetworkIdentity
from layer_atlas.plan.plan import DatasetPlan, ModelPlan
from layer_atlas.processes import usable_cores
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.heartbeat import Heartbeat
from layer_atlas.visualization.optimization.renderer import Renderer

T = TypeVar("T")


class Committer:
    """Commits finished tasks, in order, while the next ones are made.

    Leaving its context writes all that was handed over, however the work ended: what is made is
    lost to nothing less than a kill.
    """

    WAITING = 2
    """Batches handed over and not yet written; more would take memory and win no time."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self.heartbeat = heartbeat
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._waiting: deque[tuple[list[str], Future[None]]] = deque()

    def __enter__(self) -> "Committer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown()
        self._settle(0)

    def submit(self, keys: Sequence[str], write: Callable[[], None]) -> None:
        """Hand over finished tasks, then wait while too many are unwritten.

        Args:
            keys: of the tasks.
            write: encodes and commits them.
        Raises: what earlier ones met.
        """
        self._waiting.append((list(keys), self._thread.submit(write)))
        self.heartbeat.tick(tasks=[], unwritten=[key for keys, _ in self._waiting for key in keys])
        self._settle(self.WAITING)

    def _settle(self, most: int) -> None:
        """Forget what is written; wait until at most so many are not. Raises their error."""
        while self._waiting and (len(self._waiting) > most or self._waiting[0][1].done()):
            keys, written = self._waiting[0]
            error = written.exception()
            if error is not None:
                self.heartbeat.tick(tasks=keys)  # charged for it, rather than those in the making
                raise error
            self._waiting.popleft()


class Bundle(Protocol):
    """Tasks of one kind and one model."""

    @property
    def models(self) -> tuple[ModelConfig, ...]:
        """How to load the network, and further ones that its images are for as well."""
        ...

    @property
    def plan(self) -> ModelPlan:
        """What is wanted of it; of its layers only those that the tasks need."""
        ...

    def run(self, place: "WorkerContext") -> None:
        """Do and commit every task that is not done yet."""
        ...


@dataclass(frozen=True)
class WorkerContext:
    """Where the tasks of a bundle are done."""

    folder: OutputFolder
    renderer: Renderer
    committer: Committer
    heartbeat: Heartbeat

    def until_asked_to_stop(self, tasks: Iterable[T]) -> Iterator[T]:
        """The tasks, until the driver wants no more of them to be begun."""
        for task in tasks:
            if self.folder.drain.exists():
                raise Drained
            yield task


class Drained(Exception):
    """The driver wants no more tasks to be begun."""


def open_workplace(
    bundle: Bundle, folder: OutputFolder, committer: Committer, heartbeat: Heartbeat
) -> WorkerContext:
    """Load the networks of a bundle; raises UserError as `open_bench` does."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    renderer = open_renderer(bundle.models, bundle.plan, folder, device)
    return WorkerContext(folder, renderer, committer, heartbeat)


def open_renderer(
    models: Sequence[ModelConfig], plan: ModelPlan, folder: OutputFolder, device: torch.device
) -> Renderer:
    """Load networks onto a device.

    Args:
        models: the network of the plan, and further ones that its images are for as well.
        plan: what they were when the sweep was planned.
        folder: has the files that the recipe refers to.
        device: where.
    Raises:
        UserError: weights are no longer those that were planned with.
    """
    networks = {model.title: _as_planned(model, plan.networks[model.title]) for model in models}
    main = networks.pop(plan.label)
    return Renderer(main, plan.recipe, device, networks, folder.input)


def _as_planned(model: ModelConfig, planned: NetworkIdentity) -> Network:
    network = replace(load_network(model), fixed_size=planned.fixed_size)
    if network.identity != planned:
        raise UserError(
            f"the weights of model {network.label!r} are not those that the sweep was planned "
            "with; run it again to make the atlas of the new ones."
        )
    return network


_KEPT_BYTES = 2**28
"""Photographs that neighbouring channels share are read once; about so much of them is kept."""


class ImageCache:
    """Looks up photographs of a dataset, cut to the view of the network."""

    def __init__(
        self, folder: OutputFolder, plan: DatasetPlan, dataset: DatasetConfig, size: int
    ) -> None:
        self.folder, self.size = folder, size
        self.dataset_images = open_dataset(dataset)
        self.listing = Listing(folder.listing(plan.listing))
        self.dataset_stats = lru_cache(maxsize=1)(self._study)
        self._kept: dict[int, NDArray[np.uint8]] = {}

    def strongest(
        self, dataset_stats: LayerStatistics, channels: Sequence[int]
    ) -> NDArray[np.uint8]:
        """The photograph that each channel answers to most (n, S, S, 3)."""
        index = self.dataset_stats(dataset_stats).top.index[list(channels), 0].tolist()
        pictures = self.pictures(index)
        nothing = np.zeros((self.size, self.size, 3), np.uint8)
        return np.stack([pictures.get(i, nothing) for i in index])

    def pictures(self, indices: Iterable[int]) -> dict[int, NDArray[np.uint8]]:
        """Photographs by their places in the listing, each (S, S, 3); none for -1.

        Raises:
            RuntimeError: one that could be read no longer can.
        """
        wanted = sorted({index for index in indices if index >= 0})
        if len(self._kept) * 3 * self.size**2 > _KEPT_BYTES:
            self._kept.clear()
        missing = [index for index in wanted if index not in self._kept]
        numbered = [(index, self._entry(index)) for index in missing]
        views = stream_views(self.dataset_images, numbered, self.size, reading_threads())
        for (index, entry), view in zip(numbered, views, strict=True):
            if view.pixels is None:
                raise RuntimeError(f"photograph {entry.path} can no longer be read: {view.reason}")
            self._kept[index] = view.pixels
        return {index: self._kept[index] for index in wanted}

    def _entry(self, index: int) -> Entry:
        (entry,) = self.listing.block(index, index + 1)
        return entry

    def _study(self, dataset_stats: LayerStatistics) -> DatasetStats:
        return read_evidence(self.folder, dataset_stats).stats


def reading_threads() -> int:
    """Threads that read photographs: all cores feed a GPU; a CPU's have the network to run."""
    cores = usable_cores()
    return cores if torch.cuda.is_available() else torch.get_num_threads()
