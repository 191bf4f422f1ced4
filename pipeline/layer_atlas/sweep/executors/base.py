"""The contract that every executor keeps, and what all of them tell a worker.

An executor runs command lines somewhere and tells how they end. It keeps nothing that a sweep
depends on: the store is the truth, and a worker that is lost is replaced.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from layer_atlas.processes import PARENT_VARIABLE
from layer_atlas.sweep.heartbeat import DEVICE_VARIABLE

_KEEP_MEMORY = {
    # By default the C library returns every large tensor's memory to the kernel when it is freed,
    # so that each step pays page faults for memory it has just had: 2.2 instead of 1.7 ms for
    # forward pass and gradient of a sample.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(256 << 20),
    # Memory kept by one thread's arena is of no use to another's.
    "MALLOC_ARENA_MAX": "2",
}


@dataclass(frozen=True)
class WorkerSpec:
    """A worker to be started."""

    argv: tuple[str, ...]
    tag: str
    """Unique name within the output folder."""
    log: Path
    """What it prints goes to the end of this file."""


@dataclass(frozen=True)
class Handle:
    """A worker that was handed over; plain data, so that it can be written down."""

    tag: str
    job_id: str
    """What the engine calls it: a process id, a job id."""


@dataclass(frozen=True)
class State:
    """What a worker is doing."""

    phase: Literal["waiting", "running", "ended"]
    exit_code: int | None = None
    """Of one that has ended; negative: killed by that signal; `None`: nobody knows."""
    reason: str = ""
    """What the engine says of the end, where it knows more: NODE_FAIL, OUT_OF_MEMORY."""


WAITING, RUNNING = State("waiting"), State("running")


class Executor(Protocol):
    """Runs workers somewhere."""

    @property
    def max_parallel(self) -> int:
        """How many workers run at once."""
        ...

    @property
    def max_submitted(self) -> int:
        """How many may be handed over at once; more than run where an engine has a queue."""
        ...

    @property
    def detached(self) -> bool:
        """Whether workers go on without this process, and another one may ask after them."""
        ...

    @property
    def poll_seconds(self) -> float:
        """How often looking at workers makes sense."""
        ...

    def submit(self, requests: Sequence[WorkerSpec]) -> list[Handle]:
        """Hand over workers, as many of the first as are taken now; the rest is offered again.

        Raises:
            UserError: the engine refuses them for good.
        """
        ...

    def poll(self, handles: Sequence[Handle]) -> dict[str, State]:
        """Look at workers without waiting; their states by their tags."""
        ...

    def stop(self, handles: Sequence[Handle]) -> None:
        """Ask workers to leave (SIGTERM), without waiting."""
        ...

    def kill(self, handles: Sequence[Handle]) -> None:
        """End workers."""
        ...

    def close(self) -> None:
        """Let go of the engine; workers that cannot go on without this process end."""
        ...


def environment(
    device: str, threads: int, variables: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """The variables of a worker that this process starts, and that dies with it.

    Args:
        device: what the worker calls its device; `cpu`: it is to see no GPU.
        threads: for computing on the CPU.
        variables: those around it; what a user has set of what follows stays.
    """
    # It would take the first GPU that it finds, which may be another's.
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {
        **variables,
        **hidden,
        **{name: variables.get(name, value) for name, value in _KEEP_MEMORY.items()},
        "OMP_NUM_THREADS": str(threads),
        # Threads that spin while they wait lose fivefold as soon as anything else runs.
        "OMP_WAIT_POLICY": variables.get("OMP_WAIT_POLICY", "PASSIVE"),
        PARENT_VARIABLE: str(os.getpid()),
        DEVICE_VARIABLE: device,
    }
