"""Fault 19: a network file system shows a file late that another host wrote, or never."""

import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from runs import Here, driven_here, shards
from sweeps import SWEEP, assert_nothing_lost, failures

from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep import run as sweep
from layer_atlas.sweep import scheduler
from layer_atlas.sweep.executors.base import WorkerJob, WorkerSpec

NEVER = 60.0
"""Seconds; the run is over long before, unless it waits for what it should have given up."""


class Elsewhere(Here):
    """Workers whose last shard is seen here only some seconds after they have ended."""

    late: float
    bundles: list[str]
    shows: threading.Timer

    def submit(self, requests: Sequence[WorkerSpec]) -> list[WorkerJob]:
        jobs = super().submit(requests)
        if not self.bundles:
            folder = OutputFolder(Path(requests[0].argv[-2])).root
            last = max(shards(folder), key=lambda name: shards(folder)[name][1])
            hidden = (folder / last).rename(folder / "elsewhere")
            Elsewhere.shows = threading.Timer(self.late, hidden.rename, [folder / last])
            self.shows.start()
        self.bundles.extend(job.tag for job in jobs)
        return jobs


def run_late(root: Path, late: float, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run the sweep where a shard is seen late by some seconds; returns the bundles it took."""
    monkeypatch.setattr(sweep, "open_executor", Elsewhere)
    monkeypatch.setattr(Elsewhere, "late", late, raising=False)
    monkeypatch.setattr(Elsewhere, "bundles", [], raising=False)
    try:
        code, said = driven_here("run", root, *SWEEP)
    finally:
        Elsewhere.shows.cancel()
    assert code == 0, said
    return Elsewhere.bundles


@pytest.mark.slow
def test_a_shard_that_is_seen_late_is_waited_for(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = time.monotonic()
    assert len(run_late(tmp_path, 1.0, monkeypatch)) == 1
    assert time.monotonic() - started > 1.0
    assert not failures(tmp_path / "demo")
    assert_nothing_lost(undisturbed, tmp_path / "demo")


def test_one_that_is_never_seen_is_waited_for_so_long_and_made_again(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "RELIST_SECONDS", 0.5)
    assert len(run_late(tmp_path, NEVER, monkeypatch)) == 2
    (failure,) = failures(tmp_path / "demo")
    assert failure.how == "exit code 0"
    assert_nothing_lost(undisturbed, tmp_path / "demo")
