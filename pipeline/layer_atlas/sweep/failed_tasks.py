"""Cases: what became of the tasks that failed, in the light of what the next run would do."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from layer_atlas.config.config import Config
from layer_atlas.config.records import build
from layer_atlas.errors import unknown
from layer_atlas.store.failures import Failure, put_back, quarantined, read_failures
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import plan_of
from layer_atlas.sweep.stages import Sweep, stages

State = Literal["in quarantine", "to be tried again", "done since", "no longer wanted"]

SHORT_KEY = 8
"""So many digits of a key tell the tasks of a sweep apart."""


@dataclass(frozen=True)
class FailedTask:
    """A task that failed."""

    earlier: tuple[Failure, ...]
    """Attempts from before it was put back."""
    attempts: tuple[Failure, ...]
    """Those since, which count; the latest last."""
    state: State

    @property
    def last(self) -> Failure:
        """The latest attempt."""
        return (*self.earlier, *self.attempts)[-1]

    @property
    def key(self) -> str:
        """Enough of the task's key."""
        return self.last.task[:SHORT_KEY]

    @property
    def is_open(self) -> bool:
        """Whether the task is wanted and not done."""
        return self.state in ("in quarantine", "to be tried again")


def read_failed_tasks(folder: OutputFolder, manifest: dict[str, Any]) -> list[FailedTask]:
    """Every task of which there are records of failures, the latest last. Raises UserError."""
    earlier, attempts = (_by_task(read_failures(folder, put_back)) for put_back in (True, False))
    last = {task: failures[-1] for task, failures in (earlier | attempts).items()}
    undone = {task for task, failure in last.items() if not is_done(folder, failure)}
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
    found: dict[str, list[Failure]] = {}
    for failure in failures:
        found.setdefault(failure.task, []).append(failure)
    return found


def _missing(folder: OutputFolder, manifest: dict[str, Any]) -> set[str]:
    """Keys of the tasks that the next run would look at."""
    config = build(Config, manifest["config"])
    sweep = Sweep(config, plan_of(manifest), folder, manifest["devices"])
    return {task.key for stage in stages(sweep) for task in stage.missing()}


def select(cases: Sequence[FailedTask], words: Sequence[str]) -> list[FailedTask]:
    """The cases that words name: beginnings of keys, or names of layers; all if there are none.

    Raises:
        UserError: a word names none.
    """
    for word in words:
        if not any(_is_named(case, word) for case in cases):
            names = {name for case in cases for name in (*case.last.layers, case.key)}
            raise unknown("failed task or layer", word, names)
    return [case for case in cases if not words or any(_is_named(case, word) for word in words)]


def _is_named(case: FailedTask, word: str) -> bool:
    return bool(word) and (case.last.task.startswith(word) or word in case.last.layers)


def retry(folder: OutputFolder, manifest: dict[str, Any], words: Sequence[str]) -> list[FailedTask]:
    """Put back what is in quarantine, or what of it words name; under the lock only.

    Returns: what was put back.
    Raises:
        UserError: a word names no task that failed.
    """
    cases = select(read_failed_tasks(folder, manifest), words)
    chosen = [case for case in cases if case.state == "in quarantine"]
    put_back(folder, {case.last.task for case in chosen})
    return chosen
