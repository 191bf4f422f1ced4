"""Batch sizes: memory measured on small batches, and recovery when it does not suffice."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from layer_atlas.processes import usable_cores

T = TypeVar("T")

_GPU_FRACTION = 0.8
_CPU_FRACTION = 0.5
"""Fraction of the free memory that a batch may use."""

_GPU_TRIALS = (8, 16)
_CPU_TRIALS = (2, 16)
"""Batches whose memory is compared. What a CPU keeps for the backward pass grows evenly from the
second sample on; a GPU's workspaces do not. The larger shows where memory does not even hold it."""

_OUT_OF_MEMORY = (
    "can't allocate memory",
    "bad_alloc",
    "CUDA error: out of memory",
    "STATUS_ALLOC_FAILED",
)
"""Messages of out-of-memory errors without a class of their own (CPU, CUDA's libraries)."""


def if_it_fits(make: Callable[[], T], least: bool = False) -> T | None:
    """Return the result of a function, or None if it runs out of memory.

    Args:
        make: may run out of memory.
        least: whether nothing smaller is left to try, so that running out of memory is an error.
    """
    try:
        return make()
    except (RuntimeError, MemoryError) as error:
        if least or not _is_out_of_memory(error):
            raise
    # Only here, outside the handler: the exception's traceback keeps the tensors alive.
    torch.cuda.empty_cache()
    return None


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(text in str(error) for text in _OUT_OF_MEMORY)


def bytes_per_sample(run: Callable[[int], Any], device: torch.device) -> float:
    """Measure the peak memory of one more sample in a run.

    Args:
        run: processes a batch of the given size.
        device: device of the run.
    """
    # The difference of two sizes cancels what does not grow with the batch, such as weights.
    is_gpu = device.type == "cuda"
    peak, (small, large) = (_gpu_peak, _GPU_TRIALS) if is_gpu else (_cpu_peak, _CPU_TRIALS)
    return max((peak(run, large) - peak(run, small)) / (large - small), 1.0)


def samples_that_fit(sample_bytes: float, device: torch.device) -> int:
    """Return the number of samples of that size that fit in memory, at least one."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info(device)[0] * _GPU_FRACTION
    else:
        # A process with half of the cores uses at most half of the memory: others run beside it.
        part_of_machine = min(1.0, torch.get_num_threads() / usable_cores())
        free = free_host_bytes() * _CPU_FRACTION * part_of_machine
    return max(1, int(free / sample_bytes))


def _gpu_peak(run: Callable[[int], Any], batch: int) -> float:
    torch.cuda.reset_peak_memory_stats()
    run(batch)
    return float(torch.cuda.max_memory_allocated())


def _cpu_peak(run: Callable[[int], Any], batch: int) -> float:
    """Return twice the memory saved for the backward pass, whose own tensors come on top of it."""
    saved: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # By address, because several views of one storage may be saved.
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run(batch)
    return 2.0 * sum(saved.values())


def free_host_bytes() -> float:
    """Return the memory available to this process, by the kernel and its container's limit."""
    available = _number_after(Path("/proc/meminfo"), "MemAvailable:") * 1024.0
    cgroup = Path("/sys/fs/cgroup")
    limit, used = _only_number(cgroup / "memory.max"), _only_number(cgroup / "memory.current")
    return min(available, limit - used) if limit < float("inf") else available


def _number_after(path: Path, word: str) -> float:
    try:
        lines = path.read_text().splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(word))
    except (OSError, StopIteration):
        return 4.0 * 1024**2  # in KiB: 4 GiB where the kernel reports nothing


def _only_number(path: Path) -> float:
    try:
        return float(path.read_text())
    except (OSError, ValueError):  # "max" means no limit
        return float("inf")
