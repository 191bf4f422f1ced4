"""Figures as they are drawn: no words overlap or are lost, pictures have their resolution."""

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from atlases import add_photographs, made_up
from figure_pages import check, pictures, texts
from matplotlib.image import AxesImage
from toys import make_recipe

from layer_atlas import open_atlas
from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.outputs import (
    FigureSettings,
    Group,
    HistogramsFigure,
    ImagesFigure,
    ProfileFigure,
    ResponsesFigure,
    TracesFigure,
)
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.make import KINDS, RenderedPage
from layer_atlas.presentation.figures.selection import RenderedFigure
from layer_atlas.presentation.layout.figure import FigureCanvas, style

LONG = "features.denseblock4.denselayer16.conv2"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """2,048 channels."""
    recipe = make_recipe(image_size=8)
    return open_atlas(made_up(tmp_path_factory.mktemp("large"), {"conv": 2048}, recipe=recipe))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """Two layers, one of them with a long name, three seeds, photographs, a dead channel."""
    file = made_up(tmp_path_factory.mktemp("small"), {"conv": 20, LONG: 9}, (0, 1, 2), {2: "dead"})
    add_photographs(file)
    return open_atlas(file)


def sheets(atlas: Atlas, settings: FigureSettings) -> Iterator[FigureCanvas]:
    with style(settings):
        drawing: RenderedFigure = KINDS[settings.name](atlas, settings)
        yield from drawing.pages


COUNTS = [
    *product([1, 3, 16, 100], ["column", "text", "slide"]),
    (512, "text"),
    pytest.param(2048, "text", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("count", "width"), COUNTS)
def test_no_words_overlap_at_any_count(large: Atlas, count: int, width: Any) -> None:
    settings = ImagesFigure(width=width, channels=f"0:{count}")
    labels = [word for sheet in sheets(large, settings) for word in check(sheet)]
    assert labels == [str(channel) for channel in range(count)]


NAMES = (
    "high-frequency textures",
    "curves",
    "oriented gratings of a colour and its opponent",
    LONG,
)


@pytest.mark.parametrize(
    ("count", "size", "width"),
    [
        *product([1, 3, 40], [1, 2, 17], ["column", "text"]),
        *[(100, 1, "slide"), (512, 90, "column")],
        *(pytest.param(*each, "text", marks=pytest.mark.slow) for each in ((300, 2), (2048, 1))),
    ],
)
def test_no_names_of_groups_overlap_at_any_count(
    large: Atlas, count: int, size: int, width: Any
) -> None:
    starts = range(0, count, size)
    groups = tuple(
        Group(name=f"{NAMES[i % 4]} {i}", channels=f"{start}:{min(start + size, count)}")
        for i, start in enumerate(starts)
    )
    settings = ImagesFigure(width=width, groups=groups)
    words = [word for sheet in sheets(large, settings) for word in check(sheet)]
    assert {str(channel) for channel in range(count)} <= set(words)
    # However little room there is, every name begins to be told.
    assert sum(word[:2] in {name[:2] for name in NAMES} for word in words) >= len(groups)


def test_names_of_groups_are_inert(small: Atlas) -> None:
    names = ("$\\frac{1}{2}$", "50 % of #1_x & \\textbf{y}", "Größe ± ½ → β", "<b>")
    groups = tuple(Group(name=name, channels=[i]) for i, name in enumerate(names))
    (sheet,) = sheets(small, ImagesFigure(layers=("conv",), groups=groups, dataset_images=0))
    assert set(names) <= set(check(sheet))


GROUPS = (
    Group(name="curves", channels=[3, 7]),
    Group(name="high-frequency textures", channels=[5]),
    Group(name="colours", channels=[0, 1, 2, 8]),
)

SHOWN = [
    ImagesFigure(groups=GROUPS),
    ImagesFigure(groups=GROUPS, columns="seeds", width="column"),
    ImagesFigure(groups=GROUPS, columns="seeds", width=2.0, across=1, dataset_images=0),
    ImagesFigure(groups=GROUPS, rows="layers", columns="channels", order="similarity"),
    ImagesFigure(groups=GROUPS, rows="layers", columns="channels", width=2.0, caption="auto"),
    ImagesFigure(groups=GROUPS, rows="channels", columns="layers", width="slide"),
    ResponsesFigure(groups=GROUPS),
    ResponsesFigure(groups=GROUPS, width="column", caption="auto"),
    ImagesFigure(),
    ImagesFigure(width="column", columns="seeds"),
    ImagesFigure(rows="layers", columns="channels", tell="agreement"),
    ImagesFigure(rows="layers", columns="channels", width=2.0, caption="auto"),
    ImagesFigure(width="column", order="similarity", clusters=4, dataset_images=0),
    ImagesFigure(
        layers=("conv",), columns="seeds", order="similarity", clusters=3, dendrogram=True
    ),
    ImagesFigure(
        layers=("conv",), rows="seeds", columns="channels", order="similarity", dendrogram=True
    ),
    ImagesFigure(
        layers=("conv",), rows="seeds", columns="channels", order="similarity", clusters=4
    ),
    ImagesFigure(rows="channels", columns="layers", channels={"top": 6}, width="column"),
    ImagesFigure(width="slide", title="A title that is rather long " * 5, caption="Words. " * 90),
    TracesFigure(),
    TracesFigure(width="column", scale="raw"),
    HistogramsFigure(),
    HistogramsFigure(width="slide", caption="auto"),
    ResponsesFigure(clusters=4),
    ResponsesFigure(width="column", clusters=2, caption="auto"),
    ProfileFigure(),
    ProfileFigure(width="column", statistics=("agreement", "activation", "dead")),
]


@pytest.mark.parametrize("settings", SHOWN, ids=lambda s: f"{s.name}-{s.width}")
def test_no_words_overlap_in_any_figure(small: Atlas, settings: FigureSettings) -> None:
    for sheet in sheets(small, settings):
        check(sheet, numbers=isinstance(settings, ResponsesFigure))


@pytest.mark.slow
def test_responses_of_very_many_channels(large: Atlas) -> None:
    (sheet,) = sheets(large, ResponsesFigure(channels="0:1200", order="index"))
    check(sheet)
    matrix, _ = pictures(sheet)
    assert matrix[2] - matrix[0] == matrix[3] - matrix[1] > 1500


def test_ticks_of_histograms_have_room_however_far_they_reach(tmp_path: Path) -> None:
    file = made_up(tmp_path, {"a": 20, "b": 20})
    add_photographs(file)
    with h5py.File(file, "a") as atlas:
        atlas["toy/a/activation"][...] *= 1000
        atlas["toy/b/activation"][...] *= -1000
    (sheet,) = sheets(open_atlas(file), HistogramsFigure(width="column"))
    assert {"0", "10", "1000"} <= set(check(sheet))


@pytest.mark.slow
def test_names_of_many_layers_have_room(tmp_path: Path) -> None:
    layers = {f"features.block{i // 9}.layer{i % 9}.conv": 2 for i in range(40)}
    atlas = open_atlas(made_up(tmp_path, layers))
    for settings in (ProfileFigure(), ProfileFigure(width="column", statistics=("dead",))):
        for sheet in sheets(atlas, settings):
            check(sheet)


@pytest.mark.parametrize(("width", "inches"), [("column", 3.3), ("text", 6.9), (5.0, 5.0)])
def test_pages_have_the_size_that_is_asked_for(large: Atlas, width: Any, inches: float) -> None:
    for sheet in sheets(large, ImagesFigure(width=width, channels="0:600:6")):
        assert sheet.figure.get_size_inches()[0] == pytest.approx(inches)
        assert sheet.figure.get_size_inches()[1] <= 9


def test_a_page_may_be_as_tall_as_need_be(large: Atlas) -> None:
    settings = ImagesFigure(height="any", channels="0:200", tile=1.0)
    (sheet,) = sheets(large, settings)
    assert sheet.figure.get_size_inches()[1] > 20


@pytest.mark.parametrize("dpi", [300, 450])
def test_images_reach_the_page_pixel_by_pixel(small: Atlas, dpi: int) -> None:
    settings = ImagesFigure(layers=("conv",), channels=[4], dataset_images=0, dpi=dpi, tile=1.0)
    (sheet,) = sheets(small, settings)
    (image,) = sheet.figure.findobj(AxesImage)
    assert image.get_array().shape == (dpi, dpi, 3)
    (left, bottom, right, top), (_, height) = pictures(sheet)[0].round().astype(int), sheet.size
    page = np.asarray(RenderedPage(sheet).picture)
    assert np.array_equal(page[height - top : height - bottom, left:right], image.get_array())


@pytest.mark.slow
def test_pictures_fill_most_of_the_page(large: Atlas) -> None:
    (sheet,) = sheets(large, ImagesFigure(channels="0:100"))
    boxes, (width, height) = pictures(sheet), sheet.size
    covered = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1).sum()
    assert covered > 0.65 * width * height


def test_what_was_not_made_is_crossed_out_and_the_dead_are_marked(tmp_path: Path) -> None:
    fates = {1: "dead", 2: "failed", 4: "missing"}
    atlas = open_atlas(made_up(tmp_path, {"conv": 6}, status=fates, shard_size=1))
    (sheet,) = sheets(atlas, ImagesFigure())
    assert texts(sheet)[0] == ["0", "1†", "2", "3", "4", "5"]
    assert len(pictures(sheet)) == 4
    drawing = KINDS["images"](atlas, ImagesFigure())
    assert "† marks dead channels" in drawing.caption
    assert "Crossed-out boxes are images that were not made." in drawing.caption


def test_names_are_inert(tmp_path: Path) -> None:
    name = "$\\frac{1}{2}$<script>"
    atlas = open_atlas(made_up(tmp_path, {name: 3, "b": 2}))
    (sheet,) = sheets(atlas, ImagesFigure())
    assert name in texts(sheet)[0]
    check(sheet)


def test_no_room_is_told(small: Atlas) -> None:
    with pytest.raises(UserError, match="leave no room"):
        list(sheets(small, ImagesFigure(width="column", caption="Words. " * 4000)))


def test_histograms_need_photographs(large: Atlas) -> None:
    with pytest.raises(UserError, match="dataset=folder"):
        list(sheets(large, HistogramsFigure()))
