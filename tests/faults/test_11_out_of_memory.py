"""Fault 11: out of memory; the kernel gives a real worker no more than some address space."""

import resource
from pathlib import Path

import pytest
import torch
from sweeps import assert_nothing_lost, failures, run_forked, trouble
from torch import Tensor

from layer_atlas.logs import without_routine

PER_IMAGE = 64 << 20
ROOM = 12 * PER_IMAGE
"""Enough for 8 images at once and not for 16; a CPU's batches are filled up to these."""


def take_much_memory(x: Tensor) -> None:
    """A network of which a process that may grow by some room holds twelve images."""
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + ROOM, resource.RLIM_INFINITY))
    torch.empty(len(x), PER_IMAGE, dtype=torch.uint8)


def warnings(folder: Path) -> list[str]:
    """What the workers have logged besides their routine."""
    text = "".join(path.read_text() for path in folder.glob("logs/worker-*.log"))
    return without_routine(text).splitlines()


@pytest.mark.slow
def test_the_batch_is_halved_once_for_the_layer(undisturbed: Path, tmp_path: Path) -> None:
    """Two groups of three shards: the second must know what the first found out."""
    folder = tmp_path / "demo"
    with trouble("test_11_out_of_memory.take_much_memory"):
        code, said = run_forked(tmp_path, "batch_size=12")
    assert code == 0, said
    (warning,) = warnings(folder)
    assert warning.endswith(": out of memory: batch size is now 6")
    assert not failures(folder)
    assert_nothing_lost(undisturbed, folder)


def test_running_out_of_it_while_a_batch_size_is_sought(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with trouble("test_11_out_of_memory.take_much_memory"):
        code, said = run_forked(tmp_path, "batch_size=auto")
    assert code == 0, said
    assert not warnings(folder)
    assert not failures(folder)
    assert_nothing_lost(undisturbed, folder)
