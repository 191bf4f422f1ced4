"""Workers as processes of this machine: one per device, each in a session of its own."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from pipeline.executors.base import Handle, State

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


class LocalExecutor:
    """Runs one worker process per device; CPU workers share the cores evenly.

    A worker is started in a session of its own, so that Ctrl-C in the terminal reaches the driver
    alone, and is told the driver's process id, so that it does not outlive it, and its device.
    """

    def __init__(self, devices: Sequence[str], parent_variable: str, device_variable: str) -> None:
        self._free = list(devices)
        self._device: dict[str, str] = {}
        self._process: dict[str, subprocess.Popen[bytes]] = {}
        self._parent_variable, self._device_variable = parent_variable, device_variable
        self._max_parallel = len(devices)
        n_cpu = sum(device == "cpu" for device in devices)
        self._threads = max(1, len(os.sched_getaffinity(0)) // max(1, n_cpu))

    @property
    def max_parallel(self) -> int:
        """One worker per device."""
        return self._max_parallel

    def submit(self, argv: Sequence[str], tag: str, log: Path) -> Handle:
        """Start a worker on a free device."""
        device = self._free.pop(0)
        with open(log, "ab") as output:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self._environment(device)},
                start_new_session=True,
            )
        self._device[tag], self._process[tag] = device, process
        return Handle(tag, str(process.pid))

    def poll(self, handle: Handle) -> State:
        """Look at a worker; its device is free again once it has ended."""
        code = self._process[handle.tag].poll()
        if code is not None and handle.tag in self._device:
            self._free.append(self._device.pop(handle.tag))
        return State(code)

    def cancel(self, handles: Sequence[Handle], grace_seconds: float) -> None:
        """SIGTERM to all, then SIGKILL to those that stay longer than the grace."""
        processes = [self._process[handle.tag] for handle in handles]
        for process in processes:
            process.terminate()
        end = time.monotonic() + grace_seconds
        for process in processes:
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                _kill_session(process)

    def close(self) -> None:
        """Kill what still runs."""
        for process in self._process.values():
            if process.poll() is None:
                _kill_session(process)

    def _environment(self, device: str) -> dict[str, str]:
        kind, _, index = device.partition(":")
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        if kind == "cuda" and visible:
            index = visible.split(",")[int(index)]
        return {
            "CUDA_VISIBLE_DEVICES": index,
            "OMP_NUM_THREADS": str(self._threads if kind == "cpu" else 4),
            # Threads that spin while they wait lose fivefold as soon as anything else runs.
            "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
            **{name: os.environ.get(name, value) for name, value in _KEEP_MEMORY.items()},
            self._parent_variable: str(os.getpid()),
            self._device_variable: device,
        }


def _kill_session(process: "subprocess.Popen[bytes]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
