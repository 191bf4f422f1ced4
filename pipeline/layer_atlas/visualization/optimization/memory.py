"""How large a batch may be: memory measured on small batches, and what if it does not suffice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from layer_atlas.processes import usable_cores

T = TypeVar("T")

_GPU_SHARE = 0.8
_CPU_SHARE = 0.5
"""Share of the memory free now that a batch may take."""

_SMALL, _LARGE = 8, 16

_WORDS = ("can't allocate memory", "bad_alloc", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
"""What tells errors that have no class of their own: the CPU's, and those of CUDA's libraries."""


def if_it_fits(make: Callable[[], T], least: bool = False) -> T | None:
    """What a function makes; None if there is no memory for it.

    Args:
        make: may run out of memory.
        least: there is nothing smaller to try, so that running out of memory is an error.
    """
    try:
        return make()
    except (RuntimeError, MemoryError) as error:
        if least or not _is_out_of_memory(error):
            raise
    torch.cuda.empty_cache()  # only now: the error held on to all that was made until then
    return None


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error) for words in _WORDS)


def bytes_per_sample(run: Callable[[int], Any], device: torch.device) -> float:
    """Memory that one more sample takes at the peak of a run.

    Args:
        run: does all that is done with a batch of the given size.
        device: where.
    """
    peak = _gpu_peak if device.type == "cuda" else _cpu_peak
    return max((peak(run, _LARGE) - peak(run, _SMALL)) / (_LARGE - _SMALL), 1.0)


def samples_that_fit(sample_bytes: float, device: torch.device) -> int:
    """How many samples of that size a batch may hold, at least one."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(device)[0] * _GPU_SHARE
    else:
        # Who has been given half of the cores takes no more than half of the memory.
        part_of_machine = min(1.0, torch.get_num_threads() / usable_cores())
        free = free_host_bytes() * _CPU_SHARE * part_of_machine
    return max(1, int(free / sample_bytes))


def _gpu_peak(run: Callable[[int], Any], batch: int) -> float:
    torch.cuda.reset_peak_memory_stats()
    run(batch)
    return float(torch.cuda.max_memory_allocated())


def _cpu_peak(run: Callable[[int], Any], batch: int) -> float:
    """Twice what is kept for the backward pass, whose own tensors come on top of it."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run(batch)
    return 2.0 * sum(kept.values())


def free_host_bytes() -> float:
    """Memory that this process may still take, by the kernel's and its container's account."""
    available = _number_after(Path("/proc/meminfo"), "MemAvailable:") * 1024.0
    cgroup = Path("/sys/fs/cgroup")
    limit, used = _only_number(cgroup / "memory.max"), _only_number(cgroup / "memory.current")
    return min(available, limit - used) if limit < float("inf") else available


def _number_after(path: Path, word: str) -> float:
    try:
        lines = path.read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(word))
    except (OSError, StopIteration):
        return 4.0 * 1024**2  # 4 GiB, where nothing can be known


def _only_number(path: Path) -> float:
    try:
        return float(path.read_text())
    except (OSError, ValueError):  # no limit is written as "max"
        return float("inf")
