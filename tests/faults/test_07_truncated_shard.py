"""Fault 7: shards that were cut short, to any length."""

import shutil
from pathlib import Path

import pytest
from runs import atlas_here, shards
from sweeps import SWEEP, assert_nothing_lost, unfinished

LENGTHS = (0, 1, 100, 600, 5000, -1)
"""Nothing, within the header and the arrays, and all but a byte."""


@pytest.mark.slow
def test_they_are_set_aside_and_made_again(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    unfinished(undisturbed, folder, n_missing=0)
    cut, whole = cut_some(folder)
    code, said = atlas_here("run", tmp_path, *SWEEP)
    assert code == 0, said
    assert len(aside(folder)) == len(LENGTHS)
    assert "missing" not in said
    after = shards(folder)
    assert set(cut) <= set(after)
    assert_nothing_lost(undisturbed, folder, whole)


def test_verify_finds_them(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    shutil.copytree(undisturbed, folder)
    cut, whole = cut_some(folder)
    code, said = atlas_here("verify", tmp_path)
    assert code == 1, said
    assert said.count("corrupt shard set aside") == len(LENGTHS)
    assert shards(folder) == whole
    assert len(aside(folder)) == len(cut)


def cut_some(folder: Path) -> tuple[list[str], dict[str, tuple[int, int]]]:
    """Cut a shard to each length; returns their names, and the shards that stay whole."""
    names = sorted(shards(folder))
    cut, rest = names[: len(LENGTHS)], names[len(LENGTHS) :]
    for name, length in zip(cut, LENGTHS, strict=True):
        data = (folder / name).read_bytes()
        assert len(data) > max(LENGTHS)
        (folder / name).write_bytes(data[:length])
    return cut, {name: shards(folder)[name] for name in rest}


def aside(folder: Path) -> list[Path]:
    return list(folder.rglob("*.corrupt-*"))
