"""Records of failed attempts: how often each task failed, why, and which are in quarantine.

The records are the only count of attempts. A task whose last attempt failed is in quarantine: runs
skip it until `atlas retry` puts it back.
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
    """Key of the task."""
    what: str
    """Description of the task."""
    request: dict[str, Any]
    """The task as it was given to the worker."""
    attempt: int
    given_up: bool
    how: str
    """How the worker ended: exit code or signal."""
    when: str
    """Time by the clock of the driver's machine."""
    worker: str
    host: str
    log: str
    """Path of the worker's log, relative to the output folder."""
    said: str
    """Last lines of the log: a traceback, mostly."""
    files: tuple[str, ...] = ()
    """Paths of the task's files, relative to the output folder."""

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers of the task."""
        layer, layers = self.request.get("layer"), self.request.get("layers")
        if layer:
            return (str(layer),)
        return tuple(map(str, layers)) if isinstance(layers, list) else ()


def write_failure(folder: OutputFolder, failure: Failure) -> None:
    """Write a record. Raises StorageError."""
    write_json(folder.failure(failure.task, failure.attempt), plain(failure))


def attempts_at(folder: OutputFolder, task_key: str) -> int:
    """Count the failed attempts at a task."""
    return len(list(folder.failures.glob(f"{task_key}.*.json")))


def read_failures(folder: OutputFolder, put_back: bool = False) -> list[Failure]:
    """Read all readable records, the latest last.

    Args:
        folder: the output folder.
        put_back: read those that no longer count, instead of those that do.
    """
    paths = (folder.retried if put_back else folder.failures).glob("*.json")
    records = (read_failure(path) for path in paths)
    return sorted((f for f in records if f is not None), key=lambda f: (f.when, f.what, f.attempt))


def read_failure(path: Path) -> Failure | None:
    """Read a record; `None` if it cannot be read."""
    try:
        return build(Failure, read_object(path))
    except (OSError, ValueError, UserError):
        return None


def quarantined(failures: Iterable[Failure]) -> set[str]:
    """Keys of the tasks in quarantine."""
    return {failure.task for failure in failures if failure.given_up}


def put_back(folder: OutputFolder, tasks: Container[str]) -> None:
    """Stop counting the attempts at some tasks; call it under the lock. Nothing is deleted."""
    for path in sorted(folder.failures.glob("*.json")):
        failure = read_failure(path)
        if failure is not None and failure.task in tasks:
            # Moved, not deleted: the tracebacks still explain what happened.
            folder.retried.mkdir(exist_ok=True)
            path.rename(folder.retried / f"{path.stem}.{uuid.uuid4().hex[:8]}.json")


def cause(said: str) -> str:
    """The most telling line of the end of a log: the exception of a traceback.

    >>> cause('Traceback:\\n  File "a.py", line 1, in f\\n    g()\\nValueError: no\\n\\nnote')
    'ValueError: no'
    """
    lines = [line.rstrip() for line in said.splitlines() if line.strip()]
    # The faulthandler of Python writes this line before a crash; no exception follows it.
    fatal = [line for line in lines if line.startswith(_FATAL)]
    frames = [i for i, line in enumerate(lines) if line.startswith(_FRAME)]
    after = [line for line in lines[frames[-1] :] if line[0] != " "] if frames else []
    return (fatal or after or [line.strip() for line in lines[-1:]] or [""])[0]
