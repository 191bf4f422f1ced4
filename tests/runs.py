"""Real runs of the command line in real processes, for the tests that need them."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np

TINY = (
    "optimizer.steps=6",
    "optimizer.leaky_steps=2",
    "image_size=32",
    "layers=[conv1,conv2]",
    "shard_size=8",
    "executor.devices=[cpu,cpu]",
)
"""A sweep of 64 jobs in 8 shards that takes seconds."""


def start(
    command: str, root: Path, *overrides: str, cwd: Path | None = None
) -> "subprocess.Popen[str]":
    """Start a command in a session of its own, writing below `root`."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", command, f"output_root={root}", *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: "subprocess.Popen[str]", timeout: float = 240) -> tuple[int, str]:
    """Wait for a command; returns its exit code and all it printed."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out + err


def atlas(command: str, root: Path, *overrides: str) -> tuple[int, str]:
    """Run a command to its end."""
    return finish(start(command, root, *overrides))


def kill_group(process: "subprocess.Popen[str]") -> None:
    """kill -9 for the whole process group of a command."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def shards(folder: Path) -> dict[str, tuple[int, int]]:
    """Every committed shard with its inode and time of writing."""
    return {
        str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in (folder / "store").rglob("*.h5")
    }


def wait_for_shards(folder: Path, n: int, timeout: float = 120) -> None:
    """Wait until at least n shards are committed."""
    end = time.monotonic() + timeout
    while len(shards(folder)) < n:
        assert time.monotonic() < end, f"only {len(shards(folder))} shards after {timeout} s"
        time.sleep(0.02)


def datasets(atlas_file: Path) -> dict[str, np.ndarray]:
    """Every dataset of an atlas."""
    found: dict[str, np.ndarray] = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(atlas_file, "r") as file:
        file.visititems(visit)
    return found


def assert_same_atlas(a: Path, b: Path) -> None:
    """Every dataset of two atlases holds the same bits."""
    left, right = datasets(a), datasets(b)
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].tobytes() == right[name].tobytes(), name
