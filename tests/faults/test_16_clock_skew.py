"""Fault 16: clocks that are days apart, and files whose dates are nonsense."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import atlas, atlas_here, driven_here, shards
from sweeps import (
    SWEEP,
    assert_nothing_lost,
    failures,
    holding,
    unfinished,
    wait_until_held,
)

SKEWED = """#!/bin/sh
mkdir ahead 2>/dev/null && skew=+3d || skew=-3d
export LD_PRELOAD='{library}' FAKETIME=$skew
date +%s > time.$$
exec {python} "$@"
"""
"""The first process is three days ahead of the driver, the others are three days behind."""


DAY = 86400.0


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("faketime"), reason="NO SKEWED CLOCK WAS TRIED: no faketime")
def test_workers_ahead_and_behind(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, seen = tmp_path / "demo", []
    python = tmp_path / "python"
    library = subprocess.check_output(["faketime", "now", "printenv", "LD_PRELOAD"], text=True)
    python.write_text(SKEWED.format(library=library.strip(), python=sys.executable))
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))

    def look() -> None:
        wait_until_held()
        seen.append(status(tmp_path))

    with holding(look):
        code, said = driven_here("run", tmp_path, *SWEEP, "executor.devices=[cpu,cpu]")
    assert code == 0, said
    assert not failures(folder)
    skews = sorted(float(path.read_text()) - time.time() for path in tmp_path.glob("time.*"))
    assert skews[0] < -2 * DAY < 2 * DAY < skews[-1]
    assert f"process {os.getpid()} on" in seen[0]
    assert_nothing_lost(undisturbed, folder)


@pytest.mark.parametrize("year", [1980, 2100])
def test_dates_of_files_mean_nothing(year: int, undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    unfinished(undisturbed, folder)
    seconds = (year - 1970) * 365 * 86400
    for path in folder.rglob("*"):
        os.utime(path, (seconds, seconds))
    before = shards(folder)
    code, said = atlas_here("run", tmp_path, *SWEEP)
    assert code == 0, said
    assert_nothing_lost(undisturbed, folder, before)


def status(root: Path) -> str:
    """What `atlas status` says, which must be possible: nothing below zero."""
    code, said = atlas("status", root)
    assert code == 0, said
    assert not re.search(r"(?<![\w.])-\d", said.replace(str(root), "")), said
    return said
