"""Fault 1: a worker is killed with SIGKILL, at a shard or at several that it makes together."""

import os
import signal
from pathlib import Path

import pytest
from runs import shards, wait_for_shards
from sweeps import (
    N_OF_FIRST,
    assert_nothing_lost,
    failures,
    heartbeat_of,
    holding,
    run_forked,
    wait_until_held,
)


@pytest.mark.parametrize(
    ("batch_size", "n_making"), [(4, 1), pytest.param(12, 3, marks=pytest.mark.slow)]
)
def test_another_worker_goes_on_and_what_was_in_the_making_alone_is_charged(
    batch_size: int, n_making: int, undisturbed: Path, tmp_path: Path
) -> None:
    folder, seen = tmp_path / "demo", {}

    def kill() -> None:
        pid = wait_until_held()
        wait_for_shards(folder, N_OF_FIRST)  # its other thread may be at it
        seen.update(shards=shards(folder), making=heartbeat_of(folder, pid)["tasks"])
        os.kill(pid, signal.SIGKILL)

    with holding(kill):
        code, said = run_forked(tmp_path, f"batch_size={batch_size}")
    assert code == 0, said
    assert len(seen["making"]) == n_making
    assert sorted((f.task, f.attempt, f.how) for f in failures(folder)) == [
        (key, 1, "killed by SIGKILL") for key in sorted(seen["making"])
    ]
    assert_nothing_lost(undisturbed, folder, seen["shards"])
