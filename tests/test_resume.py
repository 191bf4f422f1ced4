"""Running again: nothing that is done is done again, and a wider sweep makes only what is new.

What becomes of sweeps that something happens to is in `faults/`.
"""

from pathlib import Path

import pytest
from runs import TINY, assert_same_atlas, atlas_here, run_here, shards


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a sweep that was made at once."""
    root = tmp_path_factory.mktemp("undisturbed")
    assert run_here(root, *TINY) == 0
    return root / "demo"


@pytest.mark.slow
def test_a_finished_sweep_computes_nothing(undisturbed: Path) -> None:
    before = shards(undisturbed)
    atlas_file = (undisturbed / "atlas.h5").stat().st_mtime_ns
    code, said = atlas_here("run", undisturbed.parent, *TINY)
    assert code == 0
    assert "64 images: " in said
    assert shards(undisturbed) == before
    assert (undisturbed / "atlas.h5").stat().st_mtime_ns == atlas_file


def test_a_widened_sweep_computes_only_what_is_new(undisturbed: Path, tmp_path: Path) -> None:
    assert run_here(tmp_path, *TINY, "channels='0:12'") == 0
    before = shards(tmp_path / "demo")
    code, said = atlas_here("run", tmp_path, *TINY)
    assert code == 0, said
    assert "24 of 64 channels are done already" in said
    assert before.items() <= shards(tmp_path / "demo").items()
    assert_same_atlas(undisturbed / "atlas.h5", tmp_path / "demo" / "atlas.h5")
