"""What the fault tests share: a sweep that nothing disturbed, and a folder to be in."""

import os
from pathlib import Path

import pytest
from runs import atlas_here
from sweeps import SEARCHED, SWEEP


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of the sweep that nothing disturbed."""
    root = tmp_path_factory.mktemp("undisturbed")
    code, said = atlas_here("run", root, *SWEEP)
    assert code == 0, said
    return root / "demo"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Driver and workers are in the test's folder, where they find what the test puts there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(SEARCHED))
