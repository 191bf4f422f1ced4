"""Notes, labels, filters and what can be taken away, in a real browser and on the command line."""

import csv
import io
import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atlases import made_up
from pages import HOSTILE, Visit, at, check_access
from runs import atlas_here
from toys import composed

from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.outputs import ImagesFigure
from layer_atlas.presentation.site.make import make_site, take_notes
from layer_atlas.store.folder import OutputFolder

A = "block.a"


def write_note(visit: Visit, channel: int, note: str, tags: str = "") -> None:
    visit.go(at(A, channel))
    visit.page.fill("#note", note)
    visit.page.fill("#tags", tags)


def downloaded(visit: Visit, selector: str) -> str:
    """The text of the file that a button hands over."""
    with visit.page.expect_download() as found:
        visit.page.click(selector)
    return Path(found.value.path()).read_text()


# --- notes ----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_notes_stay_in_the_browser_and_mark_filter_and_find_their_channels(visit: Visit) -> None:
    write_note(visit, 17, "hatched curves", "curve, left")
    visit.press("Tab")
    visit.go(at(A, 5))
    visit.page.click("#favourite")
    visit.page.reload()
    visit.page.wait_for_selector("#favourite[aria-pressed=true]")
    visit.go(at(A))
    marks = visit.page.locator(".wall .marks")
    assert marks.all_inner_texts() == ["★\nfavourite", "✎\nnoted, curve, left"]
    visit.page.select_option("#choose-notes", "tag:left")
    visit.until("location.hash.includes('mark=tag')")
    visit.settle()
    assert visit.rows() == [17]
    visit.go(at(A, query="mark=favourite"))
    assert visit.rows() == [5]
    for wanted in ("HATCHED", "left"):
        visit.go("#/")
        visit.page.fill("#search", wanted)
        visit.press("Enter")
        assert visit.hash == at(A, 17)
    visit.go(at(A, 5))
    visit.press("f")
    assert visit.page.get_attribute("#favourite", "aria-pressed") == "false"


@pytest.mark.slow
def test_notes_leave_as_a_file_and_come_back(visit: Visit, tmp_path: Path) -> None:
    write_note(visit, 3, 'dead "one"', "odd")
    file = tmp_path / "notes.json"
    file.write_text(downloaded(visit, "#export-notes"))
    notes = json.loads(file.read_text())["notes"]
    assert notes == {f"toy/{A}:3": {"note": 'dead "one"', "tags": ["odd"], "favourite": False}}
    visit.page.evaluate("localStorage.clear()")
    visit.page.reload()
    visit.page.wait_for_selector("#note")
    assert visit.page.input_value("#note") == ""
    visit.page.set_input_files("#notes-file", file)
    visit.until("document.querySelector('.notes [role=status]').textContent.includes('Took in')")
    assert visit.page.input_value("#note") == 'dead "one"'
    file.write_text("{}")
    visit.page.set_input_files("#notes-file", file)
    visit.until("document.querySelector('.notes [role=status]').textContent.includes('no file')")


def test_a_browser_that_keeps_nothing_says_so(browser: Any, browsed: OutputFolder) -> None:
    visit = Visit.begin(browser, browsed.site / "index.html")
    refuse = "Object.defineProperty(window, 'localStorage', { get() { throw new Error(); } })"
    visit.page.add_init_script(refuse)
    visit.page.goto(visit.home + at(A, 4))
    visit.page.wait_for_selector("#note")
    visit.page.fill("#note", "lost")
    assert "keeps nothing" in visit.texts(".notes [role=status]")[0]
    visit.go(at(A))
    assert visit.page.locator(".wall .marks").count() == 1
    assert visit.wrong == []
    visit.end()


@pytest.fixture
def own(tmp_path: Path) -> OutputFolder:
    """An atlas without a manifest, as it comes from elsewhere."""
    folder = OutputFolder(tmp_path / "own")
    made_up(folder.root, {"a": 6, "b": 3})
    return folder


def notes_file(path: Path, **notes: dict[str, Any]) -> Path:
    found = {place.replace("_", ":"): note for place, note in notes.items()}
    path.write_text(json.dumps({"schema": "layer-atlas-notes/1", "notes": found}))
    return path


@pytest.mark.slow
def test_the_command_bakes_notes_into_this_site_and_later_ones(
    own: OutputFolder, tmp_path: Path
) -> None:
    file = notes_file(tmp_path / "n.json", a_2={"note": "curves", "tags": ["x"]})
    place = (own.root.parent, f"name={own.root.name}")
    assert atlas_here("site", *place, f"notes={file}")[0] == 0
    first = (own.site / "index.html").read_text()
    (index,) = own.site.glob("*/index.js")
    assert "curves" in index.read_text()
    assert atlas_here("site", *place)[0] == 0
    assert (own.site / "index.html").read_text() == first
    code, said = atlas_here(
        "site", *place, f"notes={notes_file(tmp_path / 'm.json', a_6={'note': 'x'})}"
    )
    assert code == 2
    assert "names channel '6' of a, which has 0 to 5" in said
    # Of another atlas in the same folder, notes without a place wait.
    made_up(own.root, {"c": 2})
    assert atlas_here("site", *place)[0] == 0
    (index,) = own.site.glob("*/index.js")
    assert "curves" not in index.read_text()
    made_up(own.root, {"a": 6, "b": 3})
    assert atlas_here("site", *place)[0] == 0
    assert (own.site / "index.html").read_text() == first
    (tmp_path / "m.json").write_text('{"schema": "other"}')
    code, said = atlas_here("site", *place, f"notes={tmp_path / 'm.json'}")
    assert code == 2
    assert (own.site / "index.html").read_text() == first


@pytest.fixture
def labelled(browser: Any, own: OutputFolder, tmp_path: Path) -> Iterator[Visit]:
    """A site with a hostile label and a hostile note."""
    take_notes(own, notes_file(tmp_path / "n.json", a_2={"note": HOSTILE}))
    names = {"a": "stem", "toy/b:1": f"dogs {HOSTILE}", "a:4": "left curves"}
    visit = Visit.begin(browser, make_site(own, names))
    visit.reset()
    yield visit
    visit.end()
    assert visit.wrong == []


@pytest.mark.slow
def test_labels_and_notes_of_the_site_are_shown_found_and_inert(labelled: Visit) -> None:
    labelled.go(at("a"))
    labels = labelled.page.locator(".wall .label").all_inner_texts()
    assert labels == ["0", "1", "2", "3", "4 left curves", "5"]
    labelled.go(at("a", 2))
    assert labelled.page.input_value("#note") == HOSTILE
    for wanted, address in (("curves", at("a", 4)), ("dogs", at("b", 1)), ("stem 3", at("a", 3))):
        labelled.go("#/")
        labelled.page.fill("#search", wanted)
        labelled.until("document.querySelectorAll('#found [aria-selected=true]').length")
        labelled.press("Enter")
        assert labelled.hash == address, wanted
    labelled.page.fill("#search", "2")
    found = labelled.texts(".found li span:first-child")
    assert found[:2] == ["2", "b:2"]  # here, and in each other layer
    assert labelled.page.evaluate("window.hacked") is None


# --- filters --------------------------------------------------------------------------------------


def test_a_filter_is_drawn_over_its_histogram(visit: Visit, atlas: Atlas) -> None:
    values = atlas["toy/block.a"]["agreement"][:, 1]
    visit.go(at(A, query="where=agreement::"))
    bars = visit.page.eval_on_selector_all(
        ".histogram .in", "(all) => all.map((each) => Number(each.getAttribute('height')))"
    )
    counts, _ = np.histogram(values, 25)
    assert np.argmax(bars) == np.argmax(counts)
    assert [height > 0 for height in bars] == (counts > 0).tolist()
    box = visit.page.locator(".histogram").bounding_box()
    middle = box["y"] + box["height"] / 2
    visit.page.mouse.move(box["x"] + 0.25 * box["width"], middle)
    visit.page.mouse.down()
    visit.page.mouse.move(box["x"] + 0.75 * box["width"], middle, steps=4)
    visit.page.mouse.up()
    visit.until("/agreement%3A0.\\d+%3A0.\\d+/.test(location.hash)")
    visit.settle()
    low, high = np.quantile(values, [0, 1])
    bounds = [float(x) for x in visit.hash.split("agreement%3A")[1].split("%3A")]
    assert bounds == pytest.approx([low + (high - low) * x for x in (0.25, 0.75)], abs=0.02)
    assert visit.rows() == np.flatnonzero((values >= bounds[0]) & (values <= bounds[1])).tolist()
    assert visit.page.locator(".histogram .bound").count() == 2
    assert visit.page.locator(".histogram .out").count() > 5


def test_constant_statistics_are_not_offered(visit: Visit, atlas: Atlas) -> None:
    visit.go(at(A))
    offered = visit.page.eval_on_selector_all(
        "#choose-sort option", "(all) => all.map((each) => each.value)"
    )
    layer = atlas["toy/block.a"]
    known = {name: layer[name][np.isfinite(layer[name])] for name in layer.statistics}
    assert set(offered) - {""} == {name for name, v in known.items() if np.unique(v).size > 1}
    assert len(offered) - 1 < len(layer.statistics)
    visit.go(at(A, query="sort=agreement"))
    meaning = layer.statistics["agreement"]
    assert not meaning or meaning in " ".join(visit.texts(".note"))


# --- what can be taken away -----------------------------------------------------------------------


def test_the_table_has_the_numbers_of_the_atlas(visit: Visit, atlas: Atlas) -> None:
    visit.go(at(A, query="sort=agreement&seed=7&where=agreement:0.5:"))
    visit.page.click(".downloads summary")
    rows = list(csv.DictReader(io.StringIO(downloaded(visit, "#csv"))))
    layer = atlas["toy/block.a"]
    assert [int(row["channel"]) for row in rows] == visit.rows()
    for row in rows:
        place = (int(row["channel"]), 1)
        assert row["seed"] == "7"
        for name in ("activation", "agreement", "activation_robust"):
            known = float(layer[name][place])
            shown = float(row[name] or "nan")
            assert shown == pytest.approx(known, rel=1e-6, nan_ok=True) or not np.isfinite(known)


@pytest.mark.parametrize("query", ["", "sort=agreement&where=agreement:0.9:", "seed=7&up=1"])
def test_the_command_of_a_figure_draws_what_is_shown(visit: Visit, query: str) -> None:
    for name in (A, HOSTILE):
        visit.go(at(name, query=query))
        visit.page.click(".downloads summary")
        words = shlex.split(visit.page.input_value("#figure-command"))
        assert words[:2] == ["atlas", "figure"]
        figure = composed(*words[2:]).figure
        assert isinstance(figure, ImagesFigure)
        shown = visit.rows()
        whole = {A: 150, HOSTILE: 5}[name]
        assert figure.channels == ("all" if not query else shown) or len(shown) == whole
        assert figure.models == ("toy",)


def test_the_about_page_says_what_the_images_are(visit: Visit) -> None:
    visit.page.click("#about")
    visit.settle()
    assert visit.texts("h1") == ["About <b>atlas"]
    text = visit.texts("main")[0]
    for words in ("gradient ascent", "Licence", "all 150 channels", "toy", "torch"):
        assert words in text, words
    check_access(visit)
    assert visit.texts(".crumbs a")[-1] == "About"


# --- paper ----------------------------------------------------------------------------------------


def test_a_grid_prints_all_its_tiles_without_controls(visit: Visit) -> None:
    visit.page.set_viewport_size({"width": 500, "height": 400})
    visit.go(at(A))
    visit.page.emulate_media(media="print", color_scheme="dark")
    for event in ("beforeprint", "resize", "scroll"):
        visit.page.evaluate(f"dispatchEvent(new Event('{event}'))")
    assert visit.page.locator(".wall li").count() == 150
    assert not visit.page.locator(".toolbar").is_visible()
    tops = visit.page.evaluate(
        "[...document.querySelectorAll('.wall li')].map((e) => e.getBoundingClientRect().top)"
    )
    assert tops == sorted(tops)
    assert tops.count(tops[0]) == 8
    ink = visit.page.evaluate("getComputedStyle(document.body).color")
    assert ink == "rgb(0, 0, 0)"
    visit.page.evaluate("dispatchEvent(new Event('afterprint'))")
    visit.page.emulate_media(media="screen")
    assert visit.page.locator(".wall li").count() < 150


# --- for everybody, everywhere --------------------------------------------------------------------

VIEWS = {
    "about": ("#/?view=about", ""),
    "filters": (at(A, query="sort=agreement&where=agreement:0.2:;activation::"), ""),
    "taken away": (at(A), "document.querySelector('.downloads').open = true"),
    "channel": (at(A, 17), ""),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "theme"), [(360, "light"), (360, "dark"), (1280, "light"), (3840, "dark")]
)
def test_new_parts_keep_nobody_out_and_fit(visit: Visit, width: int, theme: Any) -> None:
    visit.page.set_viewport_size({"width": width, "height": 800})
    visit.page.emulate_media(color_scheme=theme)
    write_note(visit, 17, "hatched", "curve")
    visit.page.click("#favourite")
    for address, act in VIEWS.values():
        visit.go(address)
        visit.page.evaluate(act or "0")
        check_access(visit, theme)
