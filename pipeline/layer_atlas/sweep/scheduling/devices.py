"""Devices: where workers will run, and the number format that the hardware there has."""

import platform
from typing import Any

import torch

from layer_atlas.config.executors import ExecutorSettings, LocalSettings
from layer_atlas.errors import UserError
from layer_atlas.processes import usable_cores
from layer_atlas.visualization.optimization.memory import free_host_bytes


def resolve_precision(precision: str, devices: list[str]) -> str:
    """`auto` becomes bf16 where every device has hardware for it, else fp32."""
    if precision != "auto":
        return precision
    return "bf16" if all(_has_bf16(device) for device in devices) else "fp32"


ELSEWHERE = "cuda"
"""A GPU of another machine."""


def _has_bf16(device: str) -> bool:
    if device == ELSEWHERE:  # as all have since 2020; for older ones `precision` must be given
        return True
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(torch.device(device)) >= (8, 0)
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    # Not in every torch.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


MOST_WORKERS = 10_000
"""Of a cluster; Slurm's own limit of jobs, unless its administrator sets another."""

MOST_CPU_WORKERS = 8
BYTES_PER_CPU_WORKER = 2 * 2**30


def _cpu_workers() -> int:
    """Workers of one thread each are faster than one worker of many: 1.3 times on two cores."""
    fitting = int(free_host_bytes() / BYTES_PER_CPU_WORKER)
    return max(1, min(usable_cores(), MOST_CPU_WORKERS, fitting))


def find_devices(settings: ExecutorSettings) -> list[str]:
    """The devices that workers will run on, as far as they are known beforehand.

    On this machine they are named: `cuda:1`, `cpu`. Elsewhere they are only `cuda` or `cpu`, one
    per worker.

    Raises:
        UserError: a device that this machine does not have.
    """
    if isinstance(settings, LocalSettings):
        return _devices_here(settings.devices)
    count = settings.most_workers
    if count > MOST_WORKERS:
        raise UserError(
            f"executor={settings.name} is asked for {count} workers at once; {MOST_WORKERS} is the "
            "most that clusters take."
        )
    return [ELSEWHERE if settings.on_gpus else "cpu"] * count


def _devices_here(devices: str | tuple[str, ...]) -> list[str]:
    """The chosen ones; `auto` is all GPUs, else the CPU once per worker that it can bear."""
    n_gpus = torch.cuda.device_count()
    if devices == "auto":
        return [f"cuda:{i}" for i in range(n_gpus)] or ["cpu"] * _cpu_workers()
    names = [devices] if isinstance(devices, str) else list(devices)
    names = ["cuda:0" if name == "cuda" else name for name in names]
    valid = ["cpu", *(f"cuda:{i}" for i in range(n_gpus))]
    for name in names:
        if name not in valid:
            raise UserError(
                f"device {name!r} is not on this machine ({n_gpus} GPUs); "
                f"choose from: {', '.join(valid)}, or executor.devices=auto."
            )
    return names
