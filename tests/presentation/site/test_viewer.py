"""Enlarged images are those of the atlas; tiles at a glance and meanings are for everybody."""

import io
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import h5py
import numpy as np
import pytest
from atlases import add_photographs, made_up
from pages import Visit, at, check_access
from PIL import Image
from screens import Box, Gallery, Pixels, boxes, crop, distinct, screenshot
from toys import make_recipe

from layer_atlas.presentation.site.make import make_site
from layer_atlas.store.folder import OutputFolder

LAYER, COUNT, SEEDS, SIDE = "large", 9, (0, 7), 96
SHOWN = 3
"""Photographs of a channel."""
BOX = (16, 0, 64, 48)
"""The receptive field of the largest response to every photograph but the first."""
MAP = np.uint8([[255, 0], [0, 102]])
"""Activations of 2 in a quarter, -0.5 in two, and 0.5 in one."""
BOUNDS = (-0.5, 2.0)
WIDTHS = {360: 700, 1280: 800, 3840: 2160}
THEMES = ("light", "dark")


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    root = tmp_path_factory.mktemp("enlarged") / "atlas"
    recipe = make_recipe(image_size=(SIDE, SIDE))
    atlas = made_up(root, {LAYER: COUNT}, SEEDS, {8: "missing"}, recipe=recipe, shard_size=1)
    add_photographs(atlas, SHOWN)
    with h5py.File(atlas, "a") as file:
        group = file["toy"][LAYER]
        group["image"][...] = images()
        group["clipped"][...] = 0.25
        _photograph(group["dataset"])
    folder = OutputFolder(root)
    make_site(folder)
    return folder


def images() -> Pixels:
    """Images (C, S, H, W, 3) of which no two are alike."""
    found = distinct(COUNT * len(SEEDS), (SIDE, SIDE), 1)
    return found.reshape(COUNT, len(SEEDS), SIDE, SIDE, 3)


def pictures() -> Pixels:
    """Photographs (C, n, H, W, 3), the other half of the random fields."""
    return distinct(COUNT * SHOWN, (SIDE, SIDE), 2).reshape(COUNT, SHOWN, SIDE, SIDE, 3)


def _photograph(dataset: h5py.Group) -> None:
    every = pictures()
    for place in np.ndindex(COUNT, SHOWN):
        buffer = io.BytesIO()
        Image.fromarray(every[place]).save(buffer, "JPEG", quality=95, subsampling=0)
        dataset["top_jpeg"][place] = np.frombuffer(buffer.getvalue(), np.uint8)
    paths = [[f"a/photo {k}-{n}.jpg" for n in range(SHOWN)] for k in range(COUNT)]
    dataset.create_dataset("top_path", data=paths, dtype=h5py.string_dtype())
    dataset["top_score"] = np.tile(np.float32([3, 2, 1]), (COUNT, 1))
    dataset["top_view_box"] = np.tile(np.int32(BOX), (COUNT, SHOWN, 1))
    dataset["top_view_box"][:, 0] = (0, 0, SIDE, SIDE)
    dataset["top_activation"] = np.tile(MAP, (COUNT, SHOWN, 1, 1))
    dataset["top_activation_bounds"] = np.tile(np.float32(BOUNDS), (COUNT, SHOWN, 1))


QUICK = {(360, "light"), (1280, "dark"), (3840, "light")}
EVERYWHERE = [
    pytest.param(
        (width, theme),
        id=f"{width}-{theme}",
        marks=() if (width, theme) in QUICK else pytest.mark.slow,
    )
    for width in WIDTHS
    for theme in THEMES
]


@pytest.fixture(params=EVERYWHERE)
def anywhere(request: pytest.FixtureRequest, visit: Visit) -> Visit:
    width, theme = request.param
    visit.page.set_viewport_size({"width": width, "height": WIDTHS[width]})
    visit.page.emulate_media(color_scheme=theme)
    return visit


def open_(visit: Visit, channel: int, what: str) -> None:
    """Follow a link to an enlarged image, and wait until it is there."""
    visit.go(at(LAYER, channel, f"open={what}"))
    wait_for(visit, what)


def wait_for(visit: Visit, what: str) -> None:
    named = what if "." in what else f"{what}."
    visit.until(f"document.querySelector('.viewer').dataset.shown === '{named}'")


def seen(visit: Visit, selector: str = ".viewer .ground img") -> Pixels:
    """What the window shows of an element in the viewer's frame."""
    (frame,), (box,) = boxes(visit, ".viewer .plane"), boxes(visit, selector)
    shot = screenshot(visit)
    return crop(shot, _common(frame, box))


def _common(one: Box, other: Box) -> Box:
    (a, b, c, d), (e, f, g, h) = one, other
    return max(a, e), max(b, f), min(c, g), min(d, h)


def colours(picture: Pixels, across: int = 6) -> Any:
    """The colours in the middles of fields (n, n, 3)."""
    height, width = picture.shape[:2]
    middle = (np.arange(across) + 0.5) / across
    return picture[np.ix_((middle * height).astype(int), (middle * width).astype(int))].astype(int)


# --- the viewer -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_enlarged_image_has_the_colours_of_the_atlas(anywhere: Visit) -> None:
    open_(anywhere, 4, "seed7")
    shown = seen(anywhere)
    room = boxes(anywhere, ".viewer .plane")[0]
    assert min(shown.shape[:2]) >= min(room[2] - room[0], room[3] - room[1]) - 4
    assert np.abs(colours(shown) - colours(images()[4, 1])).max() <= 1
    assert boxes(anywhere, ".viewer .plane")[0][3] <= anywhere.page.viewport_size["height"]
    wide = anywhere.page.evaluate("document.querySelector('.viewer').scrollWidth")
    assert wide <= anywhere.page.viewport_size["width"]


@pytest.mark.slow
def test_photographs_are_seen_whole_cropped_and_under_their_activation(anywhere: Visit) -> None:
    photograph = pictures()[2, 1]
    open_(anywhere, 2, "top2")
    whole = seen(anywhere)
    assert np.abs(colours(whole) - colours(photograph)).max() <= 12  # a JPEG
    frame, (box,) = boxes(anywhere, ".viewer .ground img")[0], boxes(anywhere, ".viewer .box")
    scale = (frame[2] - frame[0]) / SIDE
    inside = [(edge - frame[n % 2]) / scale for n, edge in enumerate(box)]
    assert inside == pytest.approx(BOX, abs=0.6)
    open_(anywhere, 2, "top2.crop")
    left, top, right, bottom = BOX
    cropped = photograph[top:bottom, left:right]
    room = boxes(anywhere, ".viewer .plane")[0]
    side, middle = min(room[2] - room[0], room[3] - room[1]), (room[0] + room[2]) / 2
    centre = (room[1] + room[3]) / 2
    reach = side / 2
    square = (middle - reach, centre - reach, middle + reach, centre + reach)
    assert np.abs(colours(crop(screenshot(anywhere), square), 3) - colours(cropped, 3)).max() <= 12
    open_(anywhere, 2, "top2.activation")
    fields = colours(seen(anywhere), 6) / np.maximum(colours(whole, 6), 1)
    bright = [np.median(fields[y, x]) for y, x in ((0, 0), (0, 5), (5, 0), (5, 5))]
    assert bright == pytest.approx([1, 0.18, 0.18, 1 - 0.82 * 0.75], abs=0.05)
    assert anywhere.texts(".viewer > .note") == [
        "Activation of the channel: from 0 (dark) to 2 (clear), on a map of 2 × 2."
    ]


@pytest.mark.slow
def test_a_receptive_field_that_is_the_whole_image_is_said_to_be(visit: Visit) -> None:
    open_(visit, 2, "top1.crop")
    assert visit.texts(".viewer > .note") == [
        "The receptive field of its largest response is the whole image."
    ]
    assert np.abs(colours(seen(visit)) - colours(pictures()[2, 0])).max() <= 12


def test_what_is_saved_is_the_image_of_the_atlas_under_its_name(
    visit: Visit, browsed: OutputFolder
) -> None:
    for what, name in (("seed7", "toy-large-3-seed7.png"), ("top2", "photo_3-1")):
        open_(visit, 3, what)
        (source, alt), href = (
            visit.page.eval_on_selector(".viewer img", "(each) => [each.src, each.alt]"),
            visit.page.get_attribute("#save", "href"),
        )
        assert source.endswith(href)
        assert name in source
        assert alt
        pixels = np.asarray(Image.open(Path(unquote(urlparse(source).path))))
        if what == "seed7":
            assert np.array_equal(pixels, images()[3, 1])
        with h5py.File(browsed.atlas) as file:
            kept = file["toy"][LAYER]["dataset/top_jpeg"][3, 1].tobytes()
        if what == "top2":
            assert Path(unquote(urlparse(source).path)).read_bytes() == kept


def test_the_viewer_opens_moves_and_closes_by_keys_and_keeps_its_address(visit: Visit) -> None:
    visit.go(at(LAYER, 5))
    visit.page.focus(".channel .images a")
    visit.press("Enter")
    wait_for(visit, "seed7")  # the seed that leads
    assert visit.hash == at(LAYER, 5, "open=seed7")
    visit.press("ArrowRight")
    wait_for(visit, "top1")
    visit.press("PageDown")
    wait_for(visit, "top2")
    visit.page.get_by_role("button", name="crop").click()
    wait_for(visit, "top2.crop")
    assert visit.hash == at(LAYER, 5, "open=top2.crop")
    visit.press("ArrowRight")
    wait_for(visit, "top3.crop")
    assert visit.texts(".viewer .bar > .quiet") == ["5 of 5"]
    visit.press("ArrowRight", "Escape")
    assert visit.page.locator("dialog[open]").count() == 0
    assert visit.hash == at(LAYER, 5)
    focused = "document.activeElement.querySelector('img').alt"
    assert visit.page.evaluate(focused) == "a/photo 5-2.jpg"
    visit.press("ArrowRight")
    assert visit.hash == at(LAYER, 6)


def test_images_come_closer_and_move_by_wheel_keys_buttons_fingers_and_mouse(visit: Visit) -> None:
    open_(visit, 1, "seed0")
    page, image = visit.page, ".viewer .ground img"

    def width() -> float:
        left, _, right, _ = boxes(visit, image)[0]
        return right - left

    fitting = width()
    page.mouse.move(640, 400)
    page.mouse.wheel(0, -700)
    visit.until(f"document.querySelector('{image}').offsetWidth > {fitting * 3}")
    before = boxes(visit, image)[0][0]
    page.mouse.down()
    page.mouse.move(600, 400, steps=4)
    page.mouse.up()
    assert boxes(visit, image)[0][0] == pytest.approx(before - 40, abs=2)
    visit.press("ArrowRight")
    assert boxes(visit, image)[0][0] < before - 100
    visit.press("0")
    assert width() == pytest.approx(fitting, abs=1)
    visit.press("+")
    assert width() == pytest.approx(1.6 * fitting, abs=2)
    page.click("#farther")
    assert width() == pytest.approx(fitting, abs=1)
    touch = """([id, type, x, y]) => document.querySelector(".viewer .plane").dispatchEvent(
      new PointerEvent(type, { pointerId: id, clientX: x, clientY: y, bubbles: true }))"""
    page.evaluate("Element.prototype.setPointerCapture = () => {}")
    for id_, kind, x in ((5, "down", 600), (6, "down", 680), (5, "move", 560), (6, "move", 720)):
        page.evaluate(touch, [id_, f"pointer{kind}", x, 400])
    assert width() == pytest.approx(2 * fitting, abs=3)


@pytest.mark.slow
@pytest.mark.parametrize("theme", THEMES)
def test_viewer_card_and_meaning_keep_nobody_out(visit: Visit, theme: str) -> None:
    visit.page.emulate_media(color_scheme=theme)
    for what in ("seed0", "top2.activation"):
        open_(visit, 1, what)
        check_access(visit, theme)
    visit.press("Escape")
    visit.page.click(".what >> nth=0")
    assert visit.page.locator(".meaning:popover-open").count() == 1
    check_access(visit, theme)
    visit.go(at(LAYER))
    visit.page.hover(".wall li:nth-child(2) .tile")
    visit.page.wait_for_selector(".glance:not([hidden]) img")
    check_access(visit, theme)


# --- tiles at a glance ----------------------------------------------------------------------------


def card(visit: Visit, channel: int) -> Box:
    """The card of a tile: in the window, beside the tile, with its numbers and photograph."""
    visit.page.wait_for_selector(".glance:not([hidden]) img")
    (box,) = boxes(visit, ".glance")
    (tile,) = boxes(visit, f".wall .tile[data-row='{channel}']")
    size = visit.page.viewport_size
    assert 0 <= box[0] < box[2] <= size["width"]
    assert 0 <= box[1] < box[3] <= size["height"]
    left, top, right, bottom = _common(box, tile)
    assert left >= right or top >= bottom
    assert visit.texts(".glance strong") == [str(channel)]
    assert {"activation", "agreement"} <= set(visit.texts(".glance dt"))
    assert "clipped" not in visit.texts(".glance dt")
    everything = pictures().reshape(-1, SIDE, SIDE, 3)
    gallery = Gallery({divmod(n, SHOWN): picture for n, picture in enumerate(everything)})
    (photograph,) = boxes(visit, ".glance img")
    assert gallery.seen(crop(screenshot(visit), photograph)) == (channel, 0)
    return box


@pytest.mark.slow
def test_a_tile_that_is_pointed_at_shows_its_numbers_and_strongest_photograph(
    anywhere: Visit,
) -> None:
    anywhere.go(at(LAYER))
    before = boxes(anywhere, ".wall .tile")
    for channel in (0, 5):
        anywhere.page.hover(f".wall .tile[data-row='{channel}']")
        card(anywhere, channel)
    assert boxes(anywhere, ".wall .tile") == before
    said = dict(zip(anywhere.texts(".glance dt"), anywhere.texts(".glance dd"), strict=True))
    data = anywhere.loaded("000-large/layer")
    (values,) = [each["values"] for each in data["statistics"] if each["name"] == "activation"]
    assert float(said["activation"].replace(",", "")) == pytest.approx(
        values[5 * len(SEEDS) + 1], rel=0.01
    )
    anywhere.page.mouse.move(1, 1)
    assert anywhere.page.locator(".glance:not([hidden])").count() == 0


@pytest.mark.slow
def test_the_card_comes_with_the_keyboard_and_goes_with_escape(visit: Visit) -> None:
    visit.go(at(LAYER))
    visit.press("ArrowRight", "ArrowRight")
    card(visit, 1)
    described = visit.page.evaluate("document.activeElement.getAttribute('aria-describedby')")
    assert described == "glance"
    visit.press("Escape")
    assert visit.page.locator(".glance:not([hidden])").count() == 0
    assert visit.hash == at(LAYER)


@pytest.mark.slow
def test_a_long_touch_shows_the_card_and_opens_nothing(browser: Any, browsed: OutputFolder) -> None:
    context = browser.new_context(viewport={"width": 390, "height": 700}, has_touch=True)
    page = context.new_page()
    visit = Visit(page, (browsed.site / "index.html").as_uri(), browsed.site.as_uri())
    page.goto(visit.home + at(LAYER))
    page.wait_for_selector(".wall .tile")
    client = context.new_cdp_session(page)
    left, top, right, bottom = boxes(visit, ".wall .tile[data-row='1']")[0]
    point = {"x": (left + right) / 2, "y": (top + bottom) / 2}
    client.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [point]})
    card(visit, 1)
    client.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_timeout(100)
    assert visit.hash == at(LAYER)
    page.touchscreen.tap(point["x"], point["y"])
    page.wait_for_selector(".portrait")
    context.close()


# --- statistics -----------------------------------------------------------------------------------


def test_statistics_that_are_the_same_everywhere_are_named_in_a_line(visit: Visit) -> None:
    visit.go(at(LAYER, 2))
    names = visit.texts("tbody th")
    assert "activation" in names
    assert not {"clipped", "start"} & set(names)
    (line,) = visit.texts(".constant")
    assert line.startswith("The same for every channel: ")
    assert "clipped 0.25" in line
    visit.page.get_by_role("button", name="clipped 0.25").click()
    assert "clipped: " in visit.page.locator(".meaning:popover-open").inner_text()


def test_meanings_are_read_by_keyboard_and_touch(visit: Visit) -> None:
    visit.page.set_viewport_size({"width": 360, "height": 700})
    visit.go(at(LAYER, 2))
    visit.page.get_by_role("button", name="What activation is").focus()
    visit.press("Enter")
    opened = visit.page.locator(".meaning:popover-open")
    assert opened.inner_text().startswith("activation: objective of the stored 8-bit image")
    (left, top, right, bottom), size = boxes(visit, ".meaning:popover-open")[0], (360, 700)
    assert 0 <= left < right <= size[0]
    assert 0 <= top < bottom <= size[1]
    visit.press("Escape")
    assert opened.count() == 0
    assert visit.hash == at(LAYER, 2)
