"""Fault 2: the driver is killed with SIGKILL."""

from pathlib import Path

from runs import atlas_here, shards
from sweeps import N_OF_FIRST, SWEEP, assert_nothing_lost, failures, held_driver, is_alive, wait_for


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
