"""Records of failed attempts: how often each task was tried, what happened, what is given up.

The records are the only count of attempts. A task whose last attempt failed is in quarantine: runs
leave it alone until it is put back.
"""

import uuid
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layer_atlas.config.records import build, plain
from layer_atlas.errors import UserError
from layer_atlas.store.files import read_object, write_json
from layer_atlas.store.folder import OutputFolder

_FRAME, _FATAL = '  File "', "Fatal Python error: "


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
    files: tuple[str, ...] = ()
    """What the task would have left, relative to the output folder."""

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that it was about."""
        layer, layers = self.request.get("layer"), self.request.get("layers")
        if layer:
            return (str(layer),)
        return tuple(map(str, layers)) if isinstance(layers, list) else ()


def write_failure(folder: OutputFolder, failure: Failure) -> None:
    """Write a record down. Raises StorageError."""
    write_json(folder.failure(failure.task, failure.attempt), plain(failure))


def attempts_at(folder: OutputFolder, task_key: str) -> int:
    """How often a task failed."""
    return len(list(folder.failures.glob(f"{task_key}.*.json")))


def read_failures(folder: OutputFolder, put_back: bool = False) -> list[Failure]:
    """All records that can be read, the latest last.

    Args:
        folder: where they lie.
        put_back: those from before their task was put back, instead of those that count.
    """
    paths = (folder.retried if put_back else folder.failures).glob("*.json")
    found = (read_failure(path) for path in paths)
    return sorted((f for f in found if f is not None), key=lambda f: (f.when, f.what, f.attempt))


def read_failure(path: Path) -> Failure | None:
    """A record, if it can be read."""
    try:
        return build(Failure, read_object(path))
    except (OSError, ValueError, UserError):
        return None


def quarantined(failures: Iterable[Failure]) -> set[str]:
    """Keys of the tasks that are given up."""
    return {failure.task for failure in failures if failure.given_up}


def put_back(folder: OutputFolder, tasks: Container[str]) -> None:
    """Have the attempts at some tasks count no more; under the lock only. Nothing is deleted."""
    for path in sorted(folder.failures.glob("*.json")):
        failure = read_failure(path)
        if failure is not None and failure.task in tasks:
            folder.retried.mkdir(exist_ok=True)
            path.rename(folder.retried / f"{path.stem}.{uuid.uuid4().hex[:8]}.json")


def cause(said: str) -> str:
    """The line of a worker's last words that says most: of a traceback, the exception.

    >>> cause('Traceback:\\n  File "a.py", line 1, in f\\n    g()\\nValueError: no\\n\\nnote')
    'ValueError: no'
    """
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith(_FATAL)]
    frames = [i for i, line in enumerate(lines) if line.startswith(_FRAME)]
    after = [line for line in lines[frames[-1] :] if line[0] != " "] if frames else []
    return (fatal or after or [line.strip() for line in lines[-1:]] or [""])[0]
