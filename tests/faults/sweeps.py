"""A small sweep with trouble in it, and what the tests look at and do while it runs."""

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from forked import ForkedWorker
from runs import assert_same_atlas, driven_here, kill_group, shards, start, wait_for_shards
from troubled import HOLD, TROUBLE

from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.quarantine import Failure, read_failures
from layer_atlas.sweep.executors import base

SWEEP = (
    "models=[{name: troubled, target: troubled.build}]",
    "layers=[first,second]",
    "image_size=16",
    "optimizer.steps=6",
    "optimizer.leaky_steps=2",
    "shard_size=4",
    "connections=0",
    "precision=fp32",
    "batch_size=4",
    "executor.devices=[cpu]",
)
"""32 jobs in 8 shards, made one by one: two of the layer `first`, then six of `second`."""

N_SHARDS, N_OF_FIRST = 8, 2
PATIENCE = 120
"""Seconds that anything may take on a busy machine."""

SOON = PATIENCE / 2
"""By then has happened what happens at once; a worker that is held waits longer."""

SEARCHED = (
    *(str(Path(__file__).parents[n]) for n in (0, 1, 2)),
    str(Path(__file__).parents[2] / "pipeline"),
    *filter(None, [os.environ.get("PYTHONPATH")]),
)
"""Where processes of their own find this package, the helpers and the troubled network."""


def run_forked(root: Path, *overrides: str) -> tuple[int, str]:
    """`atlas run` with its driver in this process and its workers forked: exit code and words."""
    forking = SimpleNamespace(Popen=ForkedWorker, DEVNULL=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "subprocess", forking)
        return driven_here("run", root, *SWEEP, *overrides)


@contextmanager
def trouble(name: str) -> Iterator[None]:
    """Have workers meet a trouble: the dotted name of a function of activations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(TROUBLE, name)
        yield


@contextmanager
def holding(then: Callable[[], None]) -> Iterator[None]:
    """Have workers stop at the first shard of `second`, until something has been done.

    Args:
        then: what is done meanwhile, in a thread; the workers go on after it.
    """

    def act() -> None:
        try:
            then()
        finally:
            HOLD.unlink(missing_ok=True)

    HOLD.touch()
    with trouble("troubled.wait"), ThreadPoolExecutor(1) as thread:
        acted = thread.submit(act)
        yield
        acted.result()


@contextmanager
def held_driver(root: Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """`atlas run` in a process of its own, and the process id of its worker, which is held."""
    HOLD.touch()
    with trouble("troubled.wait"):
        process = start("run", root, *SWEEP)
    try:
        worker = wait_until_held()
        wait_for_shards(root / "demo", N_OF_FIRST)  # its other thread may be at it
        yield process, worker
    finally:
        HOLD.unlink(missing_ok=True)
        if process.poll() is None:
            kill_group(process)


def wait_until_held() -> int:
    """Wait for a worker to be held that was not before; returns its process id."""
    (path,) = wait_for(lambda: list(Path().glob("held.*"))[:1])
    path.unlink()
    return int(path.suffix[1:])


def wait_for(look: Callable[[], Any]) -> Any:
    """Wait until there is something to see, and return it."""
    end = time.monotonic() + PATIENCE
    while not (seen := look()):
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.01)
    return seen


def children(pid: int) -> list[int]:
    """Process ids of those that a process has started."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, path.read_text().split())
    return found


def working(pid: int) -> list[int]:
    """Process ids of the workers and of the collation that a driver has started.

    Workers are children of its warm parent, which forks them.
    """
    all_of_it = [pid_ for child in children(pid) for pid_ in (child, *children(child))]
    return [pid_ for pid_ in all_of_it if " worker" in name(pid_) or "-here" in command(pid_)]


def name(pid: int) -> str:
    """The name of a process."""
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def command(pid: int) -> str:
    """The command line of a process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def is_alive(pid: int) -> bool:
    """Whether a process is there and not dead already."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def heartbeat_of(folder: Path, pid: int) -> dict[str, Any]:
    """What a worker last said of itself."""
    heartbeats = [json.loads(path.read_text()) for path in folder.glob("logs/*.heartbeat")]
    return next(heartbeat for heartbeat in heartbeats if heartbeat["pid"] == pid)


def failures(folder: Path) -> list[Failure]:
    """The records of failed attempts, the first one first."""
    return sorted(read_failures(OutputFolder(folder)), key=lambda failure: failure.attempt)


def unfinished(done: Path, folder: Path, n_missing: int = 3) -> dict[str, tuple[int, int]]:
    """A copy of a finished sweep without its last shards and its atlas; returns its shards."""
    shutil.copytree(done, folder)
    (folder / "atlas.h5").unlink()
    for name in sorted(shards(folder))[N_SHARDS - n_missing :]:
        (folder / name).unlink()
    return shards(folder)


def assert_nothing_lost(
    undisturbed: Path, folder: Path, before: dict[str, tuple[int, int]] | None = None
) -> None:
    """No committed shard was lost or made again, and the atlas is that of an undisturbed sweep."""
    after = shards(folder)
    assert (before or {}).items() <= after.items(), "a committed shard was lost or made again"
    assert shards(undisturbed).keys() <= after.keys()
    assert_same_atlas(undisturbed / "atlas.h5", folder / "atlas.h5")


def temporaries(folder: Path) -> list[Path]:
    """Files that were never put in their place."""
    return [path for path in folder.rglob("*") if ".tmp" in path.name]
