"""Real Ray clusters of this machine for tests, on ports of their own, beside any other Ray."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

# Ray reads it when it is imported. A token that this user may have is nothing to these clusters.
os.environ["RAY_AUTH_MODE"] = "disabled"
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

START_SECONDS = 60


@dataclass(frozen=True)
class Cluster:
    """A head node."""

    address: str
    """HOST:PORT."""
    client_address: str
    """ray://HOST:PORT."""


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def cluster(cpus: int = 2, gpus: int = 1, version: str = "") -> Iterator[Cluster]:
    """A cluster of one node, which says that it has so many CPUs and GPUs.

    Args:
        cpus: of the node.
        gpus: of the node.
        version: what it takes its Ray to be; default: what it is.
    """
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed")
    client_port = free_port()
    here = ("--head", "--port=0", "--include-dashboard=false")
    options = (*here, f"--ray-client-server-port={client_port}")
    # Sockets have short paths, so this is not below the folder of the test.
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    with _node(folder, cpus, gpus, *options, version=version) as process:
        yield Cluster(_address(folder, process), f"ray://127.0.0.1:{client_port}")


@contextmanager
def another_node(cluster: Cluster, cpus: int) -> Iterator["subprocess.Popen[bytes]"]:
    """A node that joins a cluster; has joined it when this is entered."""
    folder = Path(tempfile.mkdtemp(prefix="ray-"))
    with _node(folder, cpus, 0, f"--address={cluster.address}") as process:
        yield process


@contextmanager
def _node(
    folder: Path, cpus: int, gpus: int, *options: str, version: str = ""
) -> Iterator["subprocess.Popen[bytes]"]:
    leave_with_tests = "import ctypes, signal; ctypes.CDLL(None).prctl(1, signal.SIGTERM)"
    pretend = f"import ray; ray.__version__ = {version!r} or ray.__version__"
    code = f"{leave_with_tests}; {pretend}; from ray.scripts.scripts import main; main()"
    common = ("--block", "--object-store-memory=100000000")
    ports = ("--min-worker-port=0", "--max-worker-port=0")
    numbers = (f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--temp-dir={folder}")
    with open(folder / "said", "wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", code, "start", *common, *ports, *numbers, *options],
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _address(folder: Path, process: "subprocess.Popen[bytes]") -> str:
    file, end = folder / "ray_current_cluster", time.monotonic() + START_SECONDS
    while not (file.exists() and "started" in (folder / "said").read_text()):
        if process.poll() is not None or time.monotonic() > end:
            pytest.skip(f"Ray does not start here: {(folder / 'said').read_text()[-1000:]}")
        time.sleep(0.1)
    return file.read_text().strip()
