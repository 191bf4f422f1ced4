"""A sweep that goes on with another torch: every report says so, and `strict` makes it as new."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray
from runs import assert_same_atlas, atlas, atlas_here, shards

from layer_atlas import open_atlas
from layer_atlas.plan.environment import environment_here, parse_environment
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import plan_of, read_manifest
from tests.environments import made_by, pretend

pytestmark = pytest.mark.slow


SWEEP = (
    "optimizer.steps=4",
    "optimizer.leaky_steps=2",
    "image_size=32",
    "layers=[conv1,conv2]",
    "shard_size=8",
    "connections=0",
    "precision=fp32",
    "executor.devices=[cpu]",
)
"""64 images in 8 shards."""

OLD = made_by("2.0.1", "Old CPU")
HERE = environment_here("cpu", ["demo"])
TOLD = ("made with 2 environments", "(56 images)", "torch 2.0.1 on Old CPU (8 images)")
REMEDY = "versions=strict makes the images of others again"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh sweep, and one of which a shard of conv2 is as if made with an older torch."""
    root = tmp_path_factory.mktemp("runs")
    for name in ("fresh", "mixed"):
        code, said = atlas_here("run", root, f"name={name}", *SWEEP)
        assert code == 0, said
        assert "versions" not in said
    folder = OutputFolder(root / "mixed")
    plan = plan_of(read_manifest(folder))
    last = folder.shard(list(plan.shards())[-1])
    pretend(folder, plan, last, OLD)
    code, said = atlas_here("collate", root, "name=mixed")
    assert all(words in said for words in (*TOLD, REMEDY)), said
    return root


def in_sweep(command: str, root: Path, *overrides: str) -> str:
    code, said = atlas_here(command, root, "name=mixed", *overrides)
    assert code == 0, said
    return said


def test_every_report_says_that_versions_are_mixed(root: Path) -> None:
    for command in (("run", *SWEEP), ("status",), ("verify",)):
        said = in_sweep(command[0], root, *command[1:])
        assert all(words in said for words in (*TOLD, REMEDY)), said
    in_sweep("figure", root, "figure.layers=[conv2]", "figure.channels=all")
    methods = (root / "mixed" / "figures" / "images.methods.md").read_text()
    assert "Images were made with 2 environments" in methods
    assert "torch 2.0.1 on Old CPU (8 images)" in methods
    assert "made with" not in atlas_here("status", root, "name=fresh")[1]


def test_the_atlas_says_of_each_image_what_it_was_made_with(root: Path) -> None:
    path = root / "mixed" / "atlas.h5"
    with h5py.File(path) as file:
        layer = file["demo/conv2"]
        codes, texts = layer["made_with"][...], list(layer["environment"].asstr())
    assert texts[0] == "unknown"
    assert [parse_environment(text) for text in texts[1:]] == [HERE, OLD]
    assert codes.tolist() == [[1]] * 32 + [[2]] * 8
    with xarray.open_dataset(path, engine="h5netcdf", group="demo/conv2") as labelled:
        named = labelled.environment[labelled.made_with.sel(seed=0)]
        assert np.array_equal(named.values, np.asarray(texts)[codes[:, 0]])
    with open_atlas(path) as read:
        assert read["demo/conv2"].environments == [None, HERE, OLD]
        assert read["demo/conv2"].made_with() == {HERE: 32, OLD: 8}
        assert read["demo/conv2"].made_with([0, 39]) == {HERE: 1, OLD: 1}
        assert "made_with" not in read["demo/conv2"].statistics


def test_strict_makes_exactly_those_again_and_all_is_as_if_fresh(root: Path) -> None:
    before = shards(root / "mixed")
    said = in_sweep("plan", root, *SWEEP, "versions=strict")
    assert "64, of which 8 are missing" in said
    assert "8 images made with other versions or devices: they count as missing" in said
    assert shards(root / "mixed") == before

    said = in_sweep("run", root, *SWEEP, "versions=strict")
    assert "made with" not in said
    after = shards(root / "mixed")
    # All that was there is there still, one of it by another name.
    assert set(before.values()) <= set(after.values())
    assert len(after) == len(before) + 1
    assert sum(after.get(name) == was for name, was in before.items()) == 7
    assert_same_atlas(root / "mixed" / "atlas.h5", root / "fresh" / "atlas.h5")

    assert in_sweep("run", root, *SWEEP, "versions=strict")
    assert shards(root / "mixed") == after  # nothing is left to be done
    assert "made with" not in in_sweep("status", root) + in_sweep("verify", root)
    in_sweep("run", root, *SWEEP)  # whatever counts, the new one has the name
    assert_same_atlas(root / "mixed" / "atlas.h5", root / "fresh" / "atlas.h5")


def test_a_worker_with_other_versions_than_wanted_makes_nothing(tmp_path: Path) -> None:
    config = (*SWEEP, "name=x", "channels='0:8'", "versions=strict")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("layer_atlas.sweep.tasks.optimize.environment_here", lambda *_: OLD)
        code, said = atlas_here("run", tmp_path, *config)
    assert code != 0
    assert not shards(tmp_path / "x")
    assert "versions=strict wants images made with" in said or "failed" in said


def test_processors_used_otherwise_are_told_apart_in_real_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With other instructions, which round otherwise: bits that strict does not let pass."""
    config = (*SWEEP, "name=x")
    with monkeypatch.context() as patch:
        patch.setenv("ATEN_CPU_CAPABILITY", "default")
        assert atlas("run", tmp_path, *config, "channels='0:8'")[0] == 0
    said = atlas("run", tmp_path, *config)[1]
    assert "made with 2 environments" in said
    assert "(DEFAULT) (16 images)" in said
    assert atlas("run", tmp_path, *config, "versions=strict")[0] == 0
    assert atlas("run", tmp_path, *config, "name=fresh")[0] == 0
    assert_same_atlas(tmp_path / "x" / "atlas.h5", tmp_path / "fresh" / "atlas.h5")
