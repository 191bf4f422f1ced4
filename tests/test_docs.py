"""The documentation builds without a warning, fetches nothing, and what it says to run does run."""

import re
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from docs_pages import PAGES, ROOT, blocks, commands
from runs import TINY, assert_same_atlas, run_here
from toys import composed

from pipeline import sweep
from pipeline.errors import EXIT_OK

EXTENDING = ROOT / "docs" / "extending.md"
SMALL = (*TINY, "layers=[conv1]", 'channels="0:16"')


def source(path: Path, word: str) -> str:
    """The one Python block of a page that a word is in."""
    (found,) = (block for block in blocks(path, "python") if word in block)
    return found


def test_the_example_of_an_objective(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "alone.py").write_text(source(EXTENDING, "def score"))
    ((_, told),) = (line for line in commands(EXTENDING) if "name=alone" in line[1])
    assert run_here(tmp_path, *SMALL, *told) == EXIT_OK
    with h5py.File(tmp_path / "alone" / "atlas.h5") as file:
        layer = file["demo/conv1"]
        channels, responses = layer["channel"][:], layer["response"][:, 0]
        activation, trace = layer["activation"][:, 0], layer["trace"][:, 0]
    own = responses[np.arange(len(channels)), channels]
    others = (responses.sum(axis=1) - own) / (responses.shape[1] - 1)
    np.testing.assert_allclose(activation, own - 2 * others, rtol=1e-4, atol=1e-4)
    assert np.median(trace[:, -1] - trace[:, 0]) > 0


def test_the_example_of_a_parameterization(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("blobs.py").write_text(source(EXTENDING, "class Blobs"))
    exec(source(EXTENDING, "save_file"), {})
    ((_, told),) = (line for line in commands(EXTENDING) if "name=blobs" in line[1])
    assert run_here(tmp_path, *SMALL, *told) == EXIT_OK
    with h5py.File(tmp_path / "blobs" / "atlas.h5") as file:
        images, trace = file["demo/conv1/image"][:, 0], file["demo/conv1/trace"][:, 0]
    assert np.median(trace[:, -1] - trace[:, 0]) > 0
    # Blobs are smooth: neighbours differ little, whatever a channel would rather see.
    assert np.abs(np.diff(images.astype(float), axis=2)).mean() < 10


def test_the_example_of_an_executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, type] = {}
    exec(source(EXTENDING, "class Prefixed"), names)
    opened = []

    def open_executor(settings: object, devices: list[str], folder: Path) -> object:
        opened.append(names["Prefixed"](["nice", "-n", "5"], len(devices)))
        return opened[-1]

    monkeypatch.setattr(sweep, "open_executor", open_executor)
    assert sweep.run(composed(f"output_root={tmp_path}", *SMALL, "name=prefixed")) == EXIT_OK
    (executor,) = opened
    assert [process.args[:3] for process in executor.processes.values()] == [["nice", "-n", "5"]] * 2
    assert run_here(tmp_path, *SMALL, "name=usual") == EXIT_OK
    assert_same_atlas(tmp_path / "prefixed" / "atlas.h5", tmp_path / "usual" / "atlas.h5")
