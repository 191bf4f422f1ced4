"""Brackets over images: each image is under that of its group, and names have room for it."""

from pathlib import Path
from typing import Any

import pytest
from atlases import made_up
from toys import make_recipe

from layer_atlas import open_atlas
from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.outputs import Group, ImagesFigure
from layer_atlas.presentation.figures.brackets import Bracket
from layer_atlas.presentation.figures.image_content import Content
from layer_atlas.presentation.figures.image_figure import (
    above_headers,
    above_row,
    beside_rows,
    grid_of,
)
from layer_atlas.presentation.figures.selection import LayerData, choose_bracketed, chosen_layers
from layer_atlas.presentation.layout.figure import PageSpec
from layer_atlas.presentation.layout.page import Box
from layer_atlas.presentation.layout.strips import Grid, Page, Row

NAMES = {"curves": [3, 17], "high-frequency textures": [8], "colours": "20:60", "dots": [61, 62]}
GROUPS = tuple(Group(name=name, channels=which) for name, which in NAMES.items())


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    root = tmp_path_factory.mktemp("atlas")
    return open_atlas(made_up(root, {"conv": 64}, (0, 1), recipe=make_recipe(image_size=8)))


def arranged(atlas: Atlas, **settings: Any) -> tuple[Content, Grid]:
    figure = ImagesFigure(groups=settings.pop("groups", GROUPS), **settings)
    chosen = [choose_bracketed(LayerData(x), figure) for x in chosen_layers(atlas, figure)]
    content = Content(chosen, figure)
    return content, grid_of(content, PageSpec(figure))


def over(content: Content, grid: Grid, page: Page, row: Row, box: Box) -> list[str]:
    """What the brackets are called that an image is under, or beside."""
    left, top, right, bottom = box
    rows: list[Bracket] = list(above_row(content, grid, row))
    rows += above_headers(content, grid, page)
    found = [x for x in rows if x.edge <= top and x.start <= left and right <= x.end]
    beside = beside_rows(content, grid, page)
    found += [x for x in beside if x.edge <= left and x.start <= top and bottom <= x.end]
    return [bracket.name for bracket in found]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"width": "column"},
        {"across": 1, "height": "any"},
        {"columns": "seeds"},
        {"columns": "seeds", "width": "column", "across": 1},
        {"rows": "seeds", "columns": "channels"},
        {"rows": "seeds", "columns": "channels", "groups": GROUPS[:2]},
        {"rows": "seeds", "columns": "channels", "width": "column"},
    ],
    ids=str,
)
def test_every_image_is_under_the_bracket_of_its_group(
    atlas: Atlas, settings: dict[str, Any]
) -> None:
    content, grid = arranged(atlas, **settings)
    groups = dict(zip(content.selections[0].channels, content.selections[0].groups, strict=True))
    for page in grid.pages:
        for row in page.rows:
            strips = content.sections[0].strips[row.first : row.first + row.count]
            for place, strip in enumerate(strips):
                for column in range(row.start, min(row.start + grid.per_line, len(strip.images))):
                    image, box = strip.images[column], grid.image(row, place, column)
                    assert image is not None
                    assert over(content, grid, page, row, box) == [groups[image.channel]]


def test_only_rows_that_hold_a_long_name_are_further_apart(atlas: Atlas) -> None:
    _, grid = arranged(atlas)
    line = PageSpec(ImagesFigure()).font.line(7)
    first, *others = grid.pages[0].rows
    assert first.above > others[0].above + 0.9 * line
    assert {row.above for row in others} == {grid.measures.bracket}
    _, short = arranged(atlas, groups=(GROUPS[0], GROUPS[2]))
    assert len({row.above for row in short.pages[0].rows}) == 1


def test_where_a_group_goes_on_its_name_needs_no_room(atlas: Atlas) -> None:
    named = Group(name=GROUPS[1].name, channels="0:9"), Group(name="dots", channels="9:16")
    _, grid = arranged(atlas, groups=named, across=8)
    assert [row.above for row in grid.pages[0].rows] == [grid.measures.bracket] * 2


def test_of_layers_each_section_has_the_room_that_its_own_groups_need(tmp_path: Path) -> None:
    recipe = make_recipe(image_size=8)
    atlas = open_atlas(made_up(tmp_path, {"a": 64, "b": 12}, recipe=recipe))
    named = Group(name="dots", channels="0:8"), Group(name=GROUPS[1].name, channels="11:40")
    _, grid = arranged(atlas, groups=named)
    rows = [row for page in grid.pages for row in page.rows]
    most = [max(row.above for row in rows if row.section == section) for section in (0, 1)]
    assert most[0] == grid.measures.bracket < most[1]


@pytest.mark.parametrize("settings", [{}, {"columns": "seeds", "across": 1}, {"tile": 0.4}])
def test_there_are_no_more_pages_because_of_long_names(
    atlas: Atlas, settings: dict[str, Any]
) -> None:
    short = tuple(Group(name=str(i), channels=x.channels) for i, x in enumerate(GROUPS))
    _, grid = arranged(atlas, **settings)
    _, bare = arranged(atlas, groups=short, **settings)
    assert len(grid.pages) == len(bare.pages)
    assert grid.across == bare.across
    assert bare.tile * 0.8 < grid.tile <= bare.tile
