"""Fault 1: a worker is killed with SIGKILL."""

import os
import signal
from pathlib import Path

from runs import shards, wait_for_shards
from sweeps import (
    N_OF_FIRST,
    assert_nothing_lost,
    failures,
    holding,
    pulse_of,
    run_forked,
    wait_until_held,
)


def test_another_worker_goes_on_and_the_shard_in_the_making_alone_is_charged(
    undisturbed: Path, tmp_path: Path
) -> None:
    folder, seen = tmp_path / "demo", {}

    def kill() -> None:
        pid = wait_until_held()
        wait_for_shards(folder, N_OF_FIRST)  # its other thread may be at it
        seen.update(shards=shards(folder), making=pulse_of(folder, pid)["tasks"])
        os.kill(pid, signal.SIGKILL)

    with holding(kill):
        code, said = run_forked(tmp_path)
    assert code == 0, said
    assert [(f.task, f.attempt, f.how) for f in failures(folder)] == [
        (seen["making"][0], 1, "killed by SIGKILL")
    ]
    assert_nothing_lost(undisturbed, folder, seen["shards"])
