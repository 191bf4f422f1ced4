"""Fault 4: SIGTERM, SIGUSR1 or SIGUSR2, as cluster managers send them before they preempt."""

import os
import signal
from pathlib import Path

import pytest
from runs import atlas_here, finish, shards, start
from sweeps import (
    N_OF_FIRST,
    SOON,
    SWEEP,
    assert_nothing_lost,
    failures,
    held_driver,
    holding,
    is_alive,
    run_forked,
    wait_for,
    wait_until_held,
)

SIGNALS = [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]


@pytest.mark.slow
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        *(pytest.param(number, marks=pytest.mark.slow) for number in SIGNALS[1:]),
    ],
    ids=lambda number: number.name,
)
def test_the_driver_drops_what_is_in_progress_and_leaves(
    number: signal.Signals, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    with held_driver(tmp_path) as (driver, worker):
        driver.send_signal(number)
        code, said = finish(driver, timeout=SOON)
        assert code == 75, said
        assert not is_alive(worker)
    before = shards(folder)
    assert len(before) == N_OF_FIRST
    assert not failures(folder), "a shard is charged for a signal"
    code, said = atlas_here("run", tmp_path, *SWEEP)
    assert code == 0, said
    assert_nothing_lost(undisturbed, folder, before)


def test_a_worker_alone_leaves_and_another_takes_over_uncharged(
    undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    seen: dict[str, tuple[int, int]] = {}

    def tell_each_to_leave() -> None:
        for number in SIGNALS:
            os.kill(wait_until_held(), number)
        wait_until_held()
        seen.update(shards(folder))

    with holding(tell_each_to_leave):
        code, said = run_forked(tmp_path, "executor.attempts=1")
    assert code == 0, said
    assert len(seen) == N_OF_FIRST
    assert not failures(folder), "a shard is charged for a signal"
    assert_nothing_lost(undisturbed, folder, seen)


@pytest.mark.slow
def test_the_driver_leaves_while_it_plans(tmp_path: Path) -> None:
    process = start("run", tmp_path, *SWEEP, "models=[{name: troubled, target: slow.build}]")
    (tmp_path / "slow.py").write_text(SLOW)
    wait_for((tmp_path / "building").exists)
    process.terminate()
    code, said = finish(process)
    assert code == 75, said
    assert said == ""


SLOW = """
import time
from pathlib import Path

def build():
    Path("building").touch()
    time.sleep(600)
"""
