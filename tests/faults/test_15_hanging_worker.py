"""Fault 15: a worker that hangs: in Python, in C where signals do not reach it, or stopped."""

import ctypes
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sweeps import assert_nothing_lost, failures, is_alive, run_forked, trouble
from torch import Tensor
from troubled import first_time

PATIENCE = ("executor.stall_seconds=3", "executor.grace_seconds=1")

FOR_EVER = 60.0
"""Seconds after which a worker that still hangs is ended by the test, which has failed by then."""


def hang(x: Tensor) -> None:
    """For ever, but for a signal."""
    if first_time("hung"):
        note_process()
        time.sleep(1e9)


def deadlock(x: Tensor) -> None:
    """For ever, in C, where no handler of Python's is run: only SIGKILL ends it."""
    if first_time("hung"):
        note_process()
        library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(256)
        for _ in range(2):
            library.pthread_mutex_lock(mutex)


def stop(x: Tensor) -> None:
    """For ever, as if its host were frozen: SIGTERM stays without effect and without words."""
    if first_time("hung"):
        note_process()
        os.kill(os.getpid(), signal.SIGSTOP)


def note_process() -> None:
    Path("pid").write_text(str(os.getpid()))


def hung_worker() -> int:
    return int(Path("pid").read_text())


@contextmanager
def not_for_ever() -> Iterator[None]:
    """Make sure that a worker that hangs is ended by its driver, and not left to the test."""
    left: list[int] = []

    def end() -> None:
        left.append(hung_worker())
        os.kill(hung_worker(), signal.SIGKILL)

    timer = threading.Timer(FOR_EVER, end)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    assert not left, "it was left to hang"


@pytest.mark.parametrize(
    ("fault", "says_where"),
    [
        pytest.param(hang, True, id="in Python"),
        pytest.param(deadlock, True, id="in C", marks=pytest.mark.slow),
        pytest.param(stop, False, id="stopped", marks=pytest.mark.slow),
    ],
)
def test_it_is_noticed_sent_away_and_replaced(
    fault: Callable[[Tensor], None], says_where: bool, undisturbed: Path, tmp_path: Path
) -> None:
    folder, name = tmp_path / "demo", fault.__name__
    with trouble(f"test_15_hanging_worker.{name}"), not_for_ever():
        code, said = run_forked(tmp_path, *PATIENCE)
    assert code == 0, said
    assert not is_alive(hung_worker())
    (failure,) = failures(folder)
    assert failure.how == "no progress for 3 s"
    assert (f"in {name}" in failure.said) == says_where
    assert_nothing_lost(undisturbed, folder)
