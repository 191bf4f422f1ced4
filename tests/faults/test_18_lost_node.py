"""Fault 18: a node is lost with its worker; or is only thought to be, and both do the work."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
from runs import atlas_here, shards
from sweeps import (
    N_OF_FIRST,
    assert_nothing_lost,
    failures,
    holding,
    run_forked,
    unfinished,
    wait_until_held,
)

from layer_atlas.sweep import run as sweep
from layer_atlas.sweep.executors.base import State, WorkerJob
from layer_atlas.sweep.executors.local import LocalExecutor

LOST = State("ended", None, "NODE_FAIL")

MOST = 30.0
"""Seconds until a missing node must have been given up; it takes a look, and no patience."""


class Cluster(LocalExecutor):
    """Two nodes, and an engine that finds the first one missing when the test says so."""

    missing_since: float | None = None
    codes: ClassVar[list[int]] = []
    """With which its workers ended; one that is only thought to be lost is let finish."""

    def __init__(self, *told: object) -> None:
        super().__init__(["cpu", "cpu"])
        self.max_parallel = 1

    def poll(self, jobs: Sequence[WorkerJob]) -> dict[str, State]:
        states = super().poll(jobs)
        first = next(iter(self._process), None)
        if self.missing_since is None or first not in states:
            return states
        assert time.monotonic() - self.missing_since < MOST, "it is not given up"
        return {**states, first: LOST}

    def close(self) -> None:
        self.codes.extend(process.wait() for process in self._process.values())
        super().close()

    @classmethod
    def lose_the_first(cls) -> None:
        """Find it missing from now on."""
        cls.missing_since = time.monotonic()


@pytest.fixture(autouse=True)
def _cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "open_executor", Cluster)
    monkeypatch.setattr(Cluster, "missing_since", None)
    monkeypatch.setattr(Cluster, "codes", [])


def check_outcome(undisturbed: Path, folder: Path, before: dict[str, tuple[int, int]]) -> None:
    (failure,) = failures(folder)
    assert failure.how == "NODE_FAIL"
    assert_nothing_lost(undisturbed, folder, before)
    code, said = atlas_here("verify", folder.parent)
    assert code == 0, said


@pytest.mark.slow
def test_its_worker_is_replaced(undisturbed: Path, tmp_path: Path) -> None:
    folder, before = tmp_path / "demo", {}

    def lose() -> None:
        worker = wait_until_held()
        before.update(shards(folder))
        Cluster.lose_the_first()
        os.kill(worker, signal.SIGKILL)

    with holding(lose):
        code, said = run_forked(tmp_path)
    assert code == 0, said
    assert len(before) == N_OF_FIRST
    check_outcome(undisturbed, folder, before)


def test_both_commit_the_same_shard_and_one_good_one_is_left(
    undisturbed: Path, tmp_path: Path
) -> None:
    """The engine gives up a node that still works, at the only shard that is missing."""
    folder = tmp_path / "demo"
    before = unfinished(undisturbed, folder, n_missing=1)

    def lose_sight() -> None:
        wait_until_held()
        Cluster.lose_the_first()
        wait_until_held()

    with holding(lose_sight):
        code, said = run_forked(tmp_path)
    assert code == 0, said
    assert Cluster.codes == [0, 0], "one could not commit what the other had"
    check_outcome(undisturbed, folder, before)
