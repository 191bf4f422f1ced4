"""Sweeps on Ray: the same atlas as without it, whatever is killed; real processes and signals."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray_clusters import Cluster, cluster
from runs import (
    assert_same_atlas,
    atlas_here,
    finish,
    run_here,
    shards,
    start,
    wait_for_shards,
    without_busy,
)

pytestmark = pytest.mark.slow


SMALL = (
    *("optimizer.leaky_steps=2", "image_size=32", "layers=[conv1,conv2]"),
    *("channels='0:16'", "shard_size=8", "batch_size=8", "connections=0", "precision=fp32"),
)
"""32 jobs in 4 shards."""
QUICK, LONG = (*SMALL, "optimizer.steps=6"), (*SMALL, "optimizer.steps=200")
ON_RAY = ("executor=ray", "executor.gpus=0", "executor.cpus=1", "executor.memory_gb=0.5")


@pytest.fixture(scope="module")
def head() -> Iterator[Cluster]:
    with cluster(cpus=2, gpus=0) as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the long sweep, made without Ray, by one worker that is this process."""
    root = tmp_path_factory.mktemp("undisturbed")
    assert run_here(root, *LONG) == 0
    return root / "demo"


def alone_at(head: Cluster) -> tuple[str, ...]:
    """One worker at a time on a cluster that runs: quicker to start, and to catch at work."""
    return (*ON_RAY, f"executor.address={head.address}", "executor.workers=1")


def workers_of(folder: Path) -> list[int]:
    """Process ids of the workers that are at work in a folder."""
    heartbeats = [json.loads(path.read_text()) for path in folder.glob("logs/*.heartbeat")]
    return [heartbeat["pid"] for heartbeat in heartbeats if is_alive(heartbeat["pid"])]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def records(folder: Path) -> list[dict[str, object]]:
    return [json.loads(path.read_text()) for path in folder.glob("failures/*.json")]


def test_one_command_starts_ray_makes_the_same_atlas_and_says_nothing_of_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_AUTH_MODE")
    monkeypatch.setenv("HOME", "/proc/no-home")
    process = start("run", tmp_path / "ray", *QUICK, *ON_RAY)
    said, progress = process.communicate(timeout=240)
    assert process.returncode == 0, progress
    assert said.startswith("32 images: 32 ok")
    lines = without_busy(progress).splitlines()
    shown = [line for line in lines if not line.startswith("model: ")]
    assert all("channels, " in line for line in shown), progress
    assert run_here(tmp_path / "here", *QUICK) == 0
    assert_same_atlas(tmp_path / "ray/demo/atlas.h5", tmp_path / "here/demo/atlas.h5")


def test_a_killed_ray_process_costs_the_shard_in_the_making_one_attempt(
    head: Cluster, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    process = start("run", tmp_path, *LONG, *alone_at(head))
    wait_for_shards(folder, 1)
    worker = workers_of(folder)[0]
    os.kill(parent_of(worker), signal.SIGKILL)
    code, said = finish(process)
    assert code == 0, said
    assert [record["attempt"] for record in records(folder)] == [1]
    assert "Ray: " in str(records(folder)[0]["how"])
    assert_same_atlas(undisturbed / "atlas.h5", folder / "atlas.h5")


def test_ctrl_c_drains_and_a_killed_driver_leaves_no_worker_behind(
    head: Cluster, undisturbed: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "demo"
    process = start("run", tmp_path, *LONG, *alone_at(head))
    wait_for_shards(folder, 1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    code, said = finish(process)
    assert code == 130, said
    assert 1 <= len(shards(folder)) < 4
    assert not records(folder)

    before = shards(folder)
    process = start("run", tmp_path, *LONG, *alone_at(head))
    wait_for_shards(folder, len(before) + 1)
    workers = workers_of(folder)
    process.kill()
    process.communicate()
    time.sleep(5)
    assert workers
    assert not [pid for pid in workers if is_alive(pid)]

    before = shards(folder)
    code, said = atlas_here("run", tmp_path, *LONG)
    assert code == 0, said
    assert before.items() <= shards(folder).items(), "a committed shard was made again"
    assert_same_atlas(undisturbed / "atlas.h5", folder / "atlas.h5")


def test_sigterm_reaches_the_workers(head: Cluster, tmp_path: Path) -> None:
    process = start("run", tmp_path, *LONG, *alone_at(head))
    wait_for_shards(tmp_path / "demo", 1)
    process.terminate()
    code, said = finish(process)
    assert code == 75, said
    assert len(shards(tmp_path / "demo")) < 4
    assert not records(tmp_path / "demo")
