"""GPUs that do not compute: each is tried before a sweep, and its failures are counted during it.

A GPU that the driver lists may not compute: the driver is too old, this torch has no kernels for
it, another process holds it, or it is broken. So each runs a kernel before anything is planned for
it. That happens in a child process: the process that plans and schedules never initialises CUDA,
which would cost memory on every GPU, and a broken one can take the process with it.

During a sweep, a broken device must not use up the attempts at all tasks. A task that is at fault
ends workers on any device; a broken device ends workers with any task. So a device that has failed
twice in a row gets no more work, unless it is the last one; and the attempts that it has cost are
given back. If a task that it failed at fails elsewhere too, that failure is no longer held against
the device.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from layer_atlas.config.records import build, parse_object, plain
from layer_atlas.plan.environment import Device, environment_here

SECONDS_PER_GPU = 30.0
"""Longest time for a GPU to answer, after the start of the child."""

_START_SECONDS = 60.0

_NODES = ("nvidia[0-9]*", "kfd", "dxg")
"""Device files of NVIDIA, AMD, and NVIDIA under WSL."""

_TROUBLES = (RuntimeError, AssertionError, OSError)
"""What torch raises where a GPU does not work, or where it is built without CUDA."""

VISIBLE_VARIABLES = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")
"""Environment variables that choose the GPUs that a process sees, of NVIDIA and of AMD."""

_REMEDIES = {
    "driver on your system is too old": "update the driver, or install a torch built for its CUDA",
    "no kernel image": "install a torch that has kernels for it",
    "busy or unavailable": "another process has it for itself (exclusive mode): end that process, "
    "or leave this GPU out",
    "out of memory": "another process holds its memory (see nvidia-smi): end it, or leave this GPU "
    "out",
    "ECC": "its memory is faulty: reset or replace it, or leave it out",
    "no NVIDIA driver": "install the driver, or hide the GPUs with CUDA_VISIBLE_DEVICES=",
    "not compiled with CUDA": "install a torch with CUDA",
}
"""What helps, by a part of the reason."""


@dataclass(frozen=True)
class Gpu:
    """A GPU that was tried."""

    index: int
    """As torch numbers the visible ones."""
    device: Device | None = None
    """What it is; `None` where that could not be found out."""
    trouble: str = ""
    """Reason why it cannot compute; empty if it can."""
    memory: int = 0
    """Its memory in bytes; 0 where that could not be found out."""

    def __str__(self) -> str:
        what = f"cuda:{self.index}"
        if self.device is not None:
            libraries = "".join(f", {k} {v}" for k, v in self.device.libraries.items())
            what += f" ({self.device.name}, capability {self.device.capability}{libraries})"
        return f"{what}: {self.trouble or 'works'}"


def visible_gpus() -> range:
    """The GPUs that torch might use, by number, whether or not they work.

    Where the driver is broken torch counts none; one is assumed then, whose trial tells the reason.
    """
    import torch

    files = any(next(Path("/dev").glob(pattern), None) for pattern in _NODES)
    return range(max(torch.cuda.device_count(), int(files and not _are_hidden())))


def _are_hidden() -> bool:
    return any(os.environ.get(variable) in ("", "-1") for variable in VISIBLE_VARIABLES)


def try_gpus(indices: Sequence[int]) -> list[Gpu]:
    """Run a kernel on some GPUs of this machine, in a child process.

    Args:
        indices: which, as torch numbers the visible ones.
    """
    tried: list[Gpu] = []
    while left := indices[len(tried) :]:
        answers, ending = _answers(left)
        tried += answers
        if len(answers) < len(left):  # it ended at this one; a next child tries the others
            tried.append(Gpu(left[len(answers)], trouble=ending))
    return tried


def trouble_of_device(device: str) -> str:
    """The reason why a GPU does not compute, tried in a child process; empty if it does.

    >>> trouble_of_device("cpu")
    ''
    """
    kind, _, index = device.partition(":")
    return try_gpus([int(index)])[0].trouble if kind == "cuda" else ""


def _answers(indices: Sequence[int]) -> tuple[list[Gpu], str]:
    """Return the GPUs that a child has tried, in order, and how it ended if not as it should."""
    argv = [sys.executable, "-P", "-m", "layer_atlas.sweep.gpus", *map(str, indices)]
    seconds = _START_SECONDS + SECONDS_PER_GPU * len(indices)
    try:
        child = subprocess.run(argv, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        return _parsed(error.stdout or b""), f"no answer within {seconds:g} s"
    signalled = child.returncode < 0
    how = signal.Signals(-child.returncode).name if signalled else f"exit code {child.returncode}"
    last = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return _parsed(child.stdout), ": ".join([f"trying it ended with {how}", *last])


def _parsed(output: bytes) -> list[Gpu]:
    lines = output.decode(errors="replace").splitlines(keepends=True)
    return [build(Gpu, parse_object(line)) for line in lines if line.endswith("\n")]


# --- failures during a sweep ----------------------------------------------------------------------


FAILURES_IN_A_ROW = 2
"""Failures without a success in between, after which a device is suspected."""


@dataclass
class DeviceHealth:
    """The failures of each device since its last success."""

    excluded: dict[str, str] = field(default_factory=dict)
    """Devices that get no more work, with the reason."""
    _failures: dict[str, list[frozenset[str]]] = field(default_factory=dict)
    """Keys of the tasks at which each device failed, failure by failure."""
    _failed_on: dict[str, set[str]] = field(default_factory=dict)
    """Devices that each task has failed on, successes or not."""

    def record_success(self, device: str) -> None:
        """Record that a device has finished a task."""
        self._failures.pop(device, None)

    def record_failure(self, device: str, tasks: frozenset[str]) -> None:
        """Record that a worker on a device ended with some tasks in progress."""
        for task in tasks:
            self._failed_on.setdefault(task, set()).add(device)
        self._failures.setdefault(device, []).append(tasks)
        for failures in self._failures.values():
            failures[:] = [failed for failed in failures if not any(map(self._is_at_fault, failed))]

    def is_suspected(self, device: str) -> bool:
        """Whether a device has failed so often in a row that it may be broken."""
        return len(self._failures.get(device, [])) >= FAILURES_IN_A_ROW

    def exclude(self, device: str, reason: str) -> frozenset[str]:
        """Give a device no more work; returns the tasks that it failed at, and no other device."""
        self.excluded[device] = reason
        return frozenset(task for task, devices in self._failed_on.items() if devices == {device})

    def restored(self) -> list[str]:
        """Take back devices that were excluded for failures of tasks; returns them."""
        sound = [device for device in self.excluded if not self._failures.get(device)]
        for device in sound:
            del self.excluded[device]
        return sound

    def _is_at_fault(self, task: str) -> bool:
        """Whether a task has failed on several devices, for which none of them is at fault."""
        return len(self._failed_on.get(task, ())) > 1


# --- the child process ---------------------------------------------------------------------------


def main(indices: Sequence[str]) -> None:
    """Try GPUs one by one; print each as a line of JSON as soon as it has answered."""
    for index in map(int, indices):
        gpu = Gpu(index, _described(index), trouble_of(index), _memory(index))
        print(json.dumps(plain(gpu)), flush=True)


def _described(index: int) -> Device | None:
    try:
        return environment_here(f"cuda:{index}", ()).device
    except _TROUBLES:  # which computing meets too, and reports
        return None


def _memory(index: int) -> int:
    import torch

    try:
        return int(torch.cuda.get_device_properties(index).total_memory)
    except _TROUBLES:
        return 0


def _compute(index: int) -> None:
    import torch

    device = torch.device("cuda", index)
    # What a sweep needs: a convolution and a matrix product, by cuDNN and cuBLAS.
    images = torch.ones(1, 3, 8, 8, device=device)
    maps = torch.nn.functional.conv2d(images, torch.ones(4, 3, 3, 3, device=device))
    product = float((maps.flatten(1) @ maps.flatten(1).T).sum().cpu())
    if product != 4 * 36 * 27.0**2:
        raise RuntimeError(f"it computes wrongly: {product:g} instead of {4 * 36 * 27**2}")


def trouble_of(index: int) -> str:
    """The reason why a GPU does not compute, in one line with its remedy; empty if it does.

    It is tried in this process, which thereby initialises CUDA.
    """
    try:
        _compute(index)
    except _TROUBLES as error:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        remedy = next((text for part, text in _REMEDIES.items() if part in str(error)), "")
        return f"{reason}; {remedy}" if remedy else reason
    return ""


if __name__ == "__main__":
    main(sys.argv[1:])
