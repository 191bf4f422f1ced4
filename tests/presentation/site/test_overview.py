"""The overview: a network from input to output, its layers with images in their places."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from pages import Visit
from runs import atlas_here
from toys import composed, fill_store, layer_info, make_plan

from layer_atlas.plan.plan import ModuleInfo
from layer_atlas.presentation.collate import make_atlas
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import read_manifest, write_manifest

MODULES = (
    ModuleInfo("stem", "Conv2d", (8, 16, 16)),
    ModuleInfo("pool", "MaxPool2d", (8, 8, 8)),
    ModuleInfo("layer1", "Sequential", (6, 8, 8)),
    ModuleInfo("layer1.0", "Block", (6, 8, 8)),
    ModuleInfo("layer1.0.conv", "Conv2d", (6, 8, 8)),
    ModuleInfo("layer1.0.norm", "BatchNorm2d", (6, 8, 8)),
    ModuleInfo("layer1.1", "Conv2d", (6, 8, 8)),
    ModuleInfo("fc", "Linear", (10,)),
)


@pytest.fixture
def collated(folder: OutputFolder) -> OutputFolder:
    plan = make_plan(layer_info("layer1.0", 6), layer_info("layer1.0.conv", 6))
    model = replace(plan.models[0], modules=MODULES)
    plan = replace(plan, models=(model,))
    fill_store(folder, plan)
    write_manifest(folder, composed(), plan, ["cpu"], "atlas run name=x dataset.path=/home/me/ph")
    make_atlas(folder, replace(composed().collate, names={"layer1.0": "block"}))
    return folder


@pytest.fixture
def seen(browser: Any, collated: OutputFolder) -> Iterator[Visit]:
    visit = Visit.begin(browser, collated.site / "index.html")
    visit.reset()
    yield visit
    visit.end()
    assert visit.wrong == []


@pytest.mark.slow
def test_layers_stand_where_the_network_has_them(seen: Visit) -> None:
    assert seen.texts(".stack > li .name, .passage span") == [
        *("Conv2d 8 × 16 × 16", "MaxPool2d 8 × 8 × 8"),
        "layer1",
        "layer1.0.conv",
        "BatchNorm2d 6 × 8 × 8",
        "block",  # after all that is within it
        *("Conv2d 6 × 8 × 8", "Linear 10"),
    ]
    assert seen.texts(".stage .quiet") == ["Sequential · 6 × 8 × 8"]
    assert seen.page.locator("a.floor").count() == 2


@pytest.mark.slow
def test_the_about_page_has_the_command_without_the_folders_of_a_disk(seen: Visit) -> None:
    seen.go("#/?view=about")
    assert seen.page.input_value("#command") == "atlas run name=x dataset.path=…/ph"


@pytest.mark.slow
def test_a_site_that_is_made_again_keeps_the_names_of_the_collation(
    collated: OutputFolder,
) -> None:
    before = (collated.site / "index.html").read_text()
    place = (collated.root.parent, f"name={collated.root.name}")
    assert atlas_here("site", *place)[0] == 0
    assert (collated.site / "index.html").read_text() == before
    assert atlas_here("site", *place, "collate.names={layer1.0: other}")[0] == 0
    assert (collated.site / "index.html").read_text() != before


def test_the_manifest_has_the_modules_of_a_plan(collated: OutputFolder) -> None:
    modules = read_manifest(collated)["plan"]["models"][0]["modules"]
    assert [module["name"] for module in modules] == [module.name for module in MODULES]
