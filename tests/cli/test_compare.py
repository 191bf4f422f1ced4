"""`atlas compare`: what its words name, its table, its file, and its errors."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from compared import CHANNELS, network, permuted, responses, stored, two_models

from layer_atlas.cli.commands import main


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    order = torch.randperm(CHANNELS, generator=torch.Generator().manual_seed(1))
    stored(tmp_path / "base", responses(network(3)))
    stored(tmp_path / "shuffled", responses(permuted(network(3), order)))
    stored(tmp_path / "twins", responses(network(3)), two_models)
    return tmp_path


def said(capsys: pytest.CaptureFixture[str], code: int, *arguments: str) -> str:
    assert main(["compare", *arguments]) == code
    out, err = capsys.readouterr()
    return err if code else out


@pytest.mark.slow
def test_two_runs_are_compared_by_index_and_by_match(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, 0, "base", "shuffled", f"output_root={runs}")
    row = next(line for line in text.splitlines() if line.startswith("block.conv"))
    name, channels, by_index, by_match, moved, *_ = row.split()
    assert (name, channels, by_match) == ("block.conv", "12", "1.000")
    assert float(by_index) < 0.9
    assert int(moved) >= 10
    with h5py.File(runs / "base" / "figures" / "compare-shuffled.h5") as file:
        similarity = file["block.conv/similarity"][()]
        assert similarity.mean() == pytest.approx(float(by_index), abs=5e-4)
        assert "matrix" not in file["block.conv"]
    least = np.argsort(similarity)[:3]
    assert ", ".join(f"{k} ({similarity[k]:.2f})" for k in least) in row
    assert "by 60 images of folder photos" in text


@pytest.mark.slow
def test_folders_and_two_models_of_a_run_are_compared_too(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said(capsys, 0, str(runs / "base"), str(runs / "shuffled"), "matrix", "output_root=nowhere")
    with h5py.File(runs / "base" / "figures" / "compare-shuffled.h5") as file:
        assert file["block.conv/matrix"].shape == (CHANNELS, CHANNELS)
    text = said(capsys, 0, "toy", "twin", "name=twins", f"output_root={runs}")
    assert "toy against twin" in text
    assert " 1.000     1.000      0 " in text
    assert (runs / "twins" / "figures" / "compare-toy-twin.h5").is_file()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["base"], "it takes two words, not 1"),
        (["base", "shuffled", "twins"], "it takes two words, not 3"),
        (["base", "tuned"], "there is no run 'tuned' in"),
        (["toy", "twim", "name=twins"], "unknown model of .*'twim'; choose from: twin"),
        (["toy", "twin"], r"several runs in .*choose one with name="),
        (["base", "shuffled", "layers=[conv9]"], "unknown layer that both have 'conv9'"),
    ],
)
def test_mistakes_are_reported_in_a_sentence(
    runs: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert re.search(message, said(capsys, 2, *words, f"output_root={runs}").replace("\n", " "))
    assert not list(runs.rglob("compare-*"))
