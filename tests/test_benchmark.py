"""The benchmark command, run for real on the demo network without the systems it compares with."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow


SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"
SMALL = ("--layers", "conv2,conv4", "--channels", "0:8;0:16:2", "--image-size", "24")
SHORT = ("--batch", "8", "--repeats", "2", "--device", "cpu")
STEPS = ("optimizer.steps=3", "optimizer.leaky_steps=1")


def benchmark(hiding: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command where the other systems cannot be imported, installed or not."""
    for module in ("lucent", "torch_dreams"):
        (hiding / f"{module}.py").write_text("raise ImportError('hidden by the test')\n")
    environment = {**os.environ, "PYTHONPATH": str(hiding), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)


def dataset_images(folder: Path) -> Path:
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(12):
        pixels = draw.integers(0, 256, (30, 24 + number, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.{('png', 'JPEG', 'webp')[number % 3]}")
    (folder / "broken.jpg").write_bytes(b"not a picture")
    return folder


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """The result, what was said, and the output folder of one run."""
    root = tmp_path_factory.mktemp("benchmark")
    out, photos = root / "out", dataset_images(root / "photos")
    asked = ("--photos", str(photos), "--others-channels", "0:8:4", "--ours", "draft")
    done = benchmark(root, *SMALL, *SHORT, *asked, "--out", str(out), *STEPS)
    assert done.returncode == 0, done.stderr
    result = json.loads((out / "benchmark.json").read_text())
    return result, done.stdout + done.stderr, out


def test_every_system_has_its_rows(measured: tuple[dict[str, Any], str, Path]) -> None:
    rows = {(row["layer"], row["system"], row["set"]) for row in measured[0]["rows"]}
    wanted = [("ours draft", "all"), ("ours draft", "shared"), ("floor", "none")]
    assert rows == {(layer, *row) for layer in ("conv2", "conv4") for row in wanted}


def test_numbers_are_sane(measured: tuple[dict[str, Any], str, Path]) -> None:
    for row in measured[0]["rows"]:
        assert 0 < row["ms_per_channel_step"]["min"] <= row["ms_per_channel_step"]["max"]
        if row["system"] == "floor":
            continue
        assert row["steps"] == 3
        assert len(row["channels"]) == (2 if row["set"] == "shared" else 8)
        alone, whole = row["seconds_per_channel"], row["seconds_per_channel_with_statistics"]
        assert alone["median"] * 1000 == pytest.approx(row["ms_per_channel_step"]["median"] * 3)
        assert whole["median"] > 0
        assert row["step_over_floor"]["median"] > 0.5
        assert 0 <= row["dead"] <= len(row["channels"])
        assert 0 < row["high_frequency_share"] < 1
        assert -1 <= row["agreement"] <= 1
        assert 1 <= row["median_rank"] <= 64


def test_every_timing_and_image_can_be_looked_up(
    measured: tuple[dict[str, Any], str, Path],
) -> None:
    for raw in measured[0]["raw"]:
        assert all(len(values) == 2 for values in raw["timings"].values())
        if raw["system"] != "floor":
            assert len(raw["images"]) == 8
            assert raw["images"]["0"].keys() >= {"dead", "agreement", "rank"}


def test_it_says_where_and_of_what_it_was_measured(
    measured: tuple[dict[str, Any], str, Path],
) -> None:
    result, _, out = measured
    assert result["machine"]["threads"] == 1
    assert result["versions"]["torch"]
    assert set(result["git"]) == {"commit", "dirty"}
    assert result["command"][-1] == STEPS[-1]
    assert result["recipes"]["draft"]["optimizer"]["steps"] == 3
    assert (result["photographs"]["count"], result["photographs"]["unreadable"]) == (12, 1)
    with Image.open(out / "contact_sheet.png") as sheet:
        assert sheet.width > 200


def test_a_missing_package_is_told_with_the_remedy(
    measured: tuple[dict[str, Any], str, Path],
) -> None:
    result, said, _ = measured
    for system, package in (("lucent", "torch-lucent"), ("torch-dreams", "torch_dreams")):
        line = next(line for line in said.splitlines() if line.startswith(f"{system}: skipped"))
        assert package in line
        assert "pip install 'layer-atlas[bench]'" in line
        assert package in result["skipped"][system]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Sequence[str]], int]:
    """The same command in this process, where starting it costs nothing."""
    monkeypatch.syspath_prepend(SCRIPT.parent)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return importlib.import_module("benchmark").main  # type: ignore[no-any-return]


def test_photographs_are_optional(
    tmp_path: Path, command: Callable[[Sequence[str]], int], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--layers", "conv2", "--channels", "0:8", "--image-size", "24", "--systems", "ours")
    out = ("--ours", "draft", "--out", str(tmp_path / "out"))
    assert command([*asked, *SHORT, *out, *STEPS]) == 0
    assert "ours draft  shared 8" in capsys.readouterr().out
    (row,) = json.loads((tmp_path / "out" / "benchmark.json").read_text())["rows"]
    assert row["set"] == "shared"
    assert not row.keys() & {"agreement", "median_rank", "step_over_floor"}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("--systems", "lucnet"), "unknown system 'lucnet'; choose from: lucent"),
        (("--systems", "ours", "--others-channels", "9"), "not all of [9] are ours"),
        (("--systems", "ours", "--ours", "drfat"), "unknown quality choice 'drfat'"),
        (("--systems", "ours", "--channels", "1;2;3"), "3 selections for 2 layers"),
    ],
)
def test_a_mistake_is_told_before_anything_is_measured(
    tmp_path: Path,
    command: Callable[[Sequence[str]], int],
    capsys: pytest.CaptureFixture[str],
    asked: tuple[str, ...],
    told: str,
) -> None:
    assert command([*SMALL, *asked, "--out", str(tmp_path / "out")]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_step_is_divided_into_its_parts_beside_the_floor(capsys: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPT.parent))
        profile_step = importlib.import_module("profile_step")
        patch.setattr(profile_step, "ROUNDS", 3)
        assert profile_step.main([*SMALL, *SHORT, *STEPS, "--systems", "ours"]) == 0
        assert profile_step.main([*SMALL, "--ours", "no such quality"]) == 2
    said = capsys.readouterr()
    assert "no such quality" in said.err
    rows = [line.split("|")[1:4] for line in said.out.splitlines() if line.startswith("| ")]
    for layer, *parts in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        assert "8 images" in layer[0]
        times = {name.strip(): float(ms) for name, ms, _ in parts}
        assert float(parts[0][2]) == 1.0
        assert min(times.values()) > 0
        assert times["whole step"] > times["network, both ways"] / 2
