"""The contract of executors, and the environment variables of every worker.

An executor runs command lines somewhere and reports how they end. A sweep depends on nothing that
it keeps: the store is the truth, and a lost worker is replaced.
"""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from layer_atlas.processes import PARENT_VARIABLE
from layer_atlas.sweep.gpus import VISIBLE_VARIABLES
from layer_atlas.sweep.heartbeat import DEVICE_VARIABLE

# `-P`: a module of the working folder must not replace one of the package.
WORKER_COMMAND = (sys.executable, "-P", "-m", "layer_atlas", "worker")
"""Begin of the command line of every worker; its output folder and its bundle follow."""

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
    """Its output is appended to this file."""


@dataclass(frozen=True)
class WorkerJob:
    """A submitted worker; plain data, so that it can be recorded in a file."""

    tag: str
    job_id: str
    """The engine's name for it: a process id, a job id."""


@dataclass(frozen=True)
class State:
    """The state of a worker."""

    phase: Literal["waiting", "running", "ended"]
    exit_code: int | None = None
    """Exit code of an ended worker; negative if a signal killed it, `None` if unknown."""
    reason: str = ""
    """The engine's reason for the end, if it has one: NODE_FAIL, OUT_OF_MEMORY."""


WAITING, RUNNING = State("waiting"), State("running")


class Executor(Protocol):
    """Runs workers somewhere."""

    @property
    def max_parallel(self) -> int:
        """Number of workers that run at once."""

    @property
    def max_submitted(self) -> int:
        """Number of workers that may be submitted at once; larger where an engine has a queue."""

    @property
    def detached(self) -> bool:
        """Whether workers outlive this process, and another process may poll them."""

    @property
    def poll_seconds(self) -> float:
        """Interval between two polls."""

    def submit(self, specs: Sequence[WorkerSpec]) -> list[WorkerJob]:
        """Submit as many of the first workers as fit now; the scheduler offers the rest again.

        Raises:
            UserError: the engine refuses them for good.
        """

    def poll(self, jobs: Sequence[WorkerJob]) -> dict[str, State]:
        """Return the states of workers by their tags, without waiting."""

    def stop(self, jobs: Sequence[WorkerJob]) -> None:
        """Send workers SIGTERM, without waiting."""

    def kill(self, jobs: Sequence[WorkerJob]) -> None:
        """Kill workers."""

    def close(self) -> None:
        """Release the engine; workers that are not detached end."""


@runtime_checkable
class DeviceChooser(Protocol):
    """An executor that can do without some of its devices."""

    def use(self, devices: Sequence[str]) -> None:
        """Start workers on these of its devices alone; those that run go on."""


def start_worker(
    argv: Sequence[str], log: Path, variables: Mapping[str, str], own_session: bool = False
) -> "subprocess.Popen[bytes]":
    """Start a worker on this machine; its output is appended to a log."""
    with open(log, "ab") as output:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=variables,
            start_new_session=own_session,
        )


def environment(
    device: str, threads: int, variables: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Make the variables of a worker that this process starts, and that dies with it.

    Args:
        device: name of the worker's device; with `cpu` the worker sees no GPU.
        threads: for computing on the CPU.
        variables: of this process; memory and wait settings that a user made stay.
    """
    # Without this a CPU worker takes the first GPU that it finds, which may be another's.
    hidden = dict.fromkeys(VISIBLE_VARIABLES, "") if device == "cpu" else {}
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
