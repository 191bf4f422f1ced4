"""Both canvases paint a page alike: tiles in their boxes, texts within theirs."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from numpy.typing import NDArray

from layer_atlas.config.outputs import ImagesFigure
from layer_atlas.presentation.layout.figure import PageSpec, style
from layer_atlas.presentation.layout.grid import Cells
from layer_atlas.presentation.layout.page import Box, Lines, Page, Text, Tile, fitted_size, paint
from layer_atlas.presentation.layout.pillow import FONT, PillowCanvas

SETTINGS = ImagesFigure(dpi=72)
SIZE = (300, 200)


def noise(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(list(shape)).integers(0, 255, shape, np.uint8)


def in_pillow(page: Page) -> NDArray[np.uint8]:
    canvas = PillowCanvas(page.size)
    paint(canvas, page)
    return np.asarray(canvas.picture)


def in_figure(page: Page) -> NDArray[np.uint8]:
    with style(SETTINGS):
        canvas = PageSpec(SETTINGS).canvas(page.size[1])
        paint(canvas, page)
        agg = FigureCanvasAgg(canvas.figure)
        agg.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(agg.buffer_rgba())[..., :3]  # type: ignore[no-untyped-call]
    (left, top), (width, height) = canvas.origin, page.size
    return pixels[top : top + height, left : left + width]


def cut(picture: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    left, top, right, bottom = box
    return picture[top:bottom, left:right]


TILES = {
    "as it is": Tile((20, 30, 60, 70), noise(40, 40, 3)),
    "grey, smaller": Tile((20, 30, 60, 70), noise(100, 100, 1)),
    "framed": Tile((20, 30, 60, 70), noise(40, 40, 3), (5, 5, 30, 20)),
    "wide": Tile((20, 30, 100, 70), noise(20, 60, 3)),
}


@pytest.mark.parametrize("tile", TILES.values(), ids=TILES)
def test_both_canvases_paint_the_same_pixels(tile: Tile) -> None:
    page = Page(SIZE, (tile,), (), ())
    first, second = in_pillow(page), in_figure(page)
    assert np.array_equal(cut(first, tile.box), cut(second, tile.box))
    assert not (cut(first, tile.box) == 255).all()


def test_an_image_keeps_its_shape_in_the_middle_of_its_box() -> None:
    pixels = noise(20, 60, 3) // 2
    shown = in_pillow(Page(SIZE, (Tile((10, 10, 70, 70), pixels),), (), ()))
    assert np.array_equal(cut(shown, (10, 30, 70, 50)), pixels)
    assert (cut(shown, (10, 10, 70, 30)) == 255).all()
    assert (cut(shown, (10, 50, 70, 70)) == 255).all()


@pytest.mark.parametrize("painted", [in_pillow, in_figure])
def test_empty_boxes_are_crossed_out_or_hold_a_word(painted: object) -> None:
    boxes = (10, 10, 70, 70), (110, 10, 170, 70)
    tiles = Tile(boxes[0], None), Tile(boxes[1], None, word="failed")
    shown = painted(Page(SIZE, tiles, (), ()))  # type: ignore[operator]
    crossed, worded = (cut(shown, box).astype(int) for box in boxes)
    assert (crossed[2, 30] == (233, 233, 238)).all()
    assert (crossed[30, 30] != crossed[2, 30]).any()
    assert ((worded[..., 0] - worded[..., 1]) > 30).any()
    assert not ((crossed[..., 0] - crossed[..., 1]) > 30).any()


@pytest.mark.parametrize("painted", [in_pillow, in_figure])
@pytest.mark.parametrize("align", ["left", "center", "right"])
@pytest.mark.parametrize("words", ["layer3.0.conv1", "word " * 40])
def test_texts_stay_within_their_boxes(painted: object, align: str, words: str) -> None:
    box = 100, 80, 200, 100
    text = Text(box, words, 12, 9, align=align)  # type: ignore[arg-type]
    rule = Lines([[(0, 150), (300, 150)]])
    shown = painted(Page(SIZE, (), (text,), (rule,)))  # type: ignore[operator]
    rows, columns = np.nonzero((shown < 200).any(axis=2))
    inside = rows < 140
    assert inside.any()
    assert not inside.all()  # the rule
    assert columns[inside].min() >= 99
    assert columns[inside].max() <= 201
    assert rows[inside].min() >= 80
    assert rows[inside].max() <= 100


def test_pillow_letters_shrink_before_words_are_cut() -> None:
    room = FONT.width("layer3.0.conv1", 11)
    fitted = FONT.fitted(Text((0, 0, room, 20), "layer3.0.conv1", 18, 9))
    assert (fitted.words, fitted.size) == ("layer3.0.conv1", 11)
    fitted = FONT.fitted(Text((0, 0, room / 2, 20), "layer3.0.conv1", 18, 9))
    assert fitted.size == 9
    assert fitted.words.endswith("…")
    assert FONT.width(fitted.words, 9) <= room / 2
    fixed = FONT.fitted(Text((0, 0, room / 2, 20), "layer3.0.conv1", 18))
    assert fixed.size == 18


def test_a_common_first_word_goes_where_it_has_no_room() -> None:
    seeds = ["seed 0", "seed 12"]
    assert FONT.without_common_word(seeds, 9, 400) == seeds
    assert FONT.without_common_word(seeds, 9, 20) == ["0", "12"]
    assert FONT.without_common_word(["a 1", "b 2"], 9, 1) == ["a 1", "b 2"]
    assert FONT.without_common_word([], 9, 1) == []


def test_cells_stand_in_reading_order_apart_and_within_their_size() -> None:
    cells = Cells((7, 9), (10, 20), 3, (2, 5))
    boxes = [cells.box(i) for i in range(7)]
    width, height = cells.size(7)
    assert boxes[0] == (7, 9, 17, 29)
    assert boxes == sorted(boxes, key=lambda box: (box[1], box[0]))
    assert max(box[2] for box in boxes) == 7 + width
    assert max(box[3] for box in boxes) == 9 + height
    for (a, b, c, d), (e, f, g, h) in combinations(boxes, 2):
        assert min(c, g) + 2 <= max(a, e) or min(d, h) + 5 <= max(b, f)
    assert Cells((0, 0), (4, 4), 2).size(0) == (8, 0)


def test_boxes_that_fit_but_for_rounding_are_filled() -> None:
    assert fitted_size((50, 77), (30, 19)) == (30, 19)
    assert fitted_size((40, 40), (41, 60)) == (41, 41)
    assert fitted_size((1000, 2), (10, 10)) == (1, 10)


def test_collation_needs_neither_matplotlib_nor_scipy() -> None:
    code = (
        "import sys, layer_atlas.presentation.collate\n"
        "assert not {'matplotlib', 'scipy'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
