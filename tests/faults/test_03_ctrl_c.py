"""Fault 3: Ctrl-C, once and twice; the terminal sends it to the driver's whole process group."""

import os
import signal
from pathlib import Path

import pytest
from runs import atlas_here, finish, shards
from sweeps import (
    N_OF_FIRST,
    SOON,
    SWEEP,
    assert_nothing_lost,
    failures,
    held_driver,
    is_alive,
    wait_for,
)
from troubled import HOLD


def test_the_first_finishes_the_shard_in_progress_and_leaves(
    undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    with held_driver(tmp_path) as (driver, _):
        os.killpg(driver.pid, signal.SIGINT)
        wait_for((folder / "logs" / "drain").exists)
        HOLD.unlink()
        code, said = finish(driver)
    assert code == 130
    assert "Ctrl-C again" in said
    assert "Traceback" not in said
    assert not (folder / "atlas.h5").exists()
    check_rest(undisturbed, folder, n_done=N_OF_FIRST + 1)


@pytest.mark.slow
def test_the_second_stops_at_once(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with held_driver(tmp_path) as (driver, worker):
        os.killpg(driver.pid, signal.SIGINT)
        wait_for((folder / "logs" / "drain").exists)
        os.killpg(driver.pid, signal.SIGINT)
        code, said = finish(driver, timeout=SOON)
        assert code == 130
        assert "Traceback" not in said
        wait_for(lambda: not is_alive(worker))
    check_rest(undisturbed, folder, n_done=N_OF_FIRST)


def check_rest(undisturbed: Path, folder: Path, n_done: int) -> None:
    """So many shards are done, none is charged, and the next run makes the others."""
    before = shards(folder)
    assert len(before) == n_done
    assert not failures(folder)
    code, said = atlas_here("run", folder.parent, *SWEEP)
    assert code == 0, said
    assert_nothing_lost(undisturbed, folder, before)
