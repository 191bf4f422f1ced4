"""An atlas as a whole: what is made, made again, and left as it is."""

import shutil
from dataclasses import replace

import pytest
from toys import composed, fill_store, make_plan

from layer_atlas.atlas.gather import layer_views
from layer_atlas.config.config import CollateSettings
from layer_atlas.config.outputs import TracesFigure
from layer_atlas.errors import UserError
from layer_atlas.presentation import collate as atlas
from layer_atlas.presentation.collate import content_of, ensure_atlas, make_atlas
from layer_atlas.presentation.figures.make import make_figure
from layer_atlas.presentation.site.files import folder_of
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import write_manifest

PLAN = make_plan(channels=(0, 1), shard_size=1)
WITH, WITHOUT = CollateSettings(), CollateSettings(site=False)


@pytest.fixture
def stored(folder: OutputFolder) -> OutputFolder:
    """A finished sweep of two shards that nobody has collated."""
    fill_store(folder, PLAN)
    write_manifest(folder, composed(), PLAN, ["cpu"])
    return folder


@pytest.fixture
def collations(monkeypatch: pytest.MonkeyPatch) -> list[CollateSettings]:
    """What was collated, and how."""
    done: list[CollateSettings] = []
    real = atlas.collate

    def collate(folder: OutputFolder, settings: CollateSettings) -> None:
        done.append(settings)
        real(folder, settings)

    monkeypatch.setattr(atlas, "collate", collate)
    return done


def content(folder: OutputFolder) -> str:
    return content_of(PLAN, list(layer_views(folder, PLAN)))


@pytest.mark.slow
def test_the_site_is_made_if_one_is_wanted(stored: OutputFolder) -> None:
    make_atlas(stored, WITHOUT)
    assert stored.atlas.exists()
    assert not stored.site.exists()
    make_atlas(stored, WITH)
    assert folder_of(stored.site)


@pytest.mark.slow
def test_figures_take_the_names_of_layers_that_the_montages_have(stored: OutputFolder) -> None:
    make_atlas(stored, replace(WITHOUT, names={"block.conv": "first block"}))
    for figure, name in (
        (TracesFigure(), "first block"),
        (TracesFigure(names={"block.conv": "stem"}), "stem"),
    ):
        make_figure(stored, figure)
        caption = (stored.figures / "traces.caption.tex").read_text()
        assert f" channels of {name} of toy" in caption
    with pytest.raises(UserError, match=r"unknown layer of collate\.names"):
        make_atlas(stored, replace(WITHOUT, names={"cnov": "first block"}))


@pytest.mark.slow
def test_what_is_of_this_content_stays(
    stored: OutputFolder, collations: list[CollateSettings]
) -> None:
    for settings in (WITHOUT, WITHOUT, WITH, WITHOUT):  # a site is no picture
        make_atlas(stored, settings, content(stored))
    assert collations == [WITHOUT]
    assert folder_of(stored.site)
    wider = replace(WITH, gap=9)
    make_atlas(stored, wider, content(stored))
    make_atlas(stored, wider)
    assert collations == [WITHOUT, wider, wider]


@pytest.mark.slow
def test_with_an_atlas_of_other_shards_the_site_is_made_anew_too(
    stored: OutputFolder, collations: list[CollateSettings]
) -> None:
    settings = replace(WITH, gap=9)
    make_atlas(stored, settings)
    before = folder_of(stored.site)
    ensure_atlas(stored)
    assert collations == [settings]
    next(stored.store.rglob("*.safetensors")).unlink()
    ensure_atlas(stored)
    assert collations == [settings, settings]
    assert folder_of(stored.site) != before


def test_an_atlas_from_elsewhere_is_taken_as_it_is(
    stored: OutputFolder, collations: list[CollateSettings]
) -> None:
    make_atlas(stored, WITHOUT)
    shutil.rmtree(stored.store)
    stored.manifest.unlink()
    ensure_atlas(stored)
    assert collations == [WITHOUT]
