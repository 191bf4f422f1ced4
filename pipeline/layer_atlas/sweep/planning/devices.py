"""Where workers run: the devices, the precision they compute in, and `versions=strict`."""

import logging
import math
import platform
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from layer_atlas.atlas.gather import layer_views
from layer_atlas.config.executors import ExecutorSettings, InProcessSettings, LocalSettings
from layer_atlas.errors import UserError
from layer_atlas.models.device_model import DeviceModel
from layer_atlas.plan.environment import Device, environment_here
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.plan.plan import Plan
from layer_atlas.processes import usable_cores
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.gpus import Gpu, try_gpus, visible_gpus
from layer_atlas.visualization.optimization.memory import free_host_bytes

logger = logging.getLogger(__name__)

ELSEWHERE = "cuda"
"""A GPU of another machine."""

MOST_WORKERS = 10_000
"""Workers of a cluster; Slurm's default limit of jobs."""

MOST_CPU_WORKERS = 8
BYTES_PER_CPU_WORKER = 2 * 2**30

ASSUMED_GPU_BYTES = 16 * 2**30
"""Memory of a GPU of another machine, for the size of batches."""


@dataclass(frozen=True)
class WorkerDevice:
    """A device that one worker at a time runs on."""

    name: str
    """`cuda:1`, `cpu`; `cuda` for a GPU of another machine."""
    kind: Device | None = None
    """What it is; `None` on another machine."""
    memory: int = 0
    """Memory of a GPU in bytes; 0 if it is not known."""

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU, here or on another machine."""
        return self.name.startswith("cuda")


def find_devices(settings: ExecutorSettings) -> list[WorkerDevice]:
    """Find the devices that workers will run on, as far as they are known beforehand.

    GPUs of this machine are tried. With `auto` those that do not work are excluded, with a warning.
    Elsewhere there is one `cuda` or `cpu` per worker.

    Raises:
        UserError: this machine does not have the device, it does not work, or no cluster takes so
            many workers.
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
    return [WorkerDevice(ELSEWHERE if settings.on_gpus else "cpu")] * count


def _local_devices(devices: str | tuple[str, ...]) -> list[WorkerDevice]:
    gpus = visible_gpus()
    if devices == "auto":
        return _working_gpus(gpus) if gpus else _all_cores()
    names = [devices] if isinstance(devices, str) else list(devices)
    # As torch reads it.
    names = ["cuda:0" if name == "cuda" else name for name in names]
    valid = ["cpu", *(f"cuda:{i}" for i in gpus)]
    for name in names:
        if name not in valid:
            raise UserError(
                f"device {name!r} is not on this machine ({len(gpus)} GPUs){_unsupported(name)}; "
                f"choose from: {', '.join(valid)}, or executor.devices=auto."
            )
    wanted = [index for index in gpus if f"cuda:{index}" in names]
    tried = {f"cuda:{gpu.index}": gpu for gpu in try_gpus(wanted)}
    broken = [str(gpu) for gpu in tried.values() if gpu.trouble]
    if broken:
        raise UserError(f"{'; '.join(broken)}. Choose other executor.devices, or auto.")
    return [_worker(tried[name]) if name in tried else _cpu() for name in names]


def _working_gpus(gpus: Sequence[int]) -> list[WorkerDevice]:
    """Return the GPUs that work.

    Raises:
        UserError: none does. Computing on the CPU instead would take a hundred times as long.
    """
    tried = try_gpus(gpus)
    broken = [gpu for gpu in tried if gpu.trouble]
    if len(broken) == len(tried):
        listed = "; ".join(map(str, broken))
        raise UserError(f"no GPU works: {listed}. To use the CPU instead: executor.devices=cpu.")
    for gpu in broken:
        logger.warning("not used: %s", gpu)
    return [_worker(gpu) for gpu in tried if not gpu.trouble]


def _worker(gpu: Gpu) -> WorkerDevice:
    return WorkerDevice(f"cuda:{gpu.index}", gpu.device, gpu.memory)


def _all_cores() -> list[WorkerDevice]:
    if found := _other_accelerators():
        logger.info("%s found, which are not supported; computing on the CPU", found)
    return [_cpu()] * _cpu_workers()


def _cpu() -> WorkerDevice:
    return WorkerDevice("cpu", environment_here("cpu", ()).device)


def _other_accelerators() -> str:
    """Accelerators of torch that are here and cannot be used, in words; empty if none is."""
    kinds = {"mps": "Apple GPUs (MPS)", "xpu": "Intel GPUs (XPU)"}
    there = (words for name, words in kinds.items() if _is_available(name))
    return " and ".join(there)


def _is_available(name: str) -> bool:
    backend = getattr(torch.backends if name == "mps" else torch, name, None)
    return backend is not None and bool(backend.is_available())


def _unsupported(name: str) -> str:
    is_other = name.partition(":")[0] in ("mps", "xpu")
    return ", and images are made on NVIDIA and AMD GPUs and on CPUs alone" if is_other else ""


def _cpu_workers() -> int:
    """Workers of one thread each are faster than one worker of many: 1.3 times on two cores."""
    fitting = int(free_host_bytes() / BYTES_PER_CPU_WORKER)
    return max(1, min(usable_cores(), MOST_CPU_WORKERS, fitting))


def gpu_memory(devices: Sequence[WorkerDevice]) -> int:
    """Return the bytes of the smallest GPU among some devices; 0 if there is none."""
    gpus = [device.memory or ASSUMED_GPU_BYTES for device in devices if device.is_gpu]
    return min(gpus, default=0)


def resolve_precision(precision: str, devices: Sequence[WorkerDevice]) -> str:
    """Resolve `auto` to bf16 where every device has hardware for it, else to fp32."""
    if precision != "auto":
        return precision
    return "bf16" if all(map(_has_bf16, set(devices))) else "fp32"


def _has_bf16(device: WorkerDevice) -> bool:
    if device.name == ELSEWHERE:  # as all have since 2020; older ones need `precision=fp32`
        return True
    if device.is_gpu:
        major = device.kind.capability.partition(".")[0] if device.kind else "0"
        return int(major) >= 8
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    # Older versions of torch do not have this function.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


# --- versions=strict -----------------------------------------------------------------------------


def with_one_environment(
    plan: Plan, folder: OutputFolder, settings: ExecutorSettings, devices: Sequence[WorkerDevice]
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


def _one_kind(devices: Sequence[WorkerDevice]) -> Device | None:
    first = devices[0].kind
    if any(device.kind != first for device in devices):
        kinds = {device.name: device.kind for device in devices}
        listed = ", ".join(f"{name} is {kind and kind.name}" for name, kind in kinds.items())
        raise UserError(
            f"versions=strict wants all images made on one kind of device, and {listed}. Choose "
            f"executor.devices=[{devices[0].name}], or versions=any."
        )
    return first


_TIMED_STEPS = 3
_WORTH = 0.9
"""Fraction of the time of fp32 that low precision may take; it costs digits."""


def is_faster_than_fp32(device: DeviceModel, layer: LayerInfo) -> bool:
    """Whether the precision of the optimization is faster, by steps of a few images.

    It need not be: hardware multiplies bf16 fast, but networks of depthwise convolutions hardly
    multiply.
    """
    seconds = {device.fast_path: math.inf, device.exact_path: math.inf}
    paths = {choose: choose([layer]) for choose in seconds}
    # In turns, and the best of each: other work on the machine delays both.
    for _ in range(_TIMED_STEPS):
        for choose, path in paths.items():
            started = time.perf_counter()
            device.step(path)
            seconds[choose] = min(seconds[choose], time.perf_counter() - started)
    return seconds[device.fast_path] < _WORTH * seconds[device.exact_path]
