"""Fault 22: all that the scheduler knew is lost; the store is the truth."""

import os
import shutil
import signal
from pathlib import Path

from runs import assert_same_atlas, atlas_here, shards
from sweeps import SWEEP, failures, holding, run_forked, unfinished, wait_until_held


def test_between_runs(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    before = unfinished(undisturbed, folder)
    shutil.rmtree(folder / "logs")
    (folder / "manifest.json").unlink()
    (folder / "lock").unlink()
    code, said = atlas_here("run", tmp_path, *SWEEP)
    assert code == 0, said
    assert before.items() <= shards(folder).items(), "a committed shard was made again"
    assert_same_atlas(undisturbed / "atlas.h5", folder / "atlas.h5")


def test_while_it_runs(undisturbed: Path, tmp_path: Path) -> None:
    """The worker goes on and is heard again; when it dies, what it was at is known."""
    folder = tmp_path / "demo"

    def lose_the_logs() -> None:
        worker = wait_until_held()
        shutil.rmtree(folder / "logs")
        os.kill(worker, signal.SIGUSR1)
        wait_until_held()

    with holding(lose_the_logs):
        code, said = run_forked(tmp_path)
    assert code == 0, said
    assert not failures(folder)
    assert_same_atlas(undisturbed / "atlas.h5", folder / "atlas.h5")
