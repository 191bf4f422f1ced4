"""Fault 6: the disk is full; a real one of a few megabytes."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from runs import atlas_here, shards
from sweeps import (
    N_OF_FIRST,
    N_SHARDS,
    SWEEP,
    assert_nothing_lost,
    failures,
    holding,
    run_forked,
    temporaries,
    unfinished,
    wait_until_held,
)

from layer_atlas.store.files import decode
from layer_atlas.store.shards import SCHEMA

MEGABYTES = 4
PAGE = 4096


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "none", str(place)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"NO FULL DISK WAS TRIED, a tmpfs cannot be mounted: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="only for who may not mount")
def test_the_same_in_a_namespace_where_anybody_may_mount() -> None:
    inside = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-m", "pytest"]
    if subprocess.run([*inside, "--version"], capture_output=True, check=False).returncode:
        pytest.skip("NO FULL DISK WAS TRIED: there is no right to mount one")
    subprocess.run([*inside, __file__], check=True)


def fill(disk: Path, pages_left: int = 0) -> Path:
    """Fill a disk with a file, but for some pages."""
    ballast = disk / "ballast"
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free - pages_left * PAGE)
    return ballast


def check_stopped(code: int, said: str, folder: Path) -> None:
    """The promised exit code, one message without a traceback, nothing half-written."""
    assert code == 74, said
    assert "Traceback" not in said
    assert said.count("error: ") == 1
    assert said.strip().splitlines()[-1].startswith("error: ")
    assert not failures(folder), "a shard is charged for a full disk"
    assert not temporaries(folder / "store")
    for shard in shards(folder):
        decode((folder / shard).read_bytes(), SCHEMA)


def check_finished(
    code: int, said: str, folder: Path, undisturbed: Path, before: dict[str, tuple[int, int]]
) -> None:
    assert code == 0, said
    assert not temporaries(folder)
    assert_nothing_lost(undisturbed, folder, before)


@pytest.mark.slow
@pytest.mark.parametrize("pages_left", [0, 2])
def test_full_while_shards_are_written(disk: Path, pages_left: int, undisturbed: Path) -> None:
    folder = disk / "demo"
    ballast: list[Path] = []

    def fill_up() -> None:
        wait_until_held()
        ballast.append(fill(disk, pages_left))

    with holding(fill_up):
        code, said = run_forked(disk)
    check_stopped(code, said, folder)
    before = shards(folder)
    assert N_OF_FIRST <= len(before) < N_SHARDS
    ballast[0].unlink()
    code, said = atlas_here("run", disk, *SWEEP)
    check_finished(code, said, folder, undisturbed, before)


@pytest.mark.slow
def test_full_while_manifest_montages_and_atlas_are_written(disk: Path, undisturbed: Path) -> None:
    folder = disk / "demo"
    before = unfinished(undisturbed, folder, n_missing=0)
    manifest = pages(undisturbed / "manifest.json")
    montages = pages(*undisturbed.glob("montages/*/*"))
    atlas = pages(undisturbed / "atlas.h5")
    log = 1
    at_atlas = "atlas.h5: No space left|SIGSEGV; is the disk full"
    ends = {
        0: "cannot be written",
        1: "manifest.json: No space left",
        log + manifest + 1: "png: No space left",
        log + montages + 2: at_atlas,
        log + montages + atlas - 2: at_atlas,
    }
    for pages_left, last in ends.items():
        shutil.rmtree(folder / "montages", ignore_errors=True)
        ballast = fill(disk, pages_left)
        code, said = run_forked(disk)
        check_stopped(code, said, folder)
        assert re.search(last, said), said
        assert not (folder / "atlas.h5").exists()
        ballast.unlink()
    code, said = atlas_here("run", disk, *SWEEP)
    assert shards(folder) == before
    check_finished(code, said, folder, undisturbed, before)


def pages(*files: Path) -> int:
    """What files take of a disk."""
    return sum(-(-file.stat().st_size // PAGE) for file in files)
