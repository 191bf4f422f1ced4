"""The kinds of tasks that a worker does: optimization, dataset statistics, examples.

They share the bundle, the worker around it, the committer and the images.
"""

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from layer_atlas.config.config import ModelConfig
from layer_atlas.config.datasets import DatasetConfig
from layer_atlas.datasets.sources import Listing, open_dataset, stream_views
from layer_atlas.datasets.statistics_files import read_evidence
from layer_atlas.datasets.tasks import LayerStatistics
from layer_atlas.errors import NoDevice, UserError
from layer_atlas.models.load import Network, load_network
from layer_atlas.plan.jobs import NetworkIdentity, Task
from layer_atlas.plan.plan import DatasetPlan, ModelPlan
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.gpus import trouble_of
from layer_atlas.sweep.heartbeat import Heartbeat
from layer_atlas.visualization.optimization.renderer import Renderer

logger = logging.getLogger(__name__)

T = TypeVar("T")
AnyTask = TypeVar("AnyTask", bound=Task)

Commit = Callable[[], None]
"""Encodes and writes what was computed of a task."""


class Committer:
    """Commits finished tasks in a thread, in order, while the next ones are computed.

    Leaving its context writes all that was submitted, however the work ended: only a kill loses
    finished tasks.
    """

    WAITING = 2
    """Submitted batches that may be unwritten; more would take memory and save no time."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        self.heartbeat = heartbeat
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._waiting: deque[tuple[list[str], Future[None]]] = deque()

    def __enter__(self) -> "Committer":
        return self

    def __exit__(self, *exception: object) -> None:
        # Waits for every write, also while an exception passes through.
        self._thread.shutdown()
        self._settle(0)

    def submit(self, keys: Sequence[str], write: Commit) -> None:
        """Submit finished tasks, then wait while too many are unwritten.

        Args:
            keys: of the tasks.
            write: encodes and commits them.
        Raises:
            the error of an earlier commit.
        """
        self._waiting.append((list(keys), self._thread.submit(write)))
        self.heartbeat.tick(tasks=[], unwritten=[key for keys, _ in self._waiting for key in keys])
        self._settle(self.WAITING)

    def _settle(self, most: int) -> None:
        """Drop the written batches; wait until at most so many are unwritten."""
        while self._waiting and (len(self._waiting) > most or self._waiting[0][1].done()):
            keys, written = self._waiting[0]
            error = written.exception()
            if error is not None:
                self.heartbeat.tick(tasks=keys)  # charges these rather than the tasks in progress
                raise error
            self._waiting.popleft()
            logger.debug("committed %d tasks, the first is %s", len(keys), keys[0][:8])


class Drained(Exception):
    """The driver asked workers to begin no further task."""


@dataclass(frozen=True)
class WorkerContext:
    """The worker around a bundle."""

    folder: OutputFolder
    renderer: Renderer
    committer: Committer
    heartbeat: Heartbeat

    def until_drained(self, tasks: Iterable[T]) -> Iterator[T]:
        """Yield tasks; raises Drained once the driver wants no further task to begin."""
        for task in tasks:
            # A file rather than a signal: it reaches workers on other machines too.
            if self.folder.drain.exists():
                raise Drained
            yield task

    def do(self, tasks: Iterable[AnyTask], compute: Callable[[AnyTask], Commit | None]) -> None:
        """Compute the tasks that are not done, one by one, and have each committed.

        Args:
            tasks: in order.
            compute: returns what commits a task, or `None` to leave it to the driver.
        Raises:
            the error of an earlier commit.
        """
        heartbeat = self.heartbeat
        for task in self.until_drained(tasks):
            # Checked as late as possible: a worker thought to be lost may have done it.
            if self.folder.is_done(task):
                continue
            heartbeat.begin([task])
            started = time.monotonic()
            commit = compute(task)
            if commit is None:
                continue
            self.committer.submit([task.key], commit)
            busy = heartbeat.facts["busy"] + time.monotonic() - started
            heartbeat.tick(done=heartbeat.facts["done"] + task.units, busy=busy)


@dataclass(frozen=True)
class LayerTargets:
    """What a bundle file has of a task: targets of a layer."""

    layer: str
    targets: tuple[int, ...]


@dataclass(frozen=True)
class Bundle(ABC):
    """Tasks of one kind and one model, as the bundle file has them."""

    device: str
    """Kind of the devices of all workers, `cuda` or `cpu`; empty if they are of several."""
    models: tuple[ModelConfig, ...]
    """The network, and further ones whose layers the objective reads as well."""
    plan: ModelPlan
    """The plan of the model, with the layers that the tasks need."""
    dataset_plan: DatasetPlan | None
    dataset: DatasetConfig | None

    @abstractmethod
    def run(self, context: WorkerContext) -> None:
        """Do and commit every task that is not done yet.

        Raises:
            StorageError: the disk is full or fails.
        """


def open_context(
    bundle: Bundle,
    folder: OutputFolder,
    committer: Committer,
    heartbeat: Heartbeat,
    device: str | None = None,
) -> WorkerContext:
    """Load the networks of a bundle.

    Raises:
        NoDevice: the device of this worker does not compute.
        UserError: as `open_renderer` does.
    """
    device = device or _own_device(heartbeat.device_kind or bundle.device)
    renderer = open_renderer(bundle.models, bundle.plan, folder, torch.device(device))
    return WorkerContext(folder, renderer, committer, heartbeat)


def _own_device(kind: str) -> str:
    """Return the device of this process, which must be of a kind, unless that is empty.

    A worker that was given a GPU must not compute on the CPU, silently and for days, because the
    driver is too old or the GPU is broken.
    """
    if kind == "cpu" or (not kind and not torch.cuda.is_available()):
        return "cpu"
    # The executor decides what a worker sees: the first visible GPU is its own.
    if trouble := trouble_of(0):
        raise NoDevice(f"this worker is to use a GPU, and cannot: {trouble}")
    return "cuda"


def open_renderer(
    models: Sequence[ModelConfig], plan: ModelPlan, folder: OutputFolder, device: torch.device
) -> Renderer:
    """Load networks onto a device.

    Args:
        models: the network of the plan, and further ones whose layers the objective reads.
        plan: what they were when the sweep was planned.
        folder: has the files that the recipe refers to.
        device: where they compute.
    Raises:
        UserError: weights are no longer those that were planned with.
    """
    # Hours may lie between planning and this: the weights may have changed meanwhile.
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


# --- dataset images ------------------------------------------------------------------------------


_CACHE_BYTES = 2**28
"""Neighbouring channels share dataset images: about so much of them is kept in memory."""


class ImageCache:
    """Reads dataset images by their index in the listing, cut to the view of the network."""

    def __init__(
        self, folder: OutputFolder, plan: DatasetPlan, dataset: DatasetConfig, size: int
    ) -> None:
        self.size = size
        self.dataset_images = open_dataset(dataset)
        self.listing = Listing(folder.listing(plan.listing))
        # One layer's, because tasks come layer by layer.
        self.dataset_stats = lru_cache(maxsize=1)(lambda layer: read_evidence(folder, layer).stats)
        self._images: dict[int, NDArray[np.uint8]] = {}

    def strongest(
        self, statistics: LayerStatistics, channels: Sequence[int], count: int
    ) -> NDArray[np.uint8]:
        """The top dataset images of each channel (n, count, S, S, 3), the strongest first.

        Where there are fewer the strongest is repeated, and black ones stand for none at all.
        """
        indices = self.dataset_stats(statistics).top.index[list(channels), :count]
        indices = np.where(indices < 0, indices[:, :1], indices)
        images = self.images(indices.ravel().tolist())
        black = np.zeros((self.size, self.size, 3), np.uint8)
        return np.stack([[images.get(index, black) for index in row] for row in indices.tolist()])

    def evenly_spread(self, count: int) -> NDArray[np.uint8]:
        """Return up to `count` images (M, S, S, 3), spread over the listing; unreadable ones lack.

        Raises:
            RuntimeError: none can be read.
        """
        some = min(count, self.listing.count)
        indices = [number * self.listing.count // some for number in range(some)]
        numbered = [(i, entry) for i in indices for entry in self.listing.block(i, i + 1)]
        views = stream_views(self.dataset_images, numbered, self.size, torch.get_num_threads())
        pixels = [view.pixels for view in views if view.pixels is not None]
        if not pixels:
            raise RuntimeError(f"none of {some} photographs of the dataset can be read")
        return np.stack(pixels)

    def images(self, indices: Iterable[int]) -> dict[int, NDArray[np.uint8]]:
        """Dataset images (S, S, 3) by their index in the listing; none for -1.

        Raises:
            RuntimeError: an image that could be read no longer can.
        """
        wanted = sorted({index for index in indices if index >= 0})
        # Cleared as a whole: channels are neighbours, so old images are rarely wanted again.
        if len(self._images) * 3 * self.size**2 > _CACHE_BYTES:
            self._images.clear()
        missing = [
            (index, entry)
            for index in wanted
            if index not in self._images
            for entry in self.listing.block(index, index + 1)
        ]
        views = stream_views(self.dataset_images, missing, self.size, torch.get_num_threads())
        for (index, entry), view in zip(missing, views, strict=True):
            if view.pixels is None:
                raise RuntimeError(f"photograph {entry.path} can no longer be read: {view.reason}")
            self._images[index] = view.pixels
        return {index: self._images[index] for index in wanted}
