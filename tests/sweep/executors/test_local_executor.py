"""What a local worker finds in its environment, as a real process tells it."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from layer_atlas.processes import PARENT_VARIABLE
from layer_atlas.sweep.executors import local
from layer_atlas.sweep.executors.base import WorkerSpec
from layer_atlas.sweep.executors.local import LocalExecutor
from layer_atlas.sweep.heartbeat import DEVICE_VARIABLE

TELL = "import json, os; print(json.dumps(dict(os.environ)))"


def environment(device: str, tmp_path: Path) -> dict[str, str]:
    executor = LocalExecutor([device])
    jobs = executor.submit([WorkerSpec((sys.executable, "-c", TELL), "w", tmp_path / "log")])
    while executor.poll(jobs)["w"].phase == "running":
        time.sleep(0.01)
    return dict(json.loads((tmp_path / "log").read_text()))


@pytest.mark.parametrize("device", ["cpu", "cuda:3"])
def test_a_worker_is_told_its_driver_and_its_device_and_keeps_its_memory(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    told = environment(device, tmp_path)
    assert told[DEVICE_VARIABLE] == device
    assert told[PARENT_VARIABLE] == str(os.getpid())
    assert told["CUDA_VISIBLE_DEVICES"] == device.removeprefix("cpu").removeprefix("cuda:")
    assert told["MALLOC_MMAP_MAX_"] == "0"
    assert told["MALLOC_TRIM_THRESHOLD_"] == "1099511627776"
    assert told["MALLOC_TOP_PAD_"] == "268435456"
    assert told["MALLOC_ARENA_MAX"] == "2"


@pytest.mark.parametrize("devices", [["cuda:0"], ["cuda:0", "cuda:1"], ["cuda:0", "cpu"]])
def test_workers_share_the_cores(
    devices: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: 16)
    executor = LocalExecutor(devices)
    threads = [executor._environment(device)["OMP_NUM_THREADS"] for device in devices]
    assert threads == [str(16 // len(devices))] * len(devices)


@pytest.mark.parametrize(
    ("variables", "visible"),
    [
        ({}, {"CUDA_VISIBLE_DEVICES": "1"}),
        ({"CUDA_VISIBLE_DEVICES": "4,6"}, {"CUDA_VISIBLE_DEVICES": "6"}),
        ({"HIP_VISIBLE_DEVICES": "4,6"}, {"HIP_VISIBLE_DEVICES": "6"}),
        (
            {"HIP_VISIBLE_DEVICES": "4,6", "CUDA_VISIBLE_DEVICES": "MIG-a,MIG-b"},
            {"HIP_VISIBLE_DEVICES": "6", "CUDA_VISIBLE_DEVICES": "MIG-b"},
        ),
    ],
)
def test_a_worker_sees_its_own_gpu_of_those_that_the_driver_sees(
    variables: dict[str, str], visible: dict[str, str]
) -> None:
    assert local._only_visible(1, variables) == visible


def test_a_worker_on_the_cpu_sees_no_gpu_of_any_maker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HIP_VISIBLE_DEVICES", "0")
    told = environment("cpu", tmp_path)
    assert (told["CUDA_VISIBLE_DEVICES"], told["HIP_VISIBLE_DEVICES"]) == ("", "")


def test_devices_that_are_no_longer_used_get_no_worker(tmp_path: Path) -> None:
    executor = LocalExecutor(["cpu", "cuda:0"])
    executor.use(["cuda:0"])
    assert executor.max_parallel == executor.max_submitted == 1
    specs = [WorkerSpec((sys.executable, "-c", TELL), f"w{i}", tmp_path / f"{i}") for i in (0, 1)]
    jobs = executor.submit(specs)
    assert len(jobs) == 1
    while executor.poll(jobs)["w0"].phase == "running":
        time.sleep(0.01)
    assert json.loads((tmp_path / "0").read_text())[DEVICE_VARIABLE] == "cuda:0"


def test_what_the_user_has_set_himself_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    told = environment("cpu", tmp_path)
    assert (told["MALLOC_ARENA_MAX"], told["OMP_WAIT_POLICY"]) == ("7", "ACTIVE")
    assert told["MALLOC_MMAP_MAX_"] == "0"
