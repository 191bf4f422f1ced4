"""Workers as processes of this machine: one per device, each in a session of its own."""

import contextlib
import os
import signal
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence

from layer_atlas.processes import usable_cores
from layer_atlas.sweep.executors.base import (
    RUNNING,
    State,
    WorkerJob,
    WorkerSpec,
    environment,
    start_worker,
)
from layer_atlas.sweep.executors.warm import WarmWorker, start_warm
from layer_atlas.sweep.gpus import VISIBLE_VARIABLES


class LocalExecutor:
    """Runs one worker process per device; workers share the cores evenly.

    Each worker has its own session, so that Ctrl-C in the terminal reaches the driver alone, and
    knows the driver's process id, so that it does not outlive it.
    """

    detached = False
    poll_seconds = 0.1

    def __init__(self, devices: Sequence[str]) -> None:
        self.use(devices)
        self._device: dict[str, str] = {}
        self._process: dict[str, subprocess.Popen[bytes] | WarmWorker] = {}
        # Threads beyond the cores would only wait for each other; those of a worker with a GPU read
        # and resize dataset images for it.
        self._threads = max(1, usable_cores() // max(1, len(devices)))

    def use(self, devices: Sequence[str]) -> None:
        """Start workers on these devices alone; those that run go on."""
        self._devices = list(devices)
        self.max_parallel = self.max_submitted = len(devices)

    def submit(self, specs: Sequence[WorkerSpec]) -> list[WorkerJob]:
        """Start workers while there are free devices."""
        free = list((Counter(self._devices) - Counter(self._device.values())).elements())
        return [self._start(spec, device) for spec, device in zip(specs, free, strict=False)]

    def _start(self, spec: WorkerSpec, device: str) -> WorkerJob:
        variables = self._environment(device)
        process = start_warm(spec.argv, spec.log, variables) or start_worker(
            spec.argv, spec.log, variables, own_session=True
        )
        self._device[spec.tag], self._process[spec.tag] = device, process
        return WorkerJob(spec.tag, str(process.pid))

    def poll(self, jobs: Sequence[WorkerJob]) -> dict[str, State]:
        """Poll processes; the device of an ended one is free again."""
        return {job.tag: self._state(job.tag) for job in jobs}

    def _state(self, tag: str) -> State:
        code = self._process[tag].poll()
        if code is None:
            return RUNNING
        self._device.pop(tag, None)
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
                if isinstance(process, WarmWorker):
                    process.kill_session()
                else:
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
        index = int(device.partition(":")[2])
        return {**environment(device, self._threads), **_only_visible(index)}


def _only_visible(index: int, variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that show one of the visible GPUs to a process, by its number.

    >>> _only_visible(1, {"CUDA_VISIBLE_DEVICES": "4,MIG-7"})
    {'CUDA_VISIBLE_DEVICES': 'MIG-7'}
    """
    chosen = {name: variables[name] for name in VISIBLE_VARIABLES if variables.get(name)}
    # AMD's own variable is heeded before NVIDIA's, so it must not name the others still.
    return {name: value.split(",")[index] for name, value in chosen.items()} or {
        VISIBLE_VARIABLES[0]: str(index)
    }
