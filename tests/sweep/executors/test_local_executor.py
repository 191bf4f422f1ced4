"""What a local worker finds in its environment, as a real process tells it."""

import json
import os
import sys
import time
from pathlib import Path

import pytest

from layer_atlas.processes import PARENT_VARIABLE
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


def test_what_the_user_has_set_himself_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "7")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    told = environment("cpu", tmp_path)
    assert (told["MALLOC_ARENA_MAX"], told["OMP_WAIT_POLICY"]) == ("7", "ACTIVE")
    assert told["MALLOC_MMAP_MAX_"] == "0"
