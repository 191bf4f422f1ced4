"""Fault 9: the recipe changed, and what was made by the old one is still there."""

from pathlib import Path

import pytest
from runs import assert_same_atlas, atlas_here, shards
from sweeps import SWEEP, assert_nothing_lost, unfinished

OTHER = "optimizer.learning_rate=0.06"


@pytest.mark.slow
def test_nothing_made_by_the_old_one_passes_for_the_new(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    before = unfinished(undisturbed, folder, n_missing=0)
    assert atlas_here("run", tmp_path, *SWEEP, OTHER)[0] == 0
    assert before.items() < shards(folder).items()
    assert len(shards(folder)) == 2 * len(before)
    assert atlas_here("run", tmp_path / "fresh", *SWEEP, OTHER)[0] == 0
    assert_same_atlas(tmp_path / "fresh" / "demo" / "atlas.h5", folder / "atlas.h5")


def test_changed_back_it_finds_what_it_had_made(undisturbed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    unfinished(undisturbed, folder, n_missing=0)
    assert atlas_here("run", tmp_path, *SWEEP, OTHER, "channels=[0]")[0] == 0
    before = shards(folder)
    code, said = atlas_here("run", tmp_path, *SWEEP)
    assert code == 0, said
    assert shards(folder) == before
    assert_nothing_lost(undisturbed, folder)
