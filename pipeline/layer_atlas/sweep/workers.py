"""The workers of a run: the tasks and heartbeat of each, and who is charged when one is lost."""

import re
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from layer_atlas.config.executors import Patience
from layer_atlas.plan.jobs import Task
from layer_atlas.store.failures import Failure, attempts_at, write_failure
from layer_atlas.store.files import read_object, write_json
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.executors.base import WAITING, Handle, State
from layer_atlas.sweep.heartbeat import known_facts


@dataclass
class Worker:
    """A bundle on its way. All times are of this process's steady clock."""

    handle: Handle
    tasks: list[Task]
    started: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    """When it last showed progress."""
    heartbeat: dict[str, Any] = field(default_factory=dict)
    state: State = WAITING
    asked_to_stop: float | None = None
    """When it was."""
    stalled: bool = False
    """It was told to leave because it showed no progress."""
    ended: float | None = None
    """When it was first seen to have ended."""

    @property
    def tag(self) -> str:
        """Its unique name."""
        return self.handle.tag

    @property
    def units(self) -> int:
        """How much it has to do."""
        return sum(task.units for task in self.tasks)

    @property
    def has_begun(self) -> bool:
        """Whether it got as far as its first task."""
        return bool(self.heartbeat.get("tick"))

    def listen(self, folder: OutputFolder) -> None:
        """Read its pulse; another beat is progress."""
        heartbeat = read_heartbeat(folder, self.tag)
        if heartbeat is None:
            return
        if _life(heartbeat) != _life(self.heartbeat):
            self.heard = time.monotonic()
        self.heartbeat = heartbeat

    def keys(self, fact: str) -> list[str]:
        """Keys of tasks that its pulse names."""
        return self.heartbeat.get(fact) or []


def _life(heartbeat: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(heartbeat.get(name) for name in ("host", "pid", "tick"))


def read_heartbeat(folder: OutputFolder, tag: str) -> dict[str, Any] | None:
    """What a worker last said of itself, if it can be read."""
    try:
        return known_facts(read_object(folder.heartbeat(tag)))
    except (OSError, ValueError):
        return None


def log_tail(folder: OutputFolder, tag: str, lines: int = 1) -> str:
    """The end of a worker's log."""
    log = folder.log(tag)
    text = log.read_text(errors="replace") if log.exists() else ""
    return "\n".join(text.strip().splitlines()[-lines:]) or "(it said nothing)"


def forget(folder: OutputFolder, tag: str) -> None:
    """Remove what a worker that is done leaves behind, but for what it said."""
    for path in (
        folder.bundle(tag),
        folder.heartbeat(tag),
        folder.ending(tag),
        folder.submission(tag),
    ):
        path.unlink(missing_ok=True)
    log = folder.log(tag)
    if log.exists() and not log.stat().st_size:
        log.unlink()


# --- workers that go on without their driver -----------------------------------------------------


_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
"""What engines call workers: job ids, and the like."""


@dataclass(frozen=True)
class SubmittedWorker:
    """What must be known of such a worker to take it up again."""

    engine: str
    handle: Handle
    tasks: tuple[str, ...]
    """Keys of what it has to do."""


def write_submission(folder: OutputFolder, engine: str, worker: Worker) -> None:
    """Write a worker down. Raises StorageError."""
    where, keys = worker.handle.job_id, [task.key for task in worker.tasks]
    write_json(folder.submission(worker.tag), {"engine": engine, "where": where, "tasks": keys})


def submissions(folder: OutputFolder) -> Iterator[SubmittedWorker]:
    """The workers that are written down; perhaps they have ended meanwhile.

    Others may have written them down: what becomes part of command lines and paths is a name.
    """
    for path in sorted(folder.logs.glob("worker-*.submitted")):
        try:
            values = read_object(path)
            handle = Handle(path.stem, str(values["where"]))
            if not _NAME.fullmatch(handle.job_id):
                raise ValueError(f"where {handle.job_id!r}")
            yield SubmittedWorker(str(values["engine"]), handle, tuple(map(str, values["tasks"])))
        except (OSError, ValueError, KeyError, TypeError):
            continue


def detached(folder: OutputFolder) -> list[SubmittedWorker]:
    """Those that may still be at work: all that have not written down how they ended."""
    return [s for s in submissions(folder) if not folder.ending(s.handle.tag).exists()]


def clear_requests(folder: OutputFolder) -> None:
    """Remove what earlier runs asked of workers that died with them; under the lock only."""
    kept = {submission.handle.tag for submission in submissions(folder)}
    for path in _requests(folder):
        if path.name.partition(".")[0] not in kept:
            path.unlink(missing_ok=True)


def _requests(folder: OutputFolder) -> Iterable[Any]:
    for pattern in ("worker-*.json", "worker-*.pulse*", "worker-*.exit"):
        yield from folder.logs.glob(pattern)


@dataclass(frozen=True)
class Shares:
    """What a lost worker has left undone."""

    charged: list[Task]
    """With an attempt; each is tried again on its own."""
    alone: list[Task]
    """Under suspicion: not charged, and tried on their own."""
    rest: list[Task]
    """Nothing to do with it."""


def shares(worker: Worker, left: Sequence[Task]) -> Shares:
    """Charge the tasks in the making.

    Tasks that were made and not yet written are charged only if none was in the making, but are on
    their own from then on: if it is writing them that kills, it will show.
    """
    making, unwritten = (
        [task for task in left if task.key in worker.keys(fact)] for fact in ("tasks", "unwritten")
    )
    charged = making or unwritten or list(left[:1])
    alone = [task for task in unwritten if task not in charged]
    return Shares(charged, alone, [t for t in left if t not in charged and t not in alone])


def charge(folder: OutputFolder, worker: Worker, task: Task, patience: Patience) -> Failure:
    """Write down that a task has cost a worker. Raises StorageError."""
    attempt = attempts_at(folder, task.key) + 1
    failure = Failure(
        task=task.key,
        what=str(task),
        request=task.request(),
        attempt=attempt,
        given_up=attempt >= patience.attempts,
        how=how_it_ended(worker, patience),
        when=time.strftime("%Y-%m-%d %H:%M:%S"),
        worker=worker.tag,
        host=str(worker.heartbeat.get("host", "")),
        log=folder.relative(folder.log(worker.tag)),
        said=log_tail(folder, worker.tag, lines=200),
        files=tuple(folder.relative(folder.product(p)) for p in task.products),
    )
    write_failure(folder, failure)
    return failure


def how_it_ended(worker: Worker, patience: Patience) -> str:
    """How a worker ended, for people."""
    if worker.stalled:
        return f"no progress for {patience.stall_seconds:g} s"
    code, told = worker.state.exit_code, worker.state.reason
    if code is None:
        return told or "lost"
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{how}, {told}" if told else how
