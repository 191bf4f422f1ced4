"""The contract that every executor keeps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Handle:
    """A worker that was started; plain data, so that it can be written down."""

    tag: str
    """Unique name within the output folder."""
    where: str
    """What the engine calls it: a process id, a job id."""


@dataclass(frozen=True)
class State:
    """What a worker is doing: running, or gone with an exit code (negative: killed by a signal)."""

    exit_code: int | None = None

    @property
    def running(self) -> bool:
        """True while the worker has not ended."""
        return self.exit_code is None


class Executor(Protocol):
    """Runs workers somewhere."""

    @property
    def max_parallel(self) -> int:
        """How many workers run at once."""
        ...

    def submit(self, argv: Sequence[str], tag: str, log: Path) -> Handle:
        """Start a worker; what it prints goes to `log`."""
        ...

    def poll(self, handle: Handle) -> State:
        """Look at a worker without waiting."""
        ...

    def cancel(self, handles: Sequence[Handle], grace_seconds: float) -> None:
        """Ask workers to leave; after the grace, make them."""
        ...

    def close(self) -> None:
        """End every worker at once."""
        ...
