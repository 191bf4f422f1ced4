"""The matrix of responses: rows are images, columns channels, colours values."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from atlases import made_up
from toys import make_recipe

from layer_atlas import open_atlas
from layer_atlas.config.figures import ResponsesFigure
from layer_atlas.config.objectives import InterpolationObjective
from layer_atlas.errors import UserError
from layer_atlas.plan.targets import TargetSpace
from layer_atlas.presentation.figures.response_matrix import (
    coloured,
    draw_responses,
    enlarged,
    frame_of,
    limit_of,
    matrix_of,
)
from layer_atlas.presentation.figures.selection import LayerData, Selection
from layer_atlas.presentation.layout.figure import PageSpec


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
