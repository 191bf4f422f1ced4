"""A worker as a thread of the driver's process: nothing to start, and modules in memory are there.

It does the same bundles by the same code as a worker process, and reports by the same files.
"""

import contextlib
import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from layer_atlas.errors import EXIT_USER_ERROR
from layer_atlas.logs import LogFormatter
from layer_atlas.processes import Preempted
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.executors.base import RUNNING, State, WorkerJob, WorkerSpec
from layer_atlas.sweep.heartbeat import Heartbeat

_PACKAGE = "layer_atlas"
_LONGEST_STEP = 60.0
"""Seconds after which a thread that was asked to stop is taken to hang, and left behind."""


class InProcessExecutor:
    """Runs one bundle at a time in a thread. A thread cannot be killed: it stops between steps."""

    max_parallel = max_submitted = 1
    detached = False
    poll_seconds = 0.05

    def __init__(self, device: str) -> None:
        self._device = device
        self._threads: dict[str, _Worker] = {}

    def submit(self, specs: Sequence[WorkerSpec]) -> list[WorkerJob]:
        """Start the first bundle, unless one is in progress."""
        if any(worker.is_alive() for worker in self._threads.values()):
            return []
        for spec in specs[:1]:
            self._threads[spec.tag] = _Worker(spec, self._device)
            self._threads[spec.tag].start()
        return [WorkerJob(spec.tag, spec.tag) for spec in specs[:1]]

    def poll(self, jobs: Sequence[WorkerJob]) -> dict[str, State]:
        """Look whether the threads still run."""
        return {job.tag: self._state(self._threads[job.tag]) for job in jobs}

    def _state(self, worker: "_Worker") -> State:
        return RUNNING if worker.is_alive() else State("ended", worker.exit_code)

    def stop(self, jobs: Sequence[WorkerJob]) -> None:
        """Have threads stop at their next step."""
        for job in jobs:
            self._threads[job.tag].stopping.set()

    kill = stop

    def close(self) -> None:
        """Stop the thread that still runs, and wait for its commits."""
        for worker in self._threads.values():
            worker.stopping.set()
            worker.join(_LONGEST_STEP)


class _Worker(threading.Thread):
    """The thread of a bundle."""

    def __init__(self, spec: WorkerSpec, device: str) -> None:
        # A daemon, so that a step that hangs does not keep a program from ending.
        super().__init__(name=spec.tag, daemon=True)
        self.spec, self.device = spec, device
        self.stopping = threading.Event()
        self.exit_code: int | None = None

    def run(self) -> None:
        """Do the bundle that the command line of the worker names."""
        # Here, because it imports torch, which scheduling alone does without.
        from layer_atlas.sweep.worker import attempt
        from layer_atlas.visualization.optimization.cuda_graphs import (
            GRAPHS_VARIABLE,
            CaptureFailed,
        )

        folder, bundle = OutputFolder(Path(self.spec.argv[-2])), Path(self.spec.argv[-1])
        heartbeat = _StoppableHeartbeat(folder, self.spec.tag, self.stopping)
        heartbeat.facts["device"] = self.device
        with _logging_to(self.spec.log):
            try:
                self.exit_code = attempt(folder, bundle, heartbeat, self._report, self.device)
            except CaptureFailed as error:
                self._report(
                    f"CUDA graphs of a step failed ({error}), after which torch cannot go on: "
                    f"restart this Python process with {GRAPHS_VARIABLE}=0 in its environment."
                )
                self.exit_code = EXIT_USER_ERROR

    def _report(self, message: object) -> None:
        """Write what the driver quotes as the last line of the worker's log."""
        with contextlib.suppress(OSError), open(self.spec.log, "a", errors="replace") as log:
            print(message, file=log)


class _StoppableHeartbeat(Heartbeat):
    """A heartbeat at which the thread stops if it is asked to.

    A user who presses Ctrl-C in a notebook waits for a step rather than for a shard.
    """

    def __init__(self, folder: OutputFolder, tag: str, stopping: threading.Event) -> None:
        super().__init__(folder.heartbeat(tag))
        self._drain, self._stopping = folder.drain, stopping

    def tick(self, **facts: Any) -> None:
        """Update facts. Raises Preempted."""
        super().tick(**facts)
        if self._stopping.is_set() or self._drain.exists():
            raise Preempted


@contextlib.contextmanager
def _logging_to(log: Path) -> Iterator[None]:
    """Write the records of this thread to a file, as a worker process does."""
    thread = threading.get_ident()
    handler = logging.FileHandler(log, delay=True, errors="backslashreplace")
    handler.setFormatter(LogFormatter())
    handler.addFilter(lambda record: record.thread == thread)
    package = logging.getLogger(_PACKAGE)
    package.addHandler(handler)
    try:
        yield
    finally:
        package.removeHandler(handler)
        handler.close()
