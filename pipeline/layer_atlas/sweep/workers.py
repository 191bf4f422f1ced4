"""The driver's view of its workers: tasks, heartbeats, logs; what a lost worker is charged to.

`worker.py` is the process itself; here is what its driver, and other processes, know of it.
"""

import re
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from layer_atlas.config.executors import ExecutorSettings
from layer_atlas.logs import without_routine
from layer_atlas.plan.jobs import Task
from layer_atlas.store.files import read_object, write_json
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.quarantine import Failure, attempts_at, write_failure
from layer_atlas.sweep.executors.base import WAITING, State, WorkerJob
from layer_atlas.sweep.heartbeat import known_facts


@dataclass
class Worker:
    """A submitted bundle. All times are of this process's monotonic clock."""

    job: WorkerJob
    tasks: list[Task]
    started: float = field(default_factory=time.monotonic)
    last_progress: float = field(default_factory=time.monotonic)
    """When its heartbeat last changed."""
    heartbeat: dict[str, Any] = field(default_factory=dict)
    state: State = WAITING
    stopped_at: float | None = None
    """When it was last asked to stop, or killed."""
    stalled: bool = False
    """It was stopped because its heartbeat stalled."""
    ended_at: float | None = None
    """When it was first seen to have ended."""

    @property
    def tag(self) -> str:
        """Its unique name."""
        return self.job.tag

    @property
    def units(self) -> int:
        """How much it has to do."""
        return sum(task.units for task in self.tasks)

    @property
    def has_begun(self) -> bool:
        """Whether it reached its first task."""
        return bool(self.heartbeat.get("tick"))

    def update_heartbeat(self, folder: OutputFolder) -> None:
        """Read its heartbeat; a change since the last reading is progress."""
        heartbeat = read_heartbeat(folder, self.tag)
        if heartbeat is None:
            return
        if _tick(heartbeat) != _tick(self.heartbeat):
            self.last_progress = time.monotonic()
        self.heartbeat = heartbeat

    def keys(self, fact: str) -> list[str]:
        """Keys of tasks that its heartbeat names."""
        return self.heartbeat.get(fact) or []


def _tick(heartbeat: Mapping[str, Any]) -> tuple[Any, ...]:
    # A requeued job counts from 0 again, in another process.
    return tuple(heartbeat.get(name) for name in ("host", "pid", "tick"))


def read_heartbeat(folder: OutputFolder, tag: str) -> dict[str, Any] | None:
    """The facts of a worker's last heartbeat, if it can be read."""
    try:
        return known_facts(read_object(folder.heartbeat(tag)))
    except (OSError, ValueError):
        return None


def log_tail(folder: OutputFolder, tag: str, lines: int = 1) -> str:
    """The last lines of a worker's log, without its routine records."""
    log = folder.log(tag)
    text = without_routine(log.read_text(errors="replace")) if log.exists() else ""
    return "\n".join(text.strip().splitlines()[-lines:]) or "(it said nothing)"


def remove_files(folder: OutputFolder, tag: str) -> None:
    """Remove what an ended worker leaves behind; a log that says something stays."""
    for path in (folder.bundle, folder.heartbeat, folder.ending, folder.submission):
        path(tag).unlink(missing_ok=True)
    log = folder.log(tag)
    if log.exists() and not log.stat().st_size:
        log.unlink()


# --- failure policy ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attribution:
    """The tasks that a lost worker left, by their part in the failure."""

    charged: list[Task]
    """Charged with an attempt; each is retried in a bundle of its own."""
    suspects: list[Task]
    """Not charged, but retried in bundles of their own."""
    rest: list[Task]
    """Not involved."""


def attribute_failure(worker: Worker, left: Sequence[Task]) -> Attribution:
    """Charge the tasks in progress when a worker was lost.

    Finished tasks that were not yet written are charged only if none was in progress, but become
    suspects otherwise: if writing one of them kills workers, its next attempt shows it.
    """
    in_progress, unwritten = (
        [task for task in left if task.key in worker.keys(fact)] for fact in ("tasks", "unwritten")
    )
    # With neither, something must be charged, or the sweep would go on forever.
    charged = in_progress or unwritten or list(left[:1])
    suspects = [task for task in unwritten if task not in charged]
    rest = [task for task in left if task not in charged and task not in suspects]
    return Attribution(charged, suspects, rest)


def record_failure(
    folder: OutputFolder, worker: Worker, task: Task, patience: ExecutorSettings
) -> Failure:
    """Record that a task has cost a worker; its last attempt puts it in quarantine.

    Raises:
        StorageError: the disk is full or fails.
    """
    attempt = attempts_at(folder, task.key) + 1
    failure = Failure(
        task=task.key,
        what=str(task),
        request=task.request(),
        attempt=attempt,
        given_up=attempt >= patience.attempts,
        how=end_reason(worker, patience),
        when=time.strftime("%Y-%m-%d %H:%M:%S"),
        worker=worker.tag,
        host=str(worker.heartbeat.get("host", "")),
        log=folder.relative(folder.log(worker.tag)),
        said=log_tail(folder, worker.tag, lines=200),
        files=tuple(folder.relative(folder.product(p)) for p in task.products),
    )
    write_failure(folder, failure)
    return failure


def end_reason(worker: Worker, patience: ExecutorSettings) -> str:
    """Why a worker ended, for people: `exit code 1`, `killed by SIGKILL, OUT_OF_MEMORY`."""
    if worker.stalled:
        return f"no progress for {patience.stall_seconds:g} s"
    # Without an exit code, the engine may still know: NODE_FAIL.
    code, reason = worker.state.exit_code, worker.state.reason
    if code is None:
        return reason or "lost"
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{how}, {reason}" if reason else how


# --- detached workers ----------------------------------------------------------------------------


_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
"""Job ids of engines."""


@dataclass(frozen=True)
class Submission:
    """The record of a detached worker, by which another process can adopt it."""

    engine: str
    job: WorkerJob
    tasks: tuple[str, ...]
    """Keys of its tasks."""


def write_submission(folder: OutputFolder, engine: str, worker: Worker) -> None:
    """Record a detached worker. Raises StorageError."""
    record = {"engine": engine, "job_id": worker.job.job_id, "tasks": [t.key for t in worker.tasks]}
    write_json(folder.submission(worker.tag), record)


def submissions(folder: OutputFolder) -> Iterator[Submission]:
    """The recorded detached workers; some may have ended meanwhile.

    The records may be somebody else's, and job ids become part of command lines and paths: only
    plain names are accepted.
    """
    for path in sorted(folder.logs.glob("worker-*.submitted")):
        try:
            values = read_object(path)
            job = WorkerJob(path.stem, str(values["job_id"]))
            if not _NAME.fullmatch(job.job_id):
                raise ValueError(f"job id {job.job_id!r}")
            yield Submission(str(values["engine"]), job, tuple(map(str, values["tasks"])))
        except (OSError, ValueError, KeyError, TypeError):
            continue


def detached(folder: OutputFolder) -> list[Submission]:
    """The detached workers that have not recorded their end, and may still be running."""
    return [s for s in submissions(folder) if not folder.ending(s.job.tag).exists()]


def clear_requests(folder: OutputFolder) -> None:
    """Remove the files of workers that died with an earlier driver; call it under the lock only."""
    # Detached workers still need theirs.
    kept = {submission.job.tag for submission in submissions(folder)}
    for pattern in ("worker-*.json", "worker-*.heartbeat*", "worker-*.exit"):
        for path in folder.logs.glob(pattern):
            if path.name.partition(".")[0] not in kept:
                path.unlink(missing_ok=True)
