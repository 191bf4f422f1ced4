"""Fault 18: a node is lost with its worker; or is only thought to be, and both do the work."""

import os
import signal
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from runs import atlas_here, shards
from sweeps import N_OF_FIRST, assert_nothing_lost, failures, holding, run_forked, wait_until_held

from pipeline import sweep
from pipeline.executors.base import Handle, State
from pipeline.executors.local import LocalExecutor

LOST = State("ended", None, "NODE_FAIL")


class Cluster(LocalExecutor):
    """Two nodes, and an engine that finds the first one missing when the test says so."""

    failing = threading.Event()

    def __init__(self, *told: object) -> None:
        super().__init__(["cpu", "cpu"])
        self.max_parallel = 1

    def poll(self, handles: Sequence[Handle]) -> dict[str, State]:
        states = super().poll(handles)
        first = next(iter(self._process), None)
        lost = {first: LOST} if self.failing.is_set() and first in states else {}
        return {**states, **lost}


@pytest.fixture(autouse=True)
def _cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep, "open_executor", Cluster)
    monkeypatch.setattr(Cluster, "failing", threading.Event())


def check_outcome(undisturbed: Path, folder: Path, before: dict[str, tuple[int, int]]) -> None:
    (failure,) = failures(folder)
    assert failure.how == "NODE_FAIL"
    assert len(before) == N_OF_FIRST
    assert_nothing_lost(undisturbed, folder, before)
    code, said = atlas_here("verify", folder.parent)
    assert code == 0, said


def test_its_worker_is_replaced(undisturbed: Path, tmp_path: Path) -> None:
    folder, before = tmp_path / "demo", {}

    def lose() -> None:
        worker = wait_until_held()
        before.update(shards(folder))
        os.kill(worker, signal.SIGKILL)
        Cluster.failing.set()

    with holding(lose):
        code, said = run_forked(tmp_path)
    assert code == 0, said
    check_outcome(undisturbed, folder, before)


def test_both_commit_the_same_shards_and_one_good_one_is_left(
    undisturbed: Path, tmp_path: Path
) -> None:
    """The engine gives up a node that still works, at the very shard of its replacement."""
    folder, before = tmp_path / "demo", {}

    def lose_sight() -> None:
        wait_until_held()
        before.update(shards(folder))
        Cluster.failing.set()
        wait_until_held()

    with holding(lose_sight):
        code, said = run_forked(tmp_path)
    assert code == 0, said
    check_outcome(undisturbed, folder, before)
