"""Fault 2: the driver is killed with SIGKILL."""

import contextlib
import os
import signal
from pathlib import Path

import pytest
from runs import atlas_here, shards, start
from sweeps import (
    N_OF_FIRST,
    SWEEP,
    assert_nothing_lost,
    children,
    command,
    failures,
    held_driver,
    is_alive,
    unfinished,
    wait_for,
)


@pytest.mark.slow
def test_its_workers_die_with_it_and_the_next_run_goes_on(
    undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    with held_driver(tmp_path) as (driver, worker):
        driver.kill()
        driver.communicate()
        wait_for(lambda: not is_alive(worker))
    before = shards(folder)
    assert len(before) == N_OF_FIRST
    code, said = atlas_here("run", tmp_path, *SWEEP)
    assert code == 0, said
    assert f"process {driver.pid} on" in said, "whose work is taken up is not told"
    assert not failures(folder)
    assert_nothing_lost(undisturbed, folder, before)


def test_its_collation_dies_with_it(undisturbed: Path, tmp_path: Path) -> None:
    """Else it would go on, and put its atlas in the place of what a later run has made."""
    folder = tmp_path / "demo"
    before = unfinished(undisturbed, folder, n_missing=0)
    driver = start("run", tmp_path, *SWEEP)
    (collation,) = wait_for(lambda: [p for p in children(driver.pid) if "collate" in command(p)])
    os.kill(collation, signal.SIGSTOP)
    driver.kill()
    driver.wait()
    with contextlib.suppress(ProcessLookupError):
        os.kill(collation, signal.SIGCONT)
    driver.communicate()
    wait_for(lambda: not is_alive(collation))
    assert not (folder / "atlas.h5").exists()
    code, said = atlas_here("run", tmp_path, *SWEEP)
    assert code == 0, said
    assert_nothing_lost(undisturbed, folder, before)
