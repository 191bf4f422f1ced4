"""Real runs of the command line in real processes, for the tests that need them."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from toys import composed

from layer_atlas.atlas.gather import LayerView
from layer_atlas.cli import commands as commands
from layer_atlas.config.config import CollateSettings
from layer_atlas.errors import EXIT_FAILED_JOBS, EXIT_OK, StorageError
from layer_atlas.presentation import collate
from layer_atlas.processes import LEAVING_SIGNALS
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep import run as sweep
from layer_atlas.sweep.executors.base import State, WorkerJob, WorkerSpec
from layer_atlas.sweep.heartbeat import Heartbeat
from layer_atlas.sweep.worker import work

TINY = (
    "optimizer.steps=6",
    "optimizer.leaky_steps=2",
    "image_size=32",
    "layers=[conv1,conv2]",
    "shard_size=8",
    "connections=0",
    "precision=fp32",
    "executor.devices=[cpu,cpu]",
)
"""A sweep of 64 jobs in 8 shards that takes seconds, with the same precision on every machine."""


def start(
    command: str, root: Path, *overrides: str, cwd: Path | None = None
) -> "subprocess.Popen[str]":
    """Start a command in a session of its own, writing below `root`."""
    return subprocess.Popen(
        [sys.executable, "-m", "layer_atlas", command, f"output_root={root}", *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def finish(process: "subprocess.Popen[str]", timeout: float = 240) -> tuple[int, str]:
    """Wait for a command; returns its exit code and all it printed but what it is busy with."""
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out + without_busy(err)


def without_busy(said: str) -> str:
    """What was said without the first line, which names the command, and without slow steps."""
    lines = said.splitlines(keepends=True)
    return "".join(x for x in lines if not x.startswith("atlas ") and not x.endswith(" so far\n"))


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
        for path in (folder / "store").rglob("*.safetensors")
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
        assert bits(left[name]) == bits(right[name]), name


def bits(array: np.ndarray) -> list[bytes]:
    """The bytes of an array; of texts and files, whose own bits are addresses, of each."""
    if array.dtype.kind != "O":
        return [array.tobytes()]
    return [item if isinstance(item, bytes) else item.tobytes() for item in array.ravel()]


def opened(files: np.ndarray) -> np.ndarray:
    """The pictures (..., H, W, 3) in an array of JPEG files."""
    pictures = [np.asarray(Image.open(io.BytesIO(file.tobytes()))) for file in files.ravel()]
    return np.stack(pictures).reshape(*files.shape, *pictures[0].shape)


class Here:
    """An executor that does each bundle in this process as soon as it is submitted."""

    max_parallel = max_submitted = 1
    detached = False
    poll_seconds = 0.01

    def __init__(self, *told: object) -> None:
        self.failed: set[str] = set()

    def submit(self, specs: Sequence[WorkerSpec]) -> list[WorkerJob]:
        for spec in specs:
            self._do(spec)
        return [WorkerJob(spec.tag, "here") for spec in specs]

    def _do(self, spec: WorkerSpec) -> None:
        folder = OutputFolder(Path(spec.argv[-2]))
        try:
            work(folder, Path(spec.argv[-1]), Heartbeat(folder.heartbeat(spec.tag)))
        except Exception:  # noqa: BLE001 - as a worker does
            self.failed.add(spec.tag)
            spec.log.write_text(traceback.format_exc())

    def poll(self, jobs: Sequence[WorkerJob]) -> dict[str, State]:
        codes = {job.tag: EXIT_FAILED_JOBS if job.tag in self.failed else EXIT_OK for job in jobs}
        return {tag: State("ended", code) for tag, code in codes.items()}

    def stop(self, jobs: Sequence[WorkerJob]) -> None:
        pass

    def kill(self, jobs: Sequence[WorkerJob]) -> None:
        pass

    def close(self) -> None:
        pass


@contextlib.contextmanager
def collating_here() -> Iterator[None]:
    """Collate in this process: starting another one takes longer than a small atlas."""

    def collate_here(folder: OutputFolder, settings: CollateSettings) -> None:
        try:
            collate.collate_here(folder, settings)
        except OSError as error:
            raise StorageError(str(error)) from error

    def paint_here(
        views: Sequence[LayerView], write: Callable[[LayerView], None], memory: int = 0
    ) -> None:
        for view in views:
            write(view)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collate, "collate", collate_here)
        patch.setattr(collate, "paint", paint_here)
        yield


def atlas_here(command: str, root: Path, *overrides: str) -> tuple[int, str]:
    """What `atlas` does, in this process, for tests that look at no process."""
    with pytest.MonkeyPatch.context() as patch, collating_here():
        patch.setattr(sweep, "open_executor", Here)
        return driven_here(command, root, *overrides)


def driven_here(command: str, root: Path, *overrides: str) -> tuple[int, str]:
    """What `atlas` does, with its driver in this process: exit code and all that it says."""
    said, handlers = io.StringIO(), {n: signal.getsignal(n) for n in LEAVING_SIGNALS}
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = commands.main([command, f"output_root={root}", *overrides])
    finally:
        for number, handler in handlers.items():  # a sweep sets its own
            signal.signal(number, handler)
    return code, without_busy(said.getvalue())


def run_here(root: Path, *overrides: str) -> int:
    """`atlas run` with one worker, which is this process: seconds faster than starting any.

    There is a site only if the overrides ask for it: few tests look at one.
    """
    config = replace(composed("collate.site=false", *overrides), output_root=str(root))
    with pytest.MonkeyPatch.context() as patch, collating_here():
        patch.setattr(sweep, "open_executor", Here)
        return sweep.run(config).exit_code
