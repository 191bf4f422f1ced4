"""The site in a real browser: from disk, without a request that leaves it, for everybody."""

import io
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from numpy.typing import NDArray
from pages import HOSTILE, PHOTOGRAPH, Visit, at, violations
from PIL import Image

from layer_atlas.atlas.reader import Atlas, Layer
from layer_atlas.store.folder import OutputFolder

A = "block.a"
VIEWS = {
    "overview": "#/",
    "grid": at(A),
    "sorted grid": at(A, query="sort=activation&where=clipped%3A%3A1"),
    "channel": at(A, 17),
    "hostile channel": at(HOSTILE, 2),
    "missing channel": at(A, 140),
    "nothing": "#/toy/none",
    "about": "#/?view=about",
}


# --- what it shows --------------------------------------------------------------------------------


def test_the_overview_shows_every_layer_with_its_share_and_images(visit: Visit) -> None:
    assert visit.page.title() == "<b>atlas · Layer Atlas"
    assert visit.texts(".floor .name") == [A, "block.b", HOSTILE]
    assert "25.0 % of FLOPs" in visit.texts(".floor .share")[0]
    shown = visit.page.evaluate("[...document.images].map((each) => each.naturalWidth)")
    assert shown == [24 * 16, 12 * 16, 5 * 16]


def test_a_channel_shows_its_seeds_numbers_curve_photographs_and_kin(visit: Visit) -> None:
    visit.go(at("block.b", 4))
    assert visit.texts(".others .label") == ["seed 0", "seed 7"]
    assert visit.page.locator("svg.curve polyline").count() == 2
    assert visit.page.locator(".photograph").count() == 3
    assert visit.page.locator(".elsewhere").count() == 0  # other layers have other channels
    kin = [int(text) for text in visit.texts(".alike .label")]
    assert kin[0] == 9  # the only other one of its family
    statistics = dict(
        zip(visit.texts("tbody th"), visit.texts("tbody td:nth-child(2)"), strict=True)
    )
    assert {"activation", "agreement", "photographs: mean"} <= statistics.keys()


CHANNELS = (0, 9, 77, 127)
"""Places on sheets of 64; each family of channels is of another grey."""


@pytest.mark.slow
def test_the_tile_of_a_channel_is_its_image(visit: Visit, atlas: Atlas) -> None:
    for channel in CHANNELS:
        visit.go(at(A, channel, "seed=0"))
        visit.until(f"{BACKGROUND}.includes('/tiles-0-0-')")
        assert shown(visit) == pytest.approx(atlas["toy/block.a"].pixels(channel).mean(), abs=6)


@pytest.mark.slow
def test_until_its_sheet_is_there_it_is_shown_in_small(
    browser: object, browsed: OutputFolder, atlas: Atlas, tmp_path: Path
) -> None:
    copy = shutil.copytree(browsed.site, tmp_path / "site")
    for sheet in copy.rglob("tiles-*.jpg"):
        sheet.unlink()
    visit = Visit.begin(browser, copy / "index.html")
    visit.reset()
    for channel in CHANNELS:
        visit.go(at(A, channel, "seed=7"))
        visit.until("sheets.isThere(" + BACKGROUND + ".split('\"')[1])")
        assert "/preview-1-0.jpg" in visit.page.evaluate(BACKGROUND), channel
        image = atlas["toy/block.a"].pixels(channel, 7)
        assert shown(visit) == pytest.approx(image.mean(), abs=6)
    visit.end()


BACKGROUND = "document.querySelector('.portrait').style.backgroundImage"


def shown(visit: Visit) -> float:
    """The mean grey of a channel's image, as it is on the screen."""
    box = visit.page.locator(".portrait").bounding_box()
    return mean_of(visit.page.screenshot(clip=box))


def mean_of(png: bytes) -> float:
    return float(np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).mean())


def test_what_became_of_jobs_is_told_in_words(visit: Visit) -> None:
    visit.go(at(A, 3))
    assert visit.texts(".portrait .fate") == ["dead"]
    visit.go(at(A, 140))
    assert visit.texts(".portrait .fate") == ["missing"]
    assert visit.page.locator(".portrait.empty").count() == 1


@pytest.mark.slow
def test_every_link_leads_somewhere(visit: Visit) -> None:
    """All links of all views, as far as these are alike."""
    seen: set[str] = set()
    for address in ("#/", at(A), at("block.b", 4), at(A, 140, "sort=activation"), at(HOSTILE, 2)):
        visit.go(address)
        links = visit.page.eval_on_selector_all(
            "main a, .crumbs a", "(all) => all.map((each) => each.getAttribute('href'))"
        )
        seen.update(links[:3] + links[-8:])
    assert len(seen) > 20
    for address in sorted(seen):
        visit.go(address)
        assert visit.texts("h1") != ["Not in this atlas"], address


def test_addresses_of_nothing_say_so(visit: Visit) -> None:
    for address in ("#/none", "#/toy/none", at(A, 999), "#/toy/block.a:x", "#/%E0%A4%A", "#/a/b/c"):
        visit.go(address)
        assert visit.texts("h1") == ["Not in this atlas"], address


# --- order and filters ----------------------------------------------------------------------------


def shown_values(layer: Layer, name: str, seed: int | None) -> NDArray[Any]:
    """A statistic (C,) of the image that is shown of each channel, as atlas.h5 has it."""
    values = layer[name]
    if values.ndim == 1:
        return values
    places = layer.leads() if seed is None else np.full(len(values), layer.seeds.index(seed))
    return np.take_along_axis(values, places[:, None], axis=1)[:, 0]


def expected(values: NDArray[Any], smallest_first: bool = False) -> list[int]:
    """Channels by values, equal ones by number; those without a finite value last."""
    values, sign = values.astype(np.float64), 1 if smallest_first else -1
    return np.argsort(np.where(np.isfinite(values), sign * values, np.inf), kind="stable").tolist()


@pytest.mark.parametrize("seed", [pytest.param(None, marks=pytest.mark.slow), 7])
def test_every_statistic_sorts_as_in_the_atlas(
    visit: Visit, atlas: Atlas, seed: int | None
) -> None:
    layer = atlas["toy/block.a"]
    assert {"activation_robust", "agreement", "dataset/std", "clipped"} <= layer.statistics.keys()
    for name in layer.statistics:
        values = shown_values(layer, name, seed)
        for up in (False, True):
            query = f"sort={name}" + ("&up=1" if up else "") + (f"&seed={seed}" if seed else "")
            visit.go(at(A, query=query))
            assert visit.rows() == expected(values, up), name
    first = [
        text.split("\n")[0] for text in visit.page.locator(".wall li .label").all_inner_texts()
    ]
    assert first[:20] == list(map(str, visit.rows()[:20]))


@pytest.mark.slow
def test_every_statistic_filters_as_in_the_atlas(visit: Visit, atlas: Atlas) -> None:
    layer = atlas["toy/block.a"]
    for name in layer.statistics:
        values = shown_values(layer, name, None)
        low, high = np.quantile(values[np.isfinite(values)], [0.3, 0.8], method="nearest")
        visit.go(at(A, query="where=" + quote(f"{name}:{low!s}:{high!s}", safe="")))
        wanted = np.flatnonzero(np.isfinite(values) & (values >= low) & (values <= high))
        assert 0 < len(wanted) <= len(values)
        assert visit.rows() == wanted.tolist(), name


@pytest.mark.slow
def test_order_and_filters_are_chosen_by_hand_and_kept_in_the_address(visit: Visit) -> None:
    page = visit.page
    visit.go(at(A))
    page.select_option("#choose-sort", "agreement")
    visit.until("location.hash.includes('sort=agreement')")
    page.select_option("#choose-filter", "activation")
    page.get_by_label("activation, least").fill("100")
    page.keyboard.press("Tab")
    visit.until("decodeURIComponent(location.hash).includes('activation:100:')")
    visit.settle()
    few = visit.rows()
    assert 0 < len(few) < 128
    assert visit.texts(".count") == [f"{len(few)} of 150 channels"]
    page.click("#direction")
    visit.until("location.hash.includes('up=1')")
    visit.settle()
    assert visit.rows() == few[::-1]
    address = visit.hash
    page.reload()
    page.wait_for_selector(".wall li")
    assert (visit.hash, visit.rows()) == (address, few[::-1])
    page.get_by_label("Remove the filter by activation").click()
    visit.until("!location.hash.includes('where')")
    visit.settle()
    page.select_option("#choose-status", "dead")
    visit.until("location.hash.includes('fate=dead')")
    visit.settle()
    assert sorted(visit.rows()) == [3, 70]


def test_pages_go_from_channel_to_channel_in_the_order_of_the_grid(visit: Visit) -> None:
    visit.go(at(A, query="sort=agreement"))
    order = visit.rows()
    visit.go(at(A, order[5], "sort=agreement"))
    visit.press("ArrowRight", "ArrowRight", "ArrowLeft")
    assert visit.hash == at(A, order[6], "sort=agreement")


# --- keys and search ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_keyboard_reaches_everything(visit: Visit) -> None:
    visit.press("/")
    visit.page.keyboard.type("block.a:17")
    visit.press("Enter")
    assert visit.hash == at(A, 17)
    visit.press("Escape")
    assert visit.hash == at(A)
    assert visit.focused().split() == ["17"]
    visit.press("ArrowRight", "ArrowDown", "ArrowLeft")
    columns = visit.page.evaluate("now.wall.columns")
    assert visit.focused().split() == [str(17 + columns)]
    visit.press("End")
    assert visit.focused().split()[-1] == "149"
    visit.press("Home", "PageDown")
    assert int(visit.focused()) > columns
    visit.press("ArrowUp", "Enter")
    assert visit.page.locator(".portrait").count() == 1
    visit.press("Escape", "Escape")
    assert visit.hash == "#/"


def test_help_and_theme_have_keys(visit: Visit) -> None:
    visit.press("?")
    assert visit.page.locator("dialog[open]").count() == 1
    visit.press("Escape")
    assert visit.page.locator("dialog[open]").count() == 0
    papers = []
    for _ in range(3):
        papers.append(visit.page.evaluate("getComputedStyle(document.body).backgroundColor"))
        visit.press("t")
    assert papers[0] == papers[1] != papers[2]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("block.b", at("block.b")),
        ("B:3", at("block.b", 3)),
        ("toy/block.a:140", at(A, 140)),
        ("script", at(HOSTILE)),
        ("block.b:99", None),
        ("nowhere", None),
    ],
)
def test_search_finds_layers_and_channels(visit: Visit, text: str, address: str | None) -> None:
    visit.page.fill("#search", text)
    visit.press("Enter")
    assert visit.hash == (address or "")


def test_search_in_a_layer_finds_channels_by_number_and_name(visit: Visit) -> None:
    visit.go(at(HOSTILE))
    for text in ("4", f"{HOSTILE[-20:]} 4"):
        visit.go(at(HOSTILE))
        visit.page.fill("#search", text)
        visit.press("Enter")
        assert visit.hash == at(HOSTILE, 4)


# --- names that mean harm -------------------------------------------------------------------------


def test_hostile_names_are_inert_text(visit: Visit) -> None:
    for address in ("#/", at(HOSTILE), at(HOSTILE, 2), at(A, 1)):
        visit.go(address)
        assert visit.page.evaluate("window.hacked") is None
        assert visit.page.locator("main b, main script").count() == 0
    visit.go(at(HOSTILE, 2))
    assert HOSTILE in visit.page.evaluate("document.querySelector('h1').textContent")
    assert visit.page.get_attribute(".photograph", "title") == PHOTOGRAPH
    visit.page.fill("#search", "script")
    assert HOSTILE in visit.texts(".found li")[0]


def test_the_page_itself_forbids_requests_and_foreign_code(visit: Visit) -> None:
    refused = visit.page.evaluate(
        """async () => {
          const refused = [];
          const keep = (event) => refused.push(event.effectiveDirective);
          addEventListener("securitypolicyviolation", keep);
          new Image().src = "http://localhost:9/x.png";
          fetch("http://localhost:9/x").catch(() => {});
          const script = document.createElement("script");
          script.textContent = "window.hacked = 4";
          document.head.append(script);
          document.body.insertAdjacentHTML("beforeend", "<i onclick='window.hacked=5'>x</i>");
          document.querySelector("body > i").click();
          await new Promise((done) => setTimeout(done, 100));
          return refused.concat(window.hacked || []);
        }"""
    )
    assert sorted(refused) == ["connect-src", "img-src", "script-src-attr", "script-src-elem"]
    visit.wrong.clear()  # the console tells of it


# --- for everybody, everywhere --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_view_keeps_anybody_out(visit: Visit, theme: str) -> None:
    visit.page.emulate_media(color_scheme=theme)
    visit.page.set_viewport_size({"width": 800, "height": 500})
    for name, address in VIEWS.items():
        visit.go(address)
        assert violations(visit, theme) == [], name
    visit.press("?")
    assert violations(visit, theme) == []
    visit.press("Escape")
    visit.page.fill("#search", "block")
    assert violations(visit, theme) == []


@pytest.mark.slow
@pytest.mark.parametrize("width", [360, 1280, 3840])
def test_every_view_fits_every_window(visit: Visit, width: int, tmp_path: Path) -> None:
    visit.page.set_viewport_size({"width": width, "height": 800})
    for name, address in VIEWS.items():
        visit.go(address)
        wide = visit.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, name
        out = visit.page.evaluate(OUTSIDE, width)
        assert out == [], name


OUTSIDE = """(width) => [...document.querySelectorAll("h1, h2, p, a, button, select, input, td")]
  .filter((each) => !each.closest(".skip, .unseen, .strip, .found, .crumbs, dialog"))
  .filter((each) => each.getBoundingClientRect().right > width + 1)
  .map((each) => each.outerHTML.slice(0, 100))"""


def test_of_a_large_grid_only_what_is_near_the_window_is_there(visit: Visit) -> None:
    visit.page.set_viewport_size({"width": 500, "height": 400})
    visit.go(at(A))
    assert visit.page.locator(".wall li").count() < 80
    visit.page.evaluate("scrollTo(0, document.body.scrollHeight)")
    visit.until("document.querySelector('.wall').innerText.includes('149')")
    assert visit.page.locator(".wall li").count() < 80
