"""Fault 20: shards that kill every worker."""

import os
import signal
from pathlib import Path

import numpy as np
from runs import atlas_here, bits, datasets, shards
from sweeps import SWEEP, failures, run_forked, trouble
from torch import Tensor

from layer_atlas.plan.jobs import STATUS

LARGE = ("shard_size=12", "batch_size=12")
"""One shard of `first`, which is well, and two of `second`, which kill."""


MOST = 12
"""So often they kill, twice as often as they should be able to: else the test would never end."""


def kill(x: Tensor) -> None:
    with open("kills", "ab") as kills:
        kills.write(b".")
    if Path("kills").stat().st_size <= MOST:
        os.kill(os.getpid(), signal.SIGKILL)


def test_each_is_given_up_after_three_attempts_and_the_rest_finishes(
    undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    with trouble("test_20_deadly_shard.kill"):
        code, said = run_forked(tmp_path, *LARGE)
    assert code == 1, said
    assert "8 ok, 24 failed" in said
    assert [f.attempt for f in failures(folder)] == [1, 1, 2, 2, 3, 3]
    assert {f.how for f in failures(folder)} == {"killed by SIGKILL"}
    assert len(shards(folder)) == 1
    check_atlas(folder, undisturbed)
    check_quarantine(folder, undisturbed)


def check_atlas(folder: Path, undisturbed: Path) -> None:
    """What was given up is marked, everything else is as it would be without it."""
    found, wanted = datasets(folder / "atlas.h5"), datasets(undisturbed / "atlas.h5")
    safe = [name for name in wanted if name.startswith("troubled/first/")]
    assert len(safe) > 8
    for name in safe:
        assert bits(found[name]) == bits(wanted[name]), name
    assert set(found["troubled/second/status"].ravel()) == {STATUS["failed"]}
    assert not np.isfinite(found["troubled/second/activation"]).any()


def check_quarantine(folder: Path, undisturbed: Path) -> None:
    """It lasts: another run computes nothing, though nothing would kill it now."""
    before, records = shards(folder), failures(folder)
    code, said = atlas_here("run", folder.parent, *SWEEP, *LARGE)
    assert code == 1, said
    assert shards(folder) == before
    assert failures(folder) == records
    check_atlas(folder, undisturbed)
