"""The matrix of responses: rows are images, columns channels, colours values."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from atlases import made_up
from figure_pages import pictures
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from toys import make_recipe

from layer_atlas import open_atlas
from layer_atlas.config.objectives import InterpolationObjective
from layer_atlas.config.outputs import ResponsesFigure
from layer_atlas.errors import UserError
from layer_atlas.plan.targets import TargetSpace
from layer_atlas.presentation.figures.response_matrix import (
    coloured,
    draw_responses,
    enlarged,
    frame_of,
    ink_on,
    limit_of,
    matrix_of,
    value_text,
)
from layer_atlas.presentation.figures.selection import LayerData, Selection
from layer_atlas.presentation.layout.figure import PageSpec, style


def test_rows_are_images_and_columns_the_same_channels_in_deviations(tmp_path: Path) -> None:
    fates = {3: "missing"}
    layer = open_atlas(made_up(tmp_path, {"a": 8}, status=fates, shard_size=1))["toy/a"]
    found = matrix_of(Selection(LayerData(layer), (6, 3, 0, 2)))
    made = layer["response"][[6, 0, 2], 0][:, [6, 3, 0, 2]]
    assert found[[0, 2, 3]] == pytest.approx((made - made.mean(0)) / made.std(0), abs=1e-5)
    assert np.isnan(found[1]).all()


def test_colours_tell_signs_and_what_is_unknown() -> None:
    red, white, blue, grey = coloured(np.asarray([3.0, 0.0, -9.0, np.nan]), 3.0).astype(int)
    assert red[0] > red[2] + 50
    assert blue[2] > blue[0] + 50
    assert white.min() > 240
    assert len(set(grey)) == 1
    assert grey[0] < 240


def test_but_for_a_few_no_value_is_beyond_the_colours() -> None:
    values = np.append(np.full(999, 2.0), 50.0)
    assert limit_of(values) == pytest.approx(2.0)
    assert limit_of(np.zeros(4)) == 1.0
    assert limit_of(np.full(3, np.nan)) == 1.0


def test_values_are_squares_or_averaged() -> None:
    pixels = np.asarray([[[0], [90]], [[120], [30]]], np.uint8).repeat(3, axis=2)
    large, small = enlarged(pixels, 6), enlarged(pixels, 1)
    assert (large[:3, :3] == 0).all()
    assert (large[:3, 3:] == 90).all()
    assert (small == 60).all()


@pytest.mark.parametrize("count", [1, 2, 20, 64, 500, 1200, 4000])
@pytest.mark.parametrize("width", ["column", "text", "slide"])
def test_everything_has_room_beside_the_matrix(count: int, width: str) -> None:
    paper = PageSpec(ResponsesFigure(width=width))  # type: ignore[arg-type]
    groups = [f"group of number {i // 7}" for i in range(count)]
    frame = frame_of(paper, [str(i) for i in range(count)], groups, True, True)
    assert frame.used <= paper.width
    assert frame.height <= paper.height
    assert frame.side > paper.width * 0.35
    assert frame.side % count == 0 or frame.side < 5 * count
    assert not frame.label or frame.side / count >= paper.font.line(paper.format.least)
    assert bool(frame.label) == (count <= 20)
    assert not frame.image or frame.label


def test_images_that_are_not_of_single_channels_are_refused(tmp_path: Path) -> None:
    recipe = replace(make_recipe(), objective=InterpolationObjective(images=2))
    parts = {"targets": TargetSpace((6, 6)), "channels": (8, 23)}
    atlas = open_atlas(made_up(tmp_path, {"a": 6}, recipe=recipe, **parts))
    with pytest.raises(UserError, match="objective=interpolation"):
        draw_responses(atlas, ResponsesFigure())


def numbers_of(
    tmp_path: Path, settings: ResponsesFigure
) -> tuple[np.ndarray, list[Text], np.ndarray]:
    """The matrix, every number that is written, and the box of the matrix on the page."""
    atlas = open_atlas(made_up(tmp_path, {"a": 40}, status={2: "missing"}, shard_size=1))
    with style(settings):
        drawn = draw_responses(atlas, settings)
        (page,) = drawn.pages
        page.figure.draw_without_rendering()
        largest = max(pictures(page), key=lambda box: box[2] - box[0])
        found = [t for t in page.figure.findobj(Text) if "." in t.get_text()]  # type: ignore[union-attr]
    return matrix_of(drawn.selections[0]), found, largest  # type: ignore[return-value]


@pytest.mark.parametrize(("count", "width"), [(8, "column"), (24, "text")])
def test_numbers_in_the_matrix_are_those_of_the_atlas(
    tmp_path: Path, count: int, width: str
) -> None:
    settings = ResponsesFigure(channels=f"0:{count}", width=width)  # type: ignore[arg-type]
    matrix, found, (left, _, right, top) = numbers_of(tmp_path, settings)
    cell, written = (right - left) / count, {}
    for text in found:
        a, b, c, d = text.get_window_extent().extents
        column, row = int(((a + c) / 2 - left) // cell), int((top - (b + d) / 2) // cell)
        if 0 <= column < count and 0 <= row < count:
            assert a >= left + column * cell
            assert c <= left + (column + 1) * cell
            written[row, column] = text
    known = {place for place, value in np.ndenumerate(matrix) if np.isfinite(value)}
    assert written.keys() == known
    assert len(known) == count * (count - 1)  # one image is missing
    limit = limit_of(matrix)
    for (row, column), text in written.items():
        value = matrix[row, column]
        assert float(text.get_text().replace("−", "-")) == pytest.approx(value, abs=0.0501)
        ground = coloured(matrix[row : row + 1, column], limit)[0] / 255
        assert contrast(np.asarray(to_rgb(text.get_color())), ground) > 4.5


def contrast(a: np.ndarray, b: np.ndarray) -> float:
    """Contrast of two colours by WCAG 2.2: 1 to 21."""

    def luminance(colour: np.ndarray) -> float:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, light = sorted([luminance(a), luminance(b)])
    return (light + 0.05) / (dark + 0.05)


def test_numbers_without_room_are_left_out(tmp_path: Path) -> None:
    _, found, (left, _, right, _) = numbers_of(tmp_path, ResponsesFigure(width="column"))
    assert not [t for t in found if left <= t.get_window_extent().x0 <= right]


def test_numbers_may_be_switched_off(tmp_path: Path) -> None:
    settings = ResponsesFigure(channels="0:8", numbers=False)
    _, found, (left, _, right, _) = numbers_of(tmp_path, settings)
    assert not [t for t in found if left <= t.get_window_extent().x0 <= right]


def test_letters_are_dark_on_light_colours_and_light_on_dark_ones() -> None:
    assert ink_on(np.asarray([255, 240, 230], np.uint8)) == "#000000"
    assert ink_on(np.asarray([103, 0, 31], np.uint8)) == "#ffffff"
    assert [value_text(v) for v in (-0.04, 0.05, -3.14159)] == ["0.0", "0.1", "−3.1"]
