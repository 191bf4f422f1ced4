"""Every kind of step on a GPU that is not there: captured, without waits, copies or CPU tensors.

The program `fake_cuda.py` says how, and what it cannot see. Most cases are slow: `--slow`.
"""

import json
import os
import shutil
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from layer_atlas.config.records import FAMILIES
from tests.fake_cuda import BATCH, CASES, FAMILY, OBJECTIVES, OPTIMIZERS, PAIRED, TRANSFORMS

PROGRAM = Path(__file__).parents[2] / "fake_cuda.py"
QUICK = [
    "everything else",
    "objective custom that waits",
    "objective prototype",
    "feature statistics",
]

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")


def check(names: list[str]) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-P", str(PROGRAM), *names]
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout))


@pytest.mark.slow
def test_steps_are_captured_unless_they_wait() -> None:
    found = check(QUICK)
    for name in QUICK:
        assert_captured(name, found[name])
    said = found["objective custom that waits"]["said"]
    assert "no CUDA graph of a step, so slower steps: " in said
    assert "called a synchronizing CUDA operation" in said


@pytest.mark.slow
def test_a_step_takes_no_more_kernels_and_passes_than_it_did() -> None:
    found = check(["224 px"])["224 px"]
    one_image = BATCH * 3 * 224 * 224 * 4
    assert found["kernels"] <= 193
    assert found["bytes"] / one_image <= 125


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_every_kind_of_step_is_captured(part: int) -> None:
    names = [name for name in CASES if name not in QUICK][part::4]
    for name, found in check(names).items():
        assert_captured(name, found)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(12))
def test_every_pair_of_kinds_is_captured(part: int) -> None:
    for name, found in check(list(PAIRED)[part::12]).items():
        assert_captured(name, found)


def test_every_two_members_of_different_factors_meet_in_a_case() -> None:
    factors = ("objective", "parameterization", "transforms", "optimizer", "precision")
    members = len(OBJECTIVES), len(FAMILY), len(TRANSFORMS), len(OPTIMIZERS), 2
    rows = [[repr(case.changes[factor]) for factor in factors] for case in PAIRED.values()]
    for a, b in combinations(range(len(factors)), 2):
        assert len({(row[a], row[b]) for row in rows}) == members[a] * members[b]


def assert_captured(name: str, found: dict[str, Any]) -> None:
    assert found["error"] == "", f"{name}: {found['trace']}"
    assert (found["stage"], found["forbidden"]) == ("done", []), name
    if {**CASES, **PAIRED}[name].is_captured:
        assert found["captured"] >= 2, name  # with the leak and without
        assert "no CUDA graph" not in found["said"]
    else:
        assert found["captured"] == 0


@pytest.mark.parametrize("family", ["objective", "optimizer", "parameterization", "init"])
def test_every_member_of_a_family_has_a_case(family: str) -> None:
    there = {type(getattr(case.recipe, family)) for case in CASES.values()}
    members = FAMILIES[family].choices
    wanted = {member for name, member in members.items() if name != "joint"}  # reads other models
    assert there >= wanted
