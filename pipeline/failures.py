"""Records of failed attempts: how often each task was tried, what happened, what is given up.

The records are the only count of attempts. A task whose last attempt failed is in quarantine: runs
leave it alone until it is put back.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.records import build, plain
from pipeline.store import OutputFolder, write_json


@dataclass(frozen=True)
class Failure:
    """One failed attempt at a task."""

    task: str
    """Its key."""
    what: str
    """The task for people."""
    request: dict[str, Any]
    """What a worker was told of it."""
    attempt: int
    given_up: bool
    how: str
    """How the worker ended."""
    when: str
    """By the clock of the machine that the run was on."""
    worker: str
    host: str
    log: str
    """What the worker said, relative to the output folder."""
    said: str
    """Its last lines: a traceback, mostly."""


def write_failure(folder: OutputFolder, failure: Failure) -> None:
    """Write a record down. Raises StorageError."""
    write_json(folder.failure(failure.task, failure.attempt), plain(failure))


def attempts_at(folder: OutputFolder, task_key: str) -> int:
    """How often a task failed."""
    return len(list(folder.failures.glob(f"{task_key}.*.json")))


def read_failures(folder: OutputFolder) -> list[Failure]:
    """All records that can be read, the latest last."""
    found = (_read(path) for path in folder.failures.glob("*.json"))
    return sorted((f for f in found if f is not None), key=lambda f: (f.when, f.what, f.attempt))


def quarantined(failures: Iterable[Failure]) -> set[str]:
    """Keys of the tasks that are given up."""
    return {failure.task for failure in failures if failure.given_up}


def _read(path: Path) -> Failure | None:
    try:
        return build(Failure, json.loads(path.read_text()))
    except (OSError, ValueError, TypeError, RecursionError, AttributeError, UserError):
        return None
