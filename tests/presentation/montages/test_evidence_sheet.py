"""Sheets of evidence: everything has its own place, at any count, and is where the plan says."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFont

from layer_atlas.presentation.layout.page import LARGEST_SIDE, Box, Page, Point, Tile
from layer_atlas.presentation.layout.pillow import FONT
from layer_atlas.presentation.montages.evidence_sheet import (
    EvidenceRow,
    draw_sheet,
    pages,
    plan_sheet,
    rows_per_page,
)

NOTE = ["A note."]
FACTS = {"activation": "12.3", "agreement": "0.61", "rank": "1 of 512", "percentile": "100"}
SIDE = 48


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """Pixels that are found nowhere else."""
    return np.random.default_rng([seed, *shape]).integers(0, 255, (*shape, 3), np.uint8)


def whole(k: int, side: int = SIDE) -> NDArray[np.int64]:
    return np.tile([0, 0, side, side], (k, 1))


def make_row(
    channel: int = 7, seeds: int = 1, k: int = 4, s: int | None = 4, b: int = 4, side: int = SIDE
) -> EvidenceRow:
    images = tuple(noise(side, side, seed=1000 * channel + seed) for seed in range(seeds))
    kinds = [noise(n or 0, side, side, seed=channel + n_th) for n_th, n in enumerate((k, s, b))]
    overlays = None if s is None else kinds[1]
    fates = ("",) * seeds
    return EvidenceRow(channel, images, fates, kinds[0], overlays, kinds[2], whole(k, side), FACTS)


def planned(rows: list[EvidenceRow], tile: int = SIDE, title: str = "net  ·  conv") -> Page:
    return plan_sheet(title, "as it was made", rows, tile, NOTE)


def drawn(rows: list[EvidenceRow], tile: int = SIDE) -> NDArray[np.uint8]:
    return np.asarray(draw_sheet("net  ·  conv", "as it was made", rows, tile, NOTE).picture)


def cut(picture: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    left, top, right, bottom = box
    return picture[top:bottom, left:right]


def overlap(one: Box, other: Box) -> bool:
    across = min(one[2], other[2]) > max(one[0], other[0])
    return across and min(one[3], other[3]) > max(one[1], other[1])


def rules(sheet: Page) -> list[Sequence[Point]]:
    return [path for lines in sheet.lines for path in lines.paths]


def assert_apart(sheet: Page) -> None:
    boxes = [placed.box for placed in (*sheet.tiles, *sheet.texts)]
    assert not [pair for pair in combinations(boxes, 2) if overlap(*pair)]
    width, height = sheet.size
    for left, top, right, bottom in boxes:
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        for (x0, y), (x1, _) in rules(sheet):  # no line of the table runs through anything
            assert not (top <= y < bottom and x0 < right and left < x1)


COUNTS = [
    *[(1, k, s, b) for k, s, b in [(0, None, 0), (1, None, 1), (4, 4, 4), (4, None, 4), (9, 3, 9)]],
    *[(2, 9, 9, 0), (3, 0, None, 9), (3, 9, 9, 9), (3, 5, 0, 1), (2, 2, 1, 3)],
]


@pytest.mark.parametrize("tile", [16, 48, 128, 224])
@pytest.mark.parametrize(("seeds", "k", "s", "b"), COUNTS)
def test_nothing_overlaps(seeds: int, k: int, s: int | None, b: int, tile: int) -> None:
    rows = [make_row(c, seeds, k, s, b, side=tile) for c in (0, 2047)]
    fates = replace(rows[0], fates=("diverged",) * seeds, facts={**FACTS, "selectivity": "0.93"})
    assert_apart(planned(rows, tile))
    assert_apart(planned([fates, rows[1]], tile))


@pytest.mark.parametrize("n", [1, 2, 17, 64])
def test_any_number_of_channels(n: int) -> None:
    sheet = planned([make_row(c) for c in range(n)])
    assert_apart(sheet)
    assert len(sheet.tiles) == 13 * n


def test_rows_of_a_sheet_may_differ() -> None:
    rows = [make_row(0, 3, 9, 4, 1), make_row(1, 1, 0, None, 0), make_row(2, 2, 2, None, 9)]
    sheet = planned([*rows, replace(make_row(3), facts={})])
    assert_apart(sheet)
    assert len(sheet.tiles) == 17 + 1 + 13 + 13


@pytest.mark.parametrize(("seeds", "k", "s", "b"), COUNTS)
def test_every_picture_is_shown_as_it_is(seeds: int, k: int, s: int | None, b: int) -> None:
    rows = [make_row(c, seeds, k, s, b) for c in range(3)]
    sheet, picture = planned(rows), drawn(rows)
    assert (picture.shape[1], picture.shape[0]) == sheet.size
    shown = [cut(picture, tile.box).tobytes() for tile in sheet.tiles]
    given = [
        pixels.tobytes()
        for row in rows
        for pixels in (*row.images, *row.strongest, *(row.overlays if s else ()), *row.weakest)
        if pixels is not None
    ]
    assert shown == given


def test_saliency_is_below_its_photograph_and_kinds_stand_from_left_to_right() -> None:
    row = make_row(seeds=2, k=5, s=3, b=4)
    tiles = iter(planned([row]).tiles)
    images, strongest, overlays, weakest = (
        [next(tiles).box for _ in range(n)] for n in (2, 5, 3, 4)
    )
    for above, below in zip(strongest, overlays, strict=False):
        assert (above[0], above[2]) == (below[0], below[2])
        assert above[3] < below[1]
    for left, right in [*pairwise(strongest), (images[0], images[1])]:
        assert left[2] < right[0]
        assert left[1] == right[1]
    assert images[-1][2] < strongest[0][0]
    assert strongest[-1][2] < min(box[0] for box in weakest)


def test_small_pictures_are_not_enlarged_and_large_ones_shrink() -> None:
    assert {t.box[2] - t.box[0] for t in planned([make_row(side=32)], 224).tiles} == {32}
    row = make_row(side=96)
    assert {t.box[2] - t.box[0] for t in planned([row], 48).tiles} == {48}
    picture = drawn([row], 48)
    expected = Image.fromarray(row.strongest[0]).resize((48, 48), Image.Resampling.LANCZOS)
    assert np.array_equal(cut(picture, planned([row], 48).tiles[1].box), np.asarray(expected))


def has_red_ink(pixels: NDArray[np.uint8]) -> bool:
    red, green, _ = np.moveaxis(pixels.astype(int), -1, 0)
    return bool((red - green > 60).any())


def test_a_missing_image_shows_its_word() -> None:
    row = make_row(seeds=3)
    words = ("failed", "", "missing")
    rows = [replace(row, images=(None, row.images[1], None), fates=words)]
    sheet, picture = planned(rows), drawn(rows)
    first, second, third = (cut(picture, tile.box) for tile in sheet.tiles[:3])
    assert has_red_ink(first)
    assert has_red_ink(third)
    assert not np.array_equal(first, third)
    assert np.array_equal(second, row.images[1])
    assert [tile.word for tile in sheet.tiles[:3]] == list(words)


def test_the_fate_of_an_image_that_is_there_is_told_below_it() -> None:
    row = make_row(seeds=2)
    rows = [replace(row, fates=("", "dead"))]
    sheet, picture = planned(rows), drawn(rows)
    (word,) = [text for text in sheet.texts if text.words == "dead"]
    under = sheet.tiles[1].box
    assert (word.box[0], word.box[2]) == (under[0], under[2])
    assert 0 <= word.box[1] - under[3] < 10
    assert has_red_ink(cut(picture, word.box))
    assert np.array_equal(cut(picture, under), row.images[1])


@pytest.mark.parametrize("tile", [48, 96, 224])
def test_texts_fit_at_a_size_that_can_be_read(tile: int) -> None:
    rows = [make_row(2047, k=1, s=1, b=1, side=tile)]
    for text in planned(rows, tile).texts:
        fitted = FONT.fitted(text)
        assert (fitted.words, fitted.size) == (text.words, text.size)
        assert text.size >= 12
        letters = ImageFont.load_default(text.size)
        assert sum(letters.getmetrics()) <= text.box[3] - text.box[1] + 2
    said = [text.words for text in planned(rows, tile).texts]
    for words in ("optimized", "strongest photographs", "weakest photographs", "channel 2047"):
        assert words in said
    assert set(FACTS) | set(FACTS.values()) <= set(said)


LONG = {"name " * 30: "value " * 30, "rank": "1"}


@pytest.mark.parametrize("facts", [FACTS, LONG], ids=["short", "long"])
@pytest.mark.parametrize("tile", [48, 128, 224])
def test_all_ink_is_within_its_box(facts: dict[str, str], tile: int) -> None:
    rows = [replace(make_row(seeds=2, side=tile), fates=("dead", "diverged"), facts=facts)]
    title = "block.jg" * 3 if facts is FACTS else "block." * 200
    sheet = planned(rows, tile, title)
    assert_apart(sheet)
    picture = draw_sheet(title, "as it was made", rows, tile, NOTE).picture
    ink = (np.asarray(picture) < 200).any(axis=2)  # letters may bleed by a faint pixel
    for left, top, right, bottom in (placed.box for placed in (*sheet.tiles, *sheet.texts)):
        ink[top:bottom, left:right] = False
    for (left, y), (right, _) in rules(sheet):
        ink[y, left : right + 1] = False
    assert not ink.any()


BOXES = [(8, 4, 40, 44), (0, 0, 20, 48), (47, 47, 48, 48), (-9, 5, 60, 20), (0, 0, 1, 1)]


@pytest.mark.parametrize("box", BOXES, ids=str)
def test_frame_stands_where_the_receptive_field_is(box: Box) -> None:
    row = make_row(k=1, s=1, b=1)
    rows = [replace(row, boxes=np.asarray([box]))]
    sheet, picture = planned(rows), drawn(rows)
    framed, plain = cut(picture, sheet.tiles[1].box), row.strongest[0]
    changed = np.argwhere((framed != plain).any(axis=2))
    assert len(changed)
    left, top, right, bottom = np.clip(box, 0, SIDE)
    (y0, x0), (y1, x1) = changed.min(axis=0), changed.max(axis=0) + 1
    assert np.abs(np.subtract((x0, y0, x1, y1), (left, top, right, bottom))).max() <= 2
    inside = np.s_[top + 4 : bottom - 4, left + 4 : right - 4]
    assert np.array_equal(framed[inside], plain[inside])
    others = [i for i, tile in enumerate(sheet.tiles) if i != 1]
    for i in others:
        assert np.array_equal(cut(picture, sheet.tiles[i].box), sheet.tiles[i].pixels)


def test_frame_follows_the_size_of_the_tile() -> None:
    row = make_row(k=1, s=None, b=0, side=96)
    rows = [replace(row, boxes=np.asarray([(0, 0, 48, 96)]))]
    half = drawn(rows, 48), drawn([row], 48)
    box = planned(rows, 48).tiles[1].box
    changed = np.argwhere((cut(half[0], box) != cut(half[1], box)).any(axis=2))
    assert 23 <= changed.max(axis=0)[1] <= 25


def test_legend_tells_what_is_shown_and_no_more() -> None:
    def legend(row: EvidenceRow) -> str:
        return " ".join(t.words for t in planned([row]).texts[-3:])

    framed = replace(make_row(), boxes=whole(4, SIDE - 9))
    assert "Frames:" in legend(framed)
    assert "Frames:" not in legend(make_row())
    assert "Saliency:" in legend(make_row())
    assert "Saliency:" not in legend(make_row(s=None))
    assert legend(make_row(k=0, s=None, b=0)).endswith("A note.")


@pytest.mark.parametrize(("n", "per_page"), [(1, 40), (40, 40), (41, 40), (512, 40), (7, 1)])
def test_pages_hold_every_channel_once_in_order(n: int, per_page: int) -> None:
    cut_up = pages(n, per_page)
    assert [place for page in cut_up for place in page] == list(range(n))
    assert len(cut_up) == -(-n // per_page)
    lengths = [len(page) for page in cut_up]
    assert max(lengths) <= per_page
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("tile", [16, 48, 128, 224, 2048])
def test_a_full_page_can_be_opened_and_is_well_used(tile: int) -> None:
    n = rows_per_page(tile, len(FACTS))
    rows = [replace(make_row(side=8), fates=("diverged",))] * n
    sides = [replace(row, images=(noise(tile, tile),)) for row in rows]
    _, height = planned(sides, tile).size
    assert height <= LARGEST_SIDE
    # The width of a sheet of the largest tiles makes them smaller than `rows_per_page` can know.
    assert tile == 2048 or height > LARGEST_SIDE * 0.9


def test_a_wide_sheet_can_be_opened() -> None:
    rows = [
        replace(make_row(seeds=3, k=9, s=9, b=9, side=8), images=(noise(2048, 2048), None, None))
    ]
    assert planned(rows, 2048).size[0] <= LARGEST_SIDE


MISTAKES = {
    "images": {"images": (None,) * 4, "fates": ("",) * 4},
    "fate for each": {"fates": ()},
    "dataset images": {"weakest": np.zeros((10, 8, 8, 3), np.uint8)},
    "overlays": {"overlays": np.zeros((5, SIDE, SIDE, 3), np.uint8)},
    "boxes": {"boxes": whole(3)},
}


@pytest.mark.parametrize("told", MISTAKES)
def test_records_that_make_no_sense_are_refused(told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(make_row(), **MISTAKES[told])


def test_a_sheet_without_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        planned([])


def test_empty_squares_are_told_from_white_photographs() -> None:
    row = replace(make_row(), images=(None,))
    tile: Tile = planned([row]).tiles[0]
    assert tile.pixels is None
    assert not (cut(drawn([row]), tile.box) == 255).all(axis=2).any()


def test_a_label_stands_beside_the_number_and_is_cut_where_it_is_long() -> None:
    rows = [replace(make_row(7), label="curves"), replace(make_row(8), label="w" * 200)]
    words = [text.words for text in planned(rows).texts if text.words.startswith("channel")]
    assert words[0] == "channel 7 curves"
    assert words[1].startswith("channel 8 www")
    assert len(words[1]) < 60
