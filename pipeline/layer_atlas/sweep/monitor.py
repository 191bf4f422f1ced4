"""Progress of a sweep: a bar for people, and who is at work, at what, and how far each layer is.

No clock of one host is compared with another's: workers report how long they have been at work, and
whether one makes progress is seen by looking twice.
"""

import logging
import math
import sys
import time
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TextIO

from tqdm import tqdm

from layer_atlas.atlas.gather import LayerView
from layer_atlas.logs import terminal_shows
from layer_atlas.plan.environment import Environment
from layer_atlas.plan.labels import count_images, mixture, remedy
from layer_atlas.plan.plan import Plan, flops_per_job
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.lock import Holder, owner
from layer_atlas.store.resume import DoneIndex
from layer_atlas.sweep.heartbeat import UNIT_OF_KIND
from layer_atlas.sweep.workers import detached, read_heartbeat

LOOK_SECONDS = 1.0
"""Longest time between the two looks at the workers."""

Heartbeats = dict[str, dict[str, Any] | None]


@dataclass(frozen=True)
class WorkerStatus:
    """A worker as seen from outside."""

    tag: str
    engine: str
    """The engine in whose queue it may wait; empty if it is not detached."""
    heartbeat: dict[str, Any] | None
    """Its last heartbeat; `None` if it has not begun."""
    moves: bool
    """Whether its heartbeat changed between two looks."""

    def fact(self, name: str) -> float:
        """A number of its heartbeat."""
        return float((self.heartbeat or {}).get(name) or 0.0)

    @property
    def unit(self) -> str:
        """What `done` counts."""
        return UNIT_OF_KIND.get(str((self.heartbeat or {}).get("kind")), "tasks")

    @property
    def has_begun(self) -> bool:
        """Whether it reached its first task."""
        return self.fact("tick") > 0

    @property
    def heartbeat_age(self) -> float:
        """Mean seconds from one tick to the next."""
        return self.fact("seconds") / max(1.0, self.fact("tick"))

    @property
    def tasks(self) -> list[str]:
        """Keys of its tasks that are in progress or unwritten."""
        heartbeat = self.heartbeat or {}
        return [*(heartbeat.get("tasks") or []), *(heartbeat.get("unwritten") or [])]


@dataclass(frozen=True)
class LiveStatus:
    """Who is at work in an output folder."""

    driver: Holder | None
    workers: tuple[WorkerStatus, ...]

    @property
    def tasks(self) -> set[str]:
        """Keys of the tasks of all workers that are in progress or unwritten."""
        return {task for worker in self.workers for task in worker.tasks}

    def rate(self, fact: str, unit: str) -> float:
        """A fact per second, of all workers that count a unit.

        Each is measured since its first task began; workers that have finished nothing yet are
        taken to be as fast as the mean of the others.
        """
        workers = [w for w in self.workers if w.heartbeat is not None and w.unit == unit]
        # By each worker's own clock.
        rates = [w.fact(fact) / w.fact("seconds") for w in workers if w.fact(fact) > 0]
        return len(workers) * sum(rates) / len(rates) if rates else 0.0

    @property
    def units(self) -> list[str]:
        """The units that workers count, in the order of `UNIT_OF_KIND`."""
        return [unit for unit in UNIT_OF_KIND.values() if any(w.unit == unit for w in self.workers)]


def live_status(folder: OutputFolder) -> LiveStatus:
    """Find who is at work in a folder; takes up to LOOK_SECONDS and writes nothing."""
    driver = owner(folder)
    engines = {submission.job.tag: submission.engine for submission in detached(folder)}
    # Files of workers that died with their driver may still be there.
    bundles = (path.stem for path in folder.logs.glob("worker-*.json"))
    tags = sorted(bundles) if driver is not None else list(engines)
    first, then = _look_twice(folder, tags)
    workers = [WorkerStatus(t, engines.get(t, ""), then[t], first[t] != then[t]) for t in tags]
    # A driver removes the heartbeat of a worker that has ended between the two looks.
    gone = [w for w in workers if w.heartbeat is None and first[w.tag] is not None]
    return LiveStatus(driver, tuple(worker for worker in workers if worker not in gone))


def _look_twice(folder: OutputFolder, tags: Sequence[str]) -> tuple[Heartbeats, Heartbeats]:
    """Read the heartbeats, and again once all have changed or the time is over."""
    first = then = {tag: read_heartbeat(folder, tag) for tag in tags}
    end = time.monotonic() + LOOK_SECONDS
    while time.monotonic() < end and any(first[t] and first[t] == then[t] for t in tags):
        time.sleep(LOOK_SECONDS / 10)
        then = {tag: read_heartbeat(folder, tag) for tag in tags}
    return first, then


# --- layers --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerProgress:
    """Number of jobs of a layer in each state; every job is in one."""

    model: str
    layer: str
    total: int
    done: int
    running: int
    """In progress, or finished and not yet committed."""
    failed: int
    """In quarantine."""
    flops_per_job: float

    @property
    def missing(self) -> int:
        """Jobs in no other state."""
        return self.total - self.done - self.running - self.failed

    @property
    def flops_left(self) -> float:
        """FLOPs that are still to be computed."""
        return (self.running + self.missing) * self.flops_per_job


def layer_progress_of(view: LayerView, at_work: Container[str]) -> LayerProgress:
    """Count the jobs of a layer.

    Args:
        view: of the layer.
        at_work: keys of the tasks that workers have in hand.
    """
    total = len(view.layer.targets) * len(view.plan.seeds)
    left = running = failed = 0
    for _, shard in view.left():
        left += shard.units
        if shard.key in at_work:
            running += shard.units
        elif shard.key in view.given_up:
            failed += shard.units
    return LayerProgress(
        model=view.model.label,
        layer=view.layer.info.name,
        total=total,
        done=total - left,
        running=running,
        failed=failed,
        flops_per_job=flops_per_job(view.layer, view.model.recipe),
    )


# --- versions ------------------------------------------------------------------------------------


def mixture_in_store(plan: Plan, views: Iterable[LayerView]) -> list[str]:
    """A sentence if the images were made with several environments, else nothing."""
    models: dict[str, Counter[Environment | None]] = {}
    for view in views:
        models.setdefault(view.model.label, Counter()).update(view.environments())
    return [text for text in [mixture(models.values(), remedy(plan))] if text]


def not_counted(folder: OutputFolder, plan: Plan) -> list[str]:
    """A sentence if images count as missing because of their environment, else nothing."""
    if not plan.environments:
        return []
    strict, lenient = DoneIndex(folder, plan.environments), DoneIndex(folder)
    jobs = sum(
        sum(shard.units for shard in strict.missing([shard]))
        - sum(shard.units for shard in lenient.missing([shard]))
        for shard in plan.shards()
    )
    if not jobs:
        return []
    images = f"{count_images(plan, jobs)} made with other versions or devices"
    return [f"versions  {images}: they count as missing (versions=strict)"]


logger = logging.getLogger(__name__)

_LINE_SECONDS = 10.0
_FIRST_LINE_SECONDS = 2.0
_FORMAT = "{desc} {bar} {n:.0f}/{total} {unit} [{elapsed}{postfix}]"


class Bar:
    """Shows what is finished, the rate, the time left, and how busy the devices are.

    Args:
        stage: what is being done.
        total: units that are missing.
        already: units that are done.
        unit: what is counted.
        devices: where.
        expected: estimated seconds, for the time left until something is finished.
    """

    def __init__(
        self,
        stage: str,
        total: int,
        already: int,
        unit: str,
        devices: Sequence[str],
        expected: float = math.inf,
    ) -> None:
        self.stage, self.total, self.unit, self.expected = stage, total, unit, expected
        self.slots = max(1, len(devices))
        self._bar: tqdm[None] | None = None
        self._started = time.monotonic()
        self._next_line = self._started + _FIRST_LINE_SECONDS
        if already and total:
            logger.info("%d of %d %s are done already", already, already + total, unit)
        if total and _is_live(sys.stderr) and terminal_shows(__name__, logging.INFO):
            where = f"{stage} on {_counted(devices)}"
            self._bar = tqdm(total=total, unit=unit, desc=where, bar_format=_FORMAT)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, finished: float, busy: float) -> None:
        """Show it.

        Args:
            finished: how many are; fractions count those in the making.
            busy: seconds that workers spent making them.
        """
        if self._bar is not None:
            left = f"{duration(self._left(finished))} left"
            self._bar.set_postfix_str(f"{left}, {self._share(busy)}", refresh=False)
            self._bar.update(max(0.0, finished - self._bar.n))
        if time.monotonic() > self._next_line:
            self._next_line = time.monotonic() + _LINE_SECONDS
            # Beside a bar the line is for the log of the run alone.
            level = logging.INFO if self._bar is None else logging.DEBUG
            logger.log(level, self._line(finished, busy))

    def _line(self, finished: float, busy: float) -> str:
        seconds = self._seconds()
        return (
            f"{self.stage}: {finished:.0f}/{self.total} {self.unit}, {finished / seconds:.2f}/s, "
            f"{duration(seconds)} elapsed, {duration(self._left(finished))} left, "
            f"devices {self._share(busy)}"
        )

    def _left(self, finished: float) -> float:
        """Estimated seconds until all are finished.

        The first units say little, since workers start and set up layers before them. So the rate
        counts as much as there is finished of all, and the estimate for the rest.
        """
        fraction = min(1.0, finished / max(self.total, 1))
        if fraction == 0.0:
            return max(self.expected, self._seconds())
        rest = 1.0 - fraction
        by_rate = rest * self._seconds() / fraction
        if math.isinf(self.expected) or not rest:
            return by_rate
        # An estimate that proved too short is of no use.
        return fraction * by_rate + rest * rest * max(self.expected, self._seconds())

    def _share(self, busy: float) -> str:
        """The fraction of their time in which the devices made something.

        Workers that an earlier run left at work may have been busy for longer than this one.
        """
        return f"busy {100 * min(1.0, busy / (self.slots * self._seconds())):.0f} %"

    def _seconds(self) -> float:
        return max(time.monotonic() - self._started, 1e-9)


def _is_live(stream: TextIO) -> bool:
    """Whether a stream shows a line that changes: a terminal, or a cell of a notebook."""
    return stream.isatty() or type(stream).__module__.startswith("ipykernel")


def _counted(devices: Sequence[str]) -> str:
    """Devices for people.

    >>> _counted(["cpu", "cpu", "cuda:0"])
    '2 x cpu, cuda:0'
    """
    counts = {device: devices.count(device) for device in devices}
    return ", ".join(name if n == 1 else f"{n} x {name}" for name, n in counts.items())


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(8000)
    '2 h 13 min'
    """
    if seconds == float("inf"):
        return "unknown time"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if minutes < 100:
        return f"{minutes:.0f} min"
    if hours < 48:
        return f"{int(hours)} h {int(minutes % 60)} min"
    return f"{days:.1f} days"
