"""Names that readers know stand in the site instead of those of modules."""

import shutil
from collections.abc import Iterator

import h5py
import numpy as np
import pytest
from atlases import made_up
from pages import Visit, at

from layer_atlas.atlas.reader import open_atlas
from layer_atlas.presentation.site.make import make_site
from layer_atlas.store.folder import OutputFolder

STEM = "the <b>stem</b>"


@pytest.fixture
def copied(folder: OutputFolder) -> OutputFolder:
    made_up(folder.root, {"a": 6, "b": 3}, (0,))
    with h5py.File(folder.atlas, "a") as file:
        texts = np.asarray(["tench", "<b>hen", "hen of the woods"], object)
        file["toy"]["b"].create_dataset("channel_name", data=texts, dtype=h5py.string_dtype())
    shutil.rmtree(folder.store)
    return folder


@pytest.fixture
def named(browser: object, copied: OutputFolder) -> Iterator[Visit]:
    visit = Visit.begin(browser, make_site(copied, {"a": STEM, "b:1": "feathers"}))
    visit.reset()
    yield visit
    visit.end()
    assert visit.wrong == []


def test_headings_crumbs_and_search_have_the_name_for_readers(named: Visit) -> None:
    named.go("#/")
    assert named.texts("a.floor .name") == [STEM, "b"]
    assert named.page.locator("a.floor .name").first.get_attribute("title") == "a"
    assert named.page.locator("a.floor .name").last.get_attribute("title") is None
    named.go(at("a"))
    assert named.texts("main h1") == [STEM]
    named.go(at("a", 2))
    assert named.texts("main h1 .of") == [STEM]
    assert named.texts(".crumbs a")[-2:] == [STEM, "2"]


def test_a_channel_is_found_by_its_label_and_by_the_class_that_it_is(named: Visit) -> None:
    named.go("#/")
    for wanted, lines in {
        "feath": ["1 feathers\nclass “<b>hen” of b"],
        "HEN": ["1 feathers\nclass “<b>hen” of b", "2 hen of the woods\nclass of b"],
    }.items():
        named.page.fill("#search", wanted)
        named.page.wait_for_selector("#found li:has-text('of b')")
        found = named.page.locator("#found li").all_inner_texts()
        assert found == [line.replace("class", "channel") for line in lines]
    named.page.keyboard.press("Enter")
    named.until(f"location.hash === '{at('b', 1)}'")


def test_names_make_another_site_of_the_same_atlas(copied: OutputFolder) -> None:
    plain = make_site(copied).read_text()
    given = make_site(copied, {"a": "stem"}).read_text()
    assert given != plain
    assert make_site(copied, {"a": "stem"}).read_text() == given
    assert make_site(copied).read_text() == plain


def test_the_name_of_one_model_goes_before_that_of_all(copied: OutputFolder) -> None:
    with open_atlas(copied.atlas) as atlas:
        layer = atlas["a"]
        assert layer.called({"a": "all", layer.title: "one"}).reader_name == "one"
        assert layer.called({"b": "other"}).reader_name == layer.called(None).reader_name == "a"
