"""Workers as processes of this machine: one per device, each in a session of its own."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence

from layer_atlas.processes import usable_cores
from layer_atlas.sweep.executors.base import RUNNING, Handle, State, WorkerSpec, environment

THREADS_BESIDE_GPU = 4


class LocalExecutor:
    """Runs one worker process per device; CPU workers share the cores evenly.

    A worker is started in a session of its own, so that Ctrl-C in the terminal reaches the driver
    alone, and is told the driver's process id, so that it does not outlive it, and its device.
    """

    detached = False
    poll_seconds = 0.1

    def __init__(self, devices: Sequence[str]) -> None:
        self._free = list(devices)
        self._device: dict[str, str] = {}
        self._process: dict[str, subprocess.Popen[bytes]] = {}
        self.max_parallel = self.max_submitted = len(devices)
        n_cpu = sum(device == "cpu" for device in devices)
        self._threads = max(1, usable_cores() // max(1, n_cpu))

    def submit(self, requests: Sequence[WorkerSpec]) -> list[Handle]:
        """Start workers while there are free devices."""
        return [self._start(request) for request in requests[: len(self._free)]]

    def _start(self, request: WorkerSpec) -> Handle:
        device = self._free.pop(0)
        with open(request.log, "ab") as output:
            process = subprocess.Popen(
                request.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=self._environment(device),
                start_new_session=True,
            )
        self._device[request.tag], self._process[request.tag] = device, process
        return Handle(request.tag, str(process.pid))

    def poll(self, handles: Sequence[Handle]) -> dict[str, State]:
        """Look at workers; the device of one is free again once it has ended."""
        return {handle.tag: self._state(handle.tag) for handle in handles}

    def _state(self, tag: str) -> State:
        code = self._process[tag].poll()
        if code is None:
            return RUNNING
        if tag in self._device:
            self._free.append(self._device.pop(tag))
        return State("ended", code)

    def stop(self, handles: Sequence[Handle]) -> None:
        """SIGTERM."""
        for handle in handles:
            self._process[handle.tag].terminate()

    def kill(self, handles: Sequence[Handle]) -> None:
        """SIGKILL to the workers and all that they started."""
        for handle in handles:
            process = self._process[handle.tag]
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def close(self) -> None:
        """Kill what still runs."""
        self.kill([Handle(tag, "") for tag in self._process])

    def _environment(self, device: str) -> dict[str, str]:
        if device == "cpu":
            return environment(device, self._threads)
        index, visible = device.partition(":")[2], os.environ.get("CUDA_VISIBLE_DEVICES")
        own = visible.split(",")[int(index)] if visible else index
        return {**environment(device, THREADS_BESIDE_GPU), "CUDA_VISIBLE_DEVICES": own}
