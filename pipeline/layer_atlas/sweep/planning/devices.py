"""Where workers run: the devices, the precision they compute in, and `versions=strict`."""

import platform
from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from layer_atlas.atlas.gather import layer_views
from layer_atlas.config.executors import ExecutorSettings, InProcessSettings, LocalSettings
from layer_atlas.errors import UserError
from layer_atlas.plan.environment import Device, environment_here
from layer_atlas.plan.plan import Plan
from layer_atlas.processes import usable_cores
from layer_atlas.store.folder import OutputFolder
from layer_atlas.visualization.optimization.memory import free_host_bytes

ELSEWHERE = "cuda"
"""A GPU of another machine."""

MOST_WORKERS = 10_000
"""Workers of a cluster; Slurm's default limit of jobs."""

MOST_CPU_WORKERS = 8
BYTES_PER_CPU_WORKER = 2 * 2**30


def find_devices(settings: ExecutorSettings) -> list[str]:
    """Find the devices that workers will run on, as far as they are known beforehand.

    On this machine they have names: `cuda:1`, `cpu`. Elsewhere there is one `cuda` or `cpu` per
    worker.

    Raises:
        UserError: this machine does not have the device, or no cluster takes so many workers.
    """
    if isinstance(settings, LocalSettings):
        return _local_devices(settings.devices)
    if isinstance(settings, InProcessSettings):
        return _local_devices(settings.device)[:1]
    count = settings.most_workers
    if count > MOST_WORKERS:
        raise UserError(
            f"executor={settings.name} is asked for {count} workers at once; {MOST_WORKERS} is the "
            "most that clusters take."
        )
    return [ELSEWHERE if settings.on_gpus else "cpu"] * count


def _local_devices(devices: str | tuple[str, ...]) -> list[str]:
    n_gpus = torch.cuda.device_count()
    if devices == "auto":
        return [f"cuda:{i}" for i in range(n_gpus)] or ["cpu"] * _cpu_workers()
    names = [devices] if isinstance(devices, str) else list(devices)
    # As torch reads it.
    names = ["cuda:0" if name == "cuda" else name for name in names]
    valid = ["cpu", *(f"cuda:{i}" for i in range(n_gpus))]
    for name in names:
        if name not in valid:
            raise UserError(
                f"device {name!r} is not on this machine ({n_gpus} GPUs); "
                f"choose from: {', '.join(valid)}, or executor.devices=auto."
            )
    return names


def _cpu_workers() -> int:
    """Workers of one thread each are faster than one worker of many: 1.3 times on two cores."""
    fitting = int(free_host_bytes() / BYTES_PER_CPU_WORKER)
    return max(1, min(usable_cores(), MOST_CPU_WORKERS, fitting))


def resolve_precision(precision: str, devices: list[str]) -> str:
    """Resolve `auto` to bf16 where every device has hardware for it, else to fp32."""
    if precision != "auto":
        return precision
    return "bf16" if all(_has_bf16(device) for device in devices) else "fp32"


def _has_bf16(device: str) -> bool:
    if device == ELSEWHERE:  # as all have since 2020; for older ones `precision` must be given
        return True
    if device.startswith("cuda"):
        return torch.cuda.get_device_capability(torch.device(device)) >= (8, 0)
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    # Older versions of torch do not have this function.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


# --- versions=strict -----------------------------------------------------------------------------


def with_one_environment(
    plan: Plan, folder: OutputFolder, settings: ExecutorSettings, devices: list[str]
) -> Plan:
    """Count only images that were made with the installed versions, on one kind of device.

    Local workers run on this machine's device. The device of a cluster is not known beforehand: it
    is the one on which most images were made with these versions, if there are any.

    Raises:
        UserError: the local devices are of several kinds.
    """
    if isinstance(settings, LocalSettings | InProcessSettings):
        return _requiring(plan, _one_kind(devices))
    with_versions = _requiring(plan, None)
    made: Counter[Device | None] = Counter()
    # Views of a plan with versions count only images that were made with them.
    for view in layer_views(folder, with_versions):
        for environment, count in view.environments().items():
            made[environment.device if environment else None] += count
    return _requiring(plan, made.most_common(1)[0][0]) if made else with_versions


def _requiring(plan: Plan, device: Device | None) -> Plan:
    models = []
    for model in plan.models:
        sources = [network.source for network in model.networks.values()]
        environment = replace(environment_here(None, sources), device=device)
        models.append(replace(model, environment=environment))
    return replace(plan, models=tuple(models))


def _one_kind(devices: list[str]) -> Device | None:
    kinds = {name: environment_here(name, ()).device for name in dict.fromkeys(devices)}
    first, *_ = kinds.values()
    if any(kind != first for kind in kinds.values()):
        listed = ", ".join(f"{name} is {kind and kind.name}" for name, kind in kinds.items())
        raise UserError(
            f"versions=strict wants all images made on one kind of device, and {listed}. Choose "
            f"executor.devices=[{devices[0]}], or versions=any."
        )
    return first
