"""Looking on from outside: who is at work in an output folder, at what, and how fast.

No clock of one host is compared with another's: workers tell how long they have been at it, and
whether one moves is seen by looking twice.
"""

import time
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from layer_atlas.atlas.gather import LayerView
from layer_atlas.plan.environment import Environment
from layer_atlas.plan.labels import count_images, mixture, remedy
from layer_atlas.plan.plan import Plan, flops_per_job
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.lock import Holder, owner
from layer_atlas.store.shards import DoneIndex
from layer_atlas.sweep.heartbeat import UNITS
from layer_atlas.sweep.workers import detached, read_heartbeat

LOOK_SECONDS = 1.0
"""How long workers are looked at to see whether they move, at most."""

Pulses = dict[str, dict[str, Any] | None]


@dataclass(frozen=True)
class WorkerStatus:
    """A worker as it looks from outside."""

    tag: str
    engine: str
    """Whose queue it may be waiting in; empty: nobody's."""
    heartbeat: dict[str, Any] | None
    """What it last said; `None`: it has not begun."""
    moves: bool
    """Whether it said something else while it was looked at."""

    def fact(self, name: str) -> float:
        """A number of its pulse."""
        return float((self.heartbeat or {}).get(name) or 0.0)

    @property
    def unit(self) -> str:
        """What its work is counted in."""
        return UNITS.get(str((self.heartbeat or {}).get("kind")), "tasks")

    @property
    def has_begun(self) -> bool:
        """Whether it got as far as its first task."""
        return self.fact("tick") > 0

    @property
    def heartbeat_age(self) -> float:
        """How long it takes from one sign of life to the next, on average."""
        return self.fact("seconds") / max(1.0, self.fact("tick"))

    @property
    def tasks(self) -> list[str]:
        """Keys of what it has in hand."""
        heartbeat = self.heartbeat or {}
        return [*(heartbeat.get("tasks") or []), *(heartbeat.get("unwritten") or [])]


@dataclass(frozen=True)
class LiveStatus:
    """Who is at work in an output folder."""

    driver: Holder | None
    workers: tuple[WorkerStatus, ...]

    @property
    def tasks(self) -> set[str]:
        """Keys of what all workers have in hand."""
        return {task for worker in self.workers for task in worker.tasks}

    def rate(self, fact: str, unit: str) -> float:
        """How much of something all workers do in a second.

        As much as they did since each began its first task; those that have nothing to show yet
        are taken to be as fast as the others.
        """
        workers = [w for w in self.workers if w.heartbeat is not None and w.unit == unit]
        rates = [w.fact(fact) / w.fact("seconds") for w in workers if w.fact(fact) > 0]
        return len(workers) * sum(rates) / len(rates) if rates else 0.0

    @property
    def units(self) -> list[str]:
        """What is being worked on, in the words of `UNITS`."""
        return [unit for unit in UNITS.values() if any(w.unit == unit for w in self.workers)]


def live_status(folder: OutputFolder) -> LiveStatus:
    """Who is at work in a folder; takes up to a second, and writes nothing."""
    driver = owner(folder)
    engines = {submission.handle.tag: submission.engine for submission in detached(folder)}
    # Without a driver, workers are at work only if they go on by themselves.
    requests = (path.stem for path in folder.logs.glob("worker-*.json"))
    tags = sorted(requests) if driver is not None else list(engines)
    first, then = _look_twice(folder, tags)
    workers = [WorkerStatus(t, engines.get(t, ""), then[t], first[t] != then[t]) for t in tags]
    gone = [w for w in workers if w.heartbeat is None and first[w.tag] is not None]
    return LiveStatus(driver, tuple(worker for worker in workers if worker not in gone))


def _look_twice(folder: OutputFolder, tags: Sequence[str]) -> tuple[Pulses, Pulses]:
    """The pulses of workers, and later again: once all have moved, or after a while."""
    first = then = {tag: read_heartbeat(folder, tag) for tag in tags}
    end = time.monotonic() + LOOK_SECONDS
    while time.monotonic() < end and any(first[t] and first[t] == then[t] for t in tags):
        time.sleep(LOOK_SECONDS / 10)
        then = {tag: read_heartbeat(folder, tag) for tag in tags}
    return first, then


@dataclass(frozen=True)
class LayerProgress:
    """How many jobs of a layer are in which state; each is in one."""

    model: str
    layer: str
    total: int
    done: int
    running: int
    """In the making, or made and not yet committed."""
    failed: int
    """In quarantine."""
    flops_per_job: float

    @property
    def missing(self) -> int:
        """Neither done nor given up, and nobody is at it."""
        return self.total - self.done - self.running - self.failed

    @property
    def flops_left(self) -> float:
        """What is still to be computed."""
        return (self.running + self.missing) * self.flops_per_job


def layer_progress_of(view: LayerView, at_work: Container[str]) -> LayerProgress:
    """How far a layer is.

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


def mixture_in_store(plan: Plan, views: Iterable[LayerView]) -> list[str]:
    """A sentence if the images that count were made with several environments, else nothing."""
    models: dict[str, Counter[Environment | None]] = {}
    for view in views:
        models.setdefault(view.model.label, Counter()).update(view.environments())
    return [text for text in [mixture(models.values(), remedy(plan))] if text]


def not_counted(folder: OutputFolder, plan: Plan) -> list[str]:
    """How many images are there and count as missing because of what they were made with."""
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
    told = f"{count_images(plan, jobs)} made with other versions or devices"
    return [f"versions  {told}: they count as missing (versions=strict)"]
