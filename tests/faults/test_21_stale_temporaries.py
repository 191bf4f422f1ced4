"""Fault 21: temporary files of killed writers, and of writers that are still at it."""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from runs import atlas, atlas_here
from sweeps import (
    SWEEP,
    assert_nothing_lost,
    holding,
    run_forked,
    temporaries,
    unfinished,
    wait_until_held,
)

from layer_atlas.store.files import write_atomically

STALE = (
    ".atlas.0123.tmp",
    ".manifest.json.0123.tmp",
    ".probe.0123.tmp",
    "store/troubled/second/.abc.safetensors.0123.tmp",
    "montages/troubled/.second.png.0123.tmp",
    "failures/.abc.1.json.0123.tmp",
    "logs/worker-0123.heartbeat.tmp",
)


def leave_stale(folder: Path) -> None:
    for name in STALE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"half of it")


@pytest.mark.slow
def test_those_of_killed_writers_are_swept(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    unfinished(undisturbed, folder)
    leave_stale(folder)
    code, said = atlas_here("run", tmp_path, *SWEEP)
    assert code == 0, said
    assert not temporaries(folder)
    assert_nothing_lost(undisturbed, folder)


@pytest.mark.slow
def test_a_run_that_is_refused_sweeps_nothing(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"

    def launch_again() -> None:
        wait_until_held()
        leave_stale(folder)
        code, _ = atlas("run", tmp_path, *SWEEP)
        assert code == 2
        assert len(temporaries(folder)) >= len(STALE)

    with holding(launch_again):
        code, said = run_forked(tmp_path)
    assert code == 0, said
    assert_nothing_lost(undisturbed, folder)


def test_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    with ProcessPoolExecutor(4, get_context("forkserver")) as pool:
        assert all(pool.map(write_often, [tmp_path / "file"] * 4, range(4)))
    assert set((tmp_path / "file").read_bytes()) in [{n} for n in range(4)]
    assert not temporaries(tmp_path)


def write_often(path: Path, value: int) -> bool:
    """Write a file again and again, and find a whole one each time."""
    for _ in range(50):
        write_atomically(path, bytes([value]) * 100_000)
        found = path.read_bytes()
        if len(found) != 100_000 or len(set(found)) != 1:
            return False
    return True
