"""`gpu_check.sh` rehearsed on the CPU: every part runs, and one JSON and one montage come of it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "scripts" / "gpu_check.sh"


def check(out: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PYTHON": sys.executable, **environment}
    return subprocess.run([str(SCRIPT), str(out)], capture_output=True, text=True, env=env)


@pytest.mark.slow
def test_a_rehearsal_leaves_all_the_evidence(tmp_path: Path) -> None:
    done = check(tmp_path, LAYER_ATLAS_REHEARSE="1", CUDA_VISIBLE_DEVICES="")
    facts = json.loads((tmp_path / "gpu_check.json").read_text())
    assert {name: part["ok"] for name, part in facts["parts"].items()} == {
        "gpu_tests": True,
        "benchmark": True,
        "arithmetic": True,
        "slice_of_a_sweep": True,
    }, done.stdout
    assert done.returncode == 0
    assert 0 < facts["parts"]["arithmetic"]["share_of_gemm_rate"] < 1
    assert facts["parts"]["slice_of_a_sweep"]["manifest"]["timings"]["total"] > 0
    assert facts["parts"]["benchmark"]["benchmark"]["rows"]
    assert facts["parts"]["slice_of_a_sweep"]["status"]
    assert Image.open(tmp_path / "montage.png").width > 300
    assert {path.name for path in tmp_path.iterdir()} == {
        "gpu_check.json",
        "montage.png",
        "logs.tar.gz",
    }


def test_without_a_gpu_it_says_so_and_fails(tmp_path: Path) -> None:
    done = check(tmp_path, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert "torch sees no GPU here" in done.stderr
    assert "missing" in json.loads((tmp_path / "gpu_check.json").read_text())
