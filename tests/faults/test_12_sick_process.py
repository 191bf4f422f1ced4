"""Fault 12: an error after which nothing works in a process any more, as after some CUDA errors."""

import ctypes
from pathlib import Path

import pytest
from sweeps import assert_nothing_lost, failures, run_forked, trouble
from torch import Tensor
from troubled import first_time

sick = False


def poison(x: Tensor) -> None:
    """The first process to get here is lost: each of its calls fails from now on."""
    global sick
    sick = sick or first_time("poisoned")
    if sick:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")


def crash(x: Tensor) -> None:
    """The first process to get here dies of a segmentation fault."""
    if first_time("crashed"):
        ctypes.string_at(0)


@pytest.mark.parametrize(
    ("fault", "how", "said"),
    [
        (poison, "exit code 1", "RuntimeError: CUDA error: an illegal memory access"),
        (crash, "killed by SIGSEGV", "Fatal Python error: Segmentation fault"),
    ],
    ids=["an error", "a crash"],
)
def test_the_process_is_left_and_a_new_one_takes_over(
    fault: object, how: str, said: str, undisturbed: Path, tmp_path: Path
) -> None:
    folder, name = tmp_path / "demo", fault.__name__
    with trouble(f"test_12_sick_process.{name}"):
        code, told = run_forked(tmp_path)
    assert code == 0, told
    (failure,) = failures(folder)
    assert failure.how == how
    assert said in failure.said
    assert f"in {name}" in failure.said, "the stack does not show where it was"
    assert_nothing_lost(undisturbed, folder)
