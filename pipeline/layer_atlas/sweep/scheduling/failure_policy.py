"""When a worker is lost: how, which of its tasks that is charged to, and the record of it."""

import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass

from layer_atlas.config.executors import ExecutorSettings
from layer_atlas.plan.jobs import Task
from layer_atlas.store.failures import Failure, attempts_at, write_failure
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.scheduling.workers import Worker, log_tail


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


def charge(folder: OutputFolder, worker: Worker, task: Task, patience: ExecutorSettings) -> Failure:
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


def how_it_ended(worker: Worker, patience: ExecutorSettings) -> str:
    """How a worker ended, for people."""
    if worker.stalled:
        return f"no progress for {patience.stall_seconds:g} s"
    code, told = worker.state.exit_code, worker.state.reason
    if code is None:
        return told or "lost"
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return f"{how}, {told}" if told else how
