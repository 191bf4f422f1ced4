"""Whole sweeps on a real Slurm: the same atlas, whatever becomes of jobs and of their driver."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from mini_slurm import MiniSlurm
from runs import (
    TINY,
    assert_same_atlas,
    driven_here,
    kill_group,
    run_here,
    shards,
    start,
    wait_for_shards,
)

from layer_atlas.store.files import write_json
from layer_atlas.store.folder import OutputFolder

pytestmark = pytest.mark.slow


ON_SLURM = ("executor=slurm", "executor.gpus=0", "executor.cpus=1", "executor.memory_gb=1")
SWEEP = (*TINY[:-1], "optimizer.steps=200")
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


def jobs(slurm: MiniSlurm) -> list[str]:
    """The jobs that wait or run, by their ids."""
    return slurm.ask("squeue", "--noheader", "--array", "--format=%i").split()


def test_a_sweep_left_to_itself_is_taken_up_and_a_cancelled_job_made_good(
    undisturbed: Path, tmp_path: Path, slurm: MiniSlurm
) -> None:
    sweep = (*SWEEP, *ON_SLURM, "executor.jobs=1")
    code, said = driven_here("run", tmp_path, *sweep, "executor.detach=true")
    assert code == 0, said
    assert "1 workers continue on their own" in said
    assert len(jobs(slurm)) == 1
    wait_for_shards(tmp_path / "demo", 1)
    assert "detached workers, which continue" in driven_here("status", tmp_path)[1]
    slurm.ask("scancel", *jobs(slurm))
    code, said = driven_here("run", tmp_path, *sweep)
    assert code == 0, said
    assert_same_atlas(undisturbed, tmp_path / "demo" / "atlas.h5")
    assert not list((tmp_path / "demo" / "failures").glob("*")), "a shard is charged for it"
    assert len(jobs(slurm)) == 0
    assert not list((tmp_path / "demo" / "logs").glob("*.submitted")), "they count as at work"


def test_jobs_go_on_without_their_driver_and_after_being_preempted(
    undisturbed: Path, tmp_path: Path, slurm: MiniSlurm
) -> None:
    folder, sweep = tmp_path / "demo", (*SWEEP, *ON_SLURM, "executor.jobs=2")
    driver = start("run", tmp_path, *sweep)
    wait_for_shards(folder, 1)
    kill_group(driver)
    mine = jobs(slurm)
    slurm.preempt()
    wait_for(lambda: "PD" in slurm.ask("squeue", "--partition=low"))
    before = shards(folder)
    code, said = driven_here("run", tmp_path, *sweep)
    assert code == 0, said
    assert before.items() <= shards(folder).items(), "a committed shard was made again"
    assert_same_atlas(undisturbed, folder / "atlas.h5")
    assert not list((folder / "failures").glob("*")), "a shard is charged for being preempted"
    told = slurm.ask("squeue", "--noheader", "--states=all", "--array", "--partition=low", "-o%i")
    array = mine[0].partition("_")[0]
    later = {job for job in told.split() if int(job.partition("_")[0]) > int(array)}
    assert not later, "what was at work was submitted again"


def test_workers_that_left_nothing_to_do_are_forgotten(undisturbed: Path, slurm: MiniSlurm) -> None:
    folder = OutputFolder(undisturbed.parent)
    ended = {"engine": "slurm", "job_id": "99999_0", "tasks": ["of a shard that is done"]}
    write_json(folder.submission("worker-0"), ended)
    code, said = driven_here("run", undisturbed.parents[1], *SWEEP, *ON_SLURM)
    assert code == 0, said
    assert not folder.submission("worker-0").exists()


def test_a_mistake_is_told_before_anything_is_submitted(tmp_path: Path, slurm: MiniSlurm) -> None:
    code, said = driven_here("run", tmp_path, *SWEEP, *ON_SLURM, "executor.partition=lwo")
    assert code == 2
    assert "unknown executor.partition 'lwo'; choose from: low" in said
