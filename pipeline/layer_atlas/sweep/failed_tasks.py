"""Failed tasks: their attempts, whether the next run tries them again, and how to retry them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from layer_atlas.config.config import Config
from layer_atlas.config.records import build
from layer_atlas.errors import unknown
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import plan_of
from layer_atlas.store.quarantine import Failure, put_back, quarantined, read_failures
from layer_atlas.sweep.stages import Sweep, stages

State = Literal["in quarantine", "to be tried again", "done since", "no longer wanted"]

SHORT_KEY = 8
"""Digits of a key that distinguish the tasks of a sweep."""


@dataclass(frozen=True)
class FailedTask:
    """A task that failed."""

    earlier: tuple[Failure, ...]
    """Attempts from before it was put back."""
    attempts: tuple[Failure, ...]
    """Attempts since, which count; the latest last."""
    state: State

    @property
    def last(self) -> Failure:
        """The latest attempt."""
        return (*self.earlier, *self.attempts)[-1]

    @property
    def key(self) -> str:
        """The first digits of the task's key."""
        return self.last.task[:SHORT_KEY]

    @property
    def is_open(self) -> bool:
        """Whether the task is wanted and not done."""
        return self.state in ("in quarantine", "to be tried again")


def read_failed_tasks(folder: OutputFolder, manifest: dict[str, Any]) -> list[FailedTask]:
    """Read every task with a failure record, the latest last. Raises UserError."""
    earlier, attempts = (_by_task(read_failures(folder, put_back)) for put_back in (True, False))
    last = {task: failures[-1] for task, failures in (earlier | attempts).items()}
    # The files tell, not the records: a lost worker may have committed after all.
    undone = {task for task, failure in last.items() if not is_done(folder, failure)}
    # Working out what the next run would do takes seconds.
    wanted = _missing(folder, manifest) if undone else set()
    given_up = quarantined(failure for failures in attempts.values() for failure in failures)

    def state(task: str) -> State:
        if task not in undone:
            return "done since"
        if task not in wanted:
            return "no longer wanted"
        return "in quarantine" if task in given_up else "to be tried again"

    return [
        FailedTask(tuple(earlier.get(task, ())), tuple(attempts.get(task, ())), state(task))
        for task in sorted(last, key=lambda task: last[task].when)
    ]


def is_done(folder: OutputFolder, failure: Failure) -> bool:
    """Whether a task that failed is done now."""
    files = [folder.root / file for file in failure.files]
    return bool(files) and all(file.exists() for file in files)


def _by_task(failures: Iterable[Failure]) -> dict[str, list[Failure]]:
    by_task: dict[str, list[Failure]] = {}
    for failure in failures:
        by_task.setdefault(failure.task, []).append(failure)
    return by_task


def _missing(folder: OutputFolder, manifest: dict[str, Any]) -> set[str]:
    """Keys of the tasks that the next run would do."""
    config = build(Config, manifest["config"])
    sweep = Sweep(config, plan_of(manifest), folder, manifest["devices"])
    return {task.key for stage in stages(sweep) for task in stage.missing()}


def select(failed: Sequence[FailedTask], names: Sequence[str]) -> list[FailedTask]:
    """Select tasks by beginnings of keys or names of layers; all if there are none.

    Raises:
        UserError: a name matches no task.
    """
    for name in names:
        if not any(_matches(task, name) for task in failed):
            valid = {valid for task in failed for valid in (*task.last.layers, task.key)}
            raise unknown("failed task or layer", name, valid)
    return [task for task in failed if not names or any(_matches(task, name) for name in names)]


def _matches(task: FailedTask, name: str) -> bool:
    return bool(name) and (task.last.task.startswith(name) or name in task.last.layers)


def retry(folder: OutputFolder, manifest: dict[str, Any], names: Sequence[str]) -> list[FailedTask]:
    """Put quarantined tasks back for the next run; call it under the lock only.

    Args:
        folder: of the sweep.
        manifest: of the sweep.
        names: beginnings of keys or names of layers; all tasks if there are none.
    Returns:
        the tasks that were put back.
    Raises:
        UserError: a name matches no task that failed.
    """
    failed = select(read_failed_tasks(folder, manifest), names)
    chosen = [task for task in failed if task.state == "in quarantine"]
    put_back(folder, {task.last.task for task in chosen})
    return chosen
