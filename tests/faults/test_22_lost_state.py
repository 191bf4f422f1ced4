"""Fault 22: all that the scheduler knew is lost; the store is the truth."""

import shutil
import time
from pathlib import Path

import pytest
from runs import atlas_here, shards
from sweeps import (
    SWEEP,
    assert_nothing_lost,
    failures,
    holding,
    run_forked,
    trouble,
    unfinished,
    wait_until_held,
)
from torch import Tensor
from troubled import wait


def test_between_runs(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    before = unfinished(undisturbed, folder)
    shutil.rmtree(folder / "logs")
    (folder / "manifest.json").unlink()
    (folder / "lock").unlink()
    code, said = atlas_here("run", tmp_path, *SWEEP)
    assert code == 0, said
    assert "20 of 32 channels are done already" in said, "the store was not asked what is missing"
    assert_nothing_lost(undisturbed, folder, before)


def wait_then_crawl(x: Tensor) -> None:
    """Slow at every step, so that a worker that is not heard is taken to hang before it is done."""
    wait(x)
    time.sleep(0.03)


@pytest.mark.slow
def test_while_it_runs(undisturbed: Path, tmp_path: Path) -> None:
    folder, before = tmp_path / "demo", {}

    def lose_the_logs() -> None:
        wait_until_held()
        before.update(shards(folder))
        shutil.rmtree(folder / "logs")

    with holding(lose_the_logs), trouble("test_22_lost_state.wait_then_crawl"):
        code, said = run_forked(tmp_path, "executor.stall_seconds=3")
    assert code == 0, said
    assert not failures(folder), "a worker was not heard any more"
    assert_nothing_lost(undisturbed, folder, before)
