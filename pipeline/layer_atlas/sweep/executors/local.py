"""Workers as processes of this machine: one per device, each in a session of its own."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from layer_atlas.processes import usable_cores
from layer_atlas.sweep.executors.base import (
    RUNNING,
    State,
    WorkerJob,
    WorkerSpec,
    environment,
    start_worker,
)

THREADS_BESIDE_GPU = 4


class LocalExecutor:
    """Runs one worker process per device; CPU workers share the cores evenly.

    Each worker has its own session, so that Ctrl-C in the terminal reaches the driver alone, and
    knows the driver's process id, so that it does not outlive it.
    """

    detached = False
    poll_seconds = 0.1

    def __init__(self, devices: Sequence[str]) -> None:
        self._free = list(devices)
        self._device: dict[str, str] = {}
        self._process: dict[str, subprocess.Popen[bytes]] = {}
        self.max_parallel = self.max_submitted = len(devices)
        # Threads beyond the cores would only wait for each other.
        n_cpu = sum(device == "cpu" for device in devices)
        self._threads = max(1, usable_cores() // max(1, n_cpu))

    def submit(self, specs: Sequence[WorkerSpec]) -> list[WorkerJob]:
        """Start workers while there are free devices."""
        return [self._start(spec) for spec in specs[: len(self._free)]]

    def _start(self, spec: WorkerSpec) -> WorkerJob:
        device = self._free.pop(0)
        variables = self._environment(device)
        process = start_worker(spec.argv, spec.log, variables, own_session=True)
        self._device[spec.tag], self._process[spec.tag] = device, process
        return WorkerJob(spec.tag, str(process.pid))

    def poll(self, jobs: Sequence[WorkerJob]) -> dict[str, State]:
        """Poll processes; the device of an ended one is free again."""
        return {job.tag: self._state(job.tag) for job in jobs}

    def _state(self, tag: str) -> State:
        code = self._process[tag].poll()
        if code is None:
            return RUNNING
        if tag in self._device:
            self._free.append(self._device.pop(tag))
        return State("ended", code)

    def stop(self, jobs: Sequence[WorkerJob]) -> None:
        """Send SIGTERM."""
        for job in jobs:
            self._process[job.tag].terminate()

    def kill(self, jobs: Sequence[WorkerJob]) -> None:
        """Send SIGKILL to workers and all processes that they started."""
        for job in jobs:
            process = self._process[job.tag]
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):  # it may end just now
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def close(self) -> None:
        """Kill the workers that still run."""
        self.kill([WorkerJob(tag, "") for tag in self._process])

    def _environment(self, device: str) -> dict[str, str]:
        if device == "cpu":
            return environment(device, self._threads)
        # `cuda:1` is the second of the GPUs that this process sees, which may itself see only some.
        index, visible = device.partition(":")[2], os.environ.get("CUDA_VISIBLE_DEVICES")
        own = visible.split(",")[int(index)] if visible else index
        return {**environment(device, THREADS_BESIDE_GPU), "CUDA_VISIBLE_DEVICES": own}
