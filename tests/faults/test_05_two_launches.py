"""Fault 5: a second launch on the folder of a run that is at work."""

import os
import socket
import time
from pathlib import Path

from runs import finish, kill_group, shards, start
from sweeps import SWEEP, assert_nothing_lost, holding, run_forked, wait_until_held

SOON = 20.0
"""Seconds; starting Python and importing torch are most of it, on a busy machine."""


def test_the_second_is_refused_and_told_who_is_at_work(undisturbed: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, str, float]] = []
    folder = tmp_path / "demo"

    def launch_again() -> None:
        wait_until_held()
        before, started = shards(folder), time.monotonic()
        second = start("run", tmp_path, *SWEEP)
        try:
            seen.append((*finish(second, timeout=2 * SOON), time.monotonic() - started))
        finally:
            if second.poll() is None:  # it is at work too
                kill_group(second)
        assert shards(folder) == before

    with holding(launch_again):
        code, said = run_forked(tmp_path)
    assert code == 0, said
    ((code, said, seconds),) = seen
    assert code == 2
    assert f"process {os.getpid()} on {socket.gethostname()}, since " in said
    assert len(said.splitlines()) == 1
    assert seconds < SOON
    assert_nothing_lost(undisturbed, folder)
