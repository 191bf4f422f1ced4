"""Whole sweeps on a real Slurm: the same atlas, whatever becomes of jobs and of their driver."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mini_slurm import MiniSlurm
from runs import (
    TINY,
    assert_same_atlas,
    driver_here,
    kill_group,
    run_here,
    shards,
    start,
    wait_for_shards,
)

ON_SLURM = ("executor=slurm", "executor.gpus=0", "executor.cpus=1", "executor.memory_gb=1")
SWEEP = (*TINY[:-1], "optimizer.steps=40")
"""TINY names devices, which only local executors have; long enough to be disturbed."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The atlas as this machine makes it without Slurm."""
    root = tmp_path_factory.mktemp("undisturbed")
    assert run_here(root, *SWEEP) == 0
    return root / "demo" / "atlas.h5"


def wait_for(true: Callable[[], bool], timeout: float = 60) -> None:
    end = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def left_in(logs: Path) -> set[str]:
    """What is in the logs, but for the submitted scripts."""
    found = {str(path.relative_to(logs)) for path in logs.rglob("*") if path.is_file()}
    return {path for path in found if not path.endswith("_submission.sh")}


def test_a_sweep_that_is_left_to_itself_loses_its_driver_and_is_preempted(
    undisturbed: Path, tmp_path: Path, slurm: MiniSlurm
) -> None:
    folder, sweep = tmp_path / "demo", (*SWEEP, *ON_SLURM, "executor.jobs=2")
    begun = time.monotonic()
    code, said = driver_here("run", tmp_path, *sweep, "executor.detach=true")
    assert code == 0, said
    assert "2 workers go on by themselves" in said
    assert time.monotonic() - begun < 20, "it waited for its workers"
    assert "2 " in driver_here("status", tmp_path)[1]

    driver = start("run", tmp_path, *sweep)
    wait_for_shards(folder, 1)
    kill_group(driver)
    slurm.preempt()
    wait_for(lambda: "PD" in slurm.ask("squeue", "--partition=low"))
    before = shards(folder)

    code, said = driver_here("run", tmp_path, *sweep)
    assert code == 0, said
    assert before.items() <= shards(folder).items(), "a committed shard was made again"
    assert_same_atlas(undisturbed, folder / "atlas.h5")
    assert len(slurm.ask("squeue", "--noheader", "--states=all", "--partition=low").splitlines())
    assert not list((folder / "failures").glob("*")), "a shard is charged for being preempted"
    assert left_in(folder / "logs") == set()
