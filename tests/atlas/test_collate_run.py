"""Collation as a whole: what is up to date stays, and who dies on the way is told."""

import os
import signal
from pathlib import Path

import pytest
from toys import composed, fail, fill_store, make_plan

from layer_atlas.atlas.gather import LayerView, layer_views
from layer_atlas.config.config import CollateSettings
from layer_atlas.errors import StorageError, UserError
from layer_atlas.presentation.collate import (
    collate_here,
    content_of,
    is_current,
    paint,
    read_summary,
)
from layer_atlas.processes import ProcessDied, run_apart
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import write_manifest

PLAN = make_plan(channels=(0, 1), shard_size=1)


@pytest.fixture
def collated(folder: OutputFolder) -> OutputFolder:
    fill_store(folder, PLAN, {1: "dead"})
    write_manifest(folder, composed(), PLAN, ["cpu"])
    collate_here(folder, CollateSettings())
    return folder


def atlas_is_made_again(folder: OutputFolder, **changes: object) -> bool:
    settings = CollateSettings(**changes)  # type: ignore[arg-type]
    if is_current(folder, content_of(PLAN, list(layer_views(folder, PLAN))), settings):
        return False
    collate_here(folder, settings)
    return True


@pytest.mark.slow
def test_what_is_up_to_date_stays(collated: OutputFolder) -> None:
    summary = read_summary(collated)
    assert summary is not None
    assert {word: n for word, n in summary.counts.items() if n} == {"ok": 1, "dead": 1}
    assert summary.pictures == ("montages/toy/block.conv.png",)
    assert not atlas_is_made_again(collated)


def shorter(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "harm",
    [
        lambda folder: folder.atlas.unlink(),
        lambda folder: shorter(folder.atlas),
        lambda folder: folder.summary.unlink(),
        lambda folder: folder.summary.write_text("{}"),
        lambda folder: folder.montage("toy", "block.conv").unlink(),
        lambda folder: next(folder.store.rglob("*.safetensors")).unlink(),
    ],
    ids=["no atlas", "atlas cut short", "no brief", "odd brief", "no montage", "a shard less"],
)
def test_what_is_not_is_made_again(collated: OutputFolder, harm: object) -> None:
    harm(collated)  # type: ignore[operator]
    assert atlas_is_made_again(collated)
    assert not atlas_is_made_again(collated)


@pytest.mark.slow
def test_other_settings_make_another_atlas(collated: OutputFolder) -> None:
    assert atlas_is_made_again(collated, tile=64)


@pytest.mark.slow
def test_an_atlas_that_met_a_corrupt_shard_is_made_again(collated: OutputFolder) -> None:
    path = next(collated.store.rglob("*.safetensors"))
    shorter(path)
    collated.summary.unlink()
    collate_here(collated, CollateSettings())
    fill_store(collated, PLAN, {1: "dead"})
    assert atlas_is_made_again(collated)


@pytest.mark.slow
def test_what_was_given_up_since_is_in_the_atlas(collated: OutputFolder) -> None:
    shard = next(PLAN.shards())
    collated.shard(shard).unlink()
    assert atlas_is_made_again(collated)
    fail(collated, shard)
    assert atlas_is_made_again(collated)


def _die(view: LayerView) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_painter_that_is_killed_is_told(collated: OutputFolder) -> None:
    with pytest.raises(StorageError, match="was killed; is the memory full"):
        paint(list(layer_views(collated, PLAN)), _die)


@pytest.mark.slow
def test_a_child_that_dies_is_told_by_its_signal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "atlas.h5")
    folder = OutputFolder(tmp_path)
    write_manifest(folder, composed(), PLAN, ["cpu"])
    with pytest.raises(ProcessDied, match="SIGALRM"):
        run_apart("compare-here", str(tmp_path), "1")


@pytest.mark.slow
def test_what_a_child_tells_the_user_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no run in"):
        run_apart("collate-here", str(tmp_path / "nothing"), "{}")
