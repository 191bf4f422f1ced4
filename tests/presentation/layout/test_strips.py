"""The grid of a figure: nothing overlaps, nothing leaves the page, at any count on any paper."""

from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layer_atlas.errors import UserError
from layer_atlas.presentation.layout.strips import Grid, Measures, Shapes, plan_grid, refitted

PLAIN = Measures(
    width=2058,
    height=2688,
    tall=1500,
    tiles=(72, 225, 600),
    aspect=1.0,
    gap=10,
    aisle=10,
    side=0,
    text_lines=1,
    broken_text_lines=1,
    line_heights=(28, 39),
    heading=0,
    header=0,
    bracket=0,
    column_bracket=0,
    names={},
    tree=(0, 0),
    dataset_images=0,
    table=False,
)
TABLE = replace(PLAIN, side=150, aisle=40, text_lines=0, heading=50, header=39, bracket=30)


def boxes(grid: Grid) -> list[np.ndarray]:
    """On each page the boxes (n, 4) of images with their words, and of photographs."""
    pages = []
    for page in grid.pages:
        found = []
        for row in page.rows:
            for place in range(row.count):
                size = grid.shapes[row.section][row.first + place]
                for column in range(row.start, min(size, row.start + grid.per_line)):
                    left, top, right, bottom = grid.image(row, place, column)
                    found.append((left, top, right, bottom + grid.text_height))
                found += grid.dataset_images(row, place) if row.start == 0 else ()
        pages.append(np.asarray(found))
    return pages


def check(grid: Grid) -> None:
    """Everything is there, once, on its page, and apart from everything else."""
    for page, found in zip(grid.pages, boxes(grid), strict=True):
        assert page.height <= grid.measures.height
        assert found[:, :2].min() >= 0
        assert found[:, 2].max() <= grid.measures.width
        assert found[:, 3].max() <= page.height
        taken = np.zeros((page.height, grid.measures.width), np.uint8)
        for left, top, right, bottom in found:
            taken[top:bottom, left:right] += 1
        for heading in page.headings:
            taken[heading.top : heading.top + grid.intro] += 1
        assert taken.max() == 1
    images = sum(map(sum, grid.shapes))
    dataset_images = grid.measures.dataset_images * sum(map(len, grid.shapes))
    assert sum(map(len, boxes(grid))) == images + dataset_images


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 64, 100, 512, 2048])
@pytest.mark.parametrize("width", [950, 2058, 3780])
def test_any_count_of_images_finds_its_place(count: int, width: int) -> None:
    check(plan_grid([[1] * count], replace(PLAIN, width=width)))


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=30), min_size=1, max_size=4),
    measures=st.sampled_from([PLAIN, TABLE, replace(TABLE, aspect=0.5, dataset_images=4)]),
    dataset_images=st.integers(0, 9),
)
def test_any_shape_of_strips_finds_its_place(
    shapes: Shapes, measures: Measures, dataset_images: int
) -> None:
    check(plan_grid(shapes, replace(measures, dataset_images=dataset_images)))


@pytest.mark.parametrize(("count", "across"), [(3, 3), (16, 8), (24, 8)])
def test_few_images_stand_in_full_rows(count: int, across: int) -> None:
    assert plan_grid([[1] * count], PLAIN).across == across


def test_the_width_is_used_as_far_as_images_may_grow() -> None:
    for count in (5, 16, 64, 100, 512):
        assert plan_grid([[1] * count], PLAIN).used > 0.98 * PLAIN.width


def test_images_are_small_before_pages_are_turned() -> None:
    assert len(plan_grid([[1] * 500], PLAIN).pages) == 1
    assert len(plan_grid([[1] * 2048], PLAIN).pages) > 1


def test_a_size_or_a_number_is_kept_to() -> None:
    assert plan_grid([[1] * 100], PLAIN, tile=133).tile == 133
    assert plan_grid([[1] * 100], PLAIN, across=7).across == 7
    check(plan_grid([[1] * 100], PLAIN, across=7))


def test_long_strips_are_broken_into_lines_and_over_pages() -> None:
    grid = plan_grid([[512, 300]], PLAIN)
    assert grid.broken
    assert grid.across == 1
    assert len(grid.pages) > 1
    check(grid)


def test_a_table_is_in_one_piece() -> None:
    table = replace(TABLE, table=True)
    assert plan_grid([[2] * 3], replace(TABLE, table=False)).across > 1
    assert plan_grid([[2] * 3], table).across == 1
    assert plan_grid([[2] * 3], table, across=3).across == 3  # unless asked for
    assert plan_grid([[2] * 3] * 3, replace(table, width=950)).across == 1
    assert plan_grid([[2] * 3] * 6, table).across > 1  # of many, where it would become tiny


def test_brackets_above_columns_have_room_though_lines_are_broken() -> None:
    bare = plan_grid([[60, 60]], TABLE)
    grid = plan_grid([[60, 60]], replace(TABLE, column_bracket=50))
    assert bare.broken
    assert [bare.pages[0].rows[0].above, grid.pages[0].rows[0].above] == [0, 50]
    assert all(a.top - b.top >= grid.row_height + 50 for b, a in pairwise(grid.pages[0].rows))


@pytest.mark.parametrize("count", [1, 7, 64, 300, 1500])
def test_room_for_names_makes_images_smaller_and_nothing_else(count: int) -> None:
    grid = plan_grid([[1] * count], replace(PLAIN, bracket=40))
    rows = [(row.section, row.first, row.start) for page in grid.pages for row in page.rows]
    more = replace(grid.measures, names=dict.fromkeys(rows[::2], 60))
    found = refitted(grid, more)
    check(found)
    assert (found.across, len(found.pages)) == (grid.across, len(grid.pages))
    assert found.tile <= grid.tile
    above = {row.above for page in found.pages for row in page.rows}
    assert above <= {40, 100} if grid.across > 1 else above == {60}
    assert refitted(grid, grid.measures) == grid


def test_images_are_smaller_before_names_turn_a_page() -> None:
    grid = plan_grid([[1] * 64], replace(PLAIN, bracket=40, height=1600))
    rows = {(0, row.first, 0): 60 for row in grid.pages[0].rows}
    found = refitted(grid, replace(grid.measures, names=rows))
    assert len(grid.pages) == len(found.pages) == 1
    assert 0.6 * grid.tile < found.tile < grid.tile


def test_names_go_without_room_where_there_is_none() -> None:
    grid = plan_grid([[1] * 8], replace(PLAIN, bracket=40, width=200), across=1)
    assert refitted(grid, replace(grid.measures, bracket=180)) == grid


def test_headings_are_repeated_on_the_next_page() -> None:
    grid = plan_grid([[1] * 30, [1] * 2000], replace(TABLE, side=0))
    told = [[(h.section, h.continued) for h in page.headings] for page in grid.pages]
    assert told[0] == [(0, False), (1, False)]
    assert set(chain(*told[1:])) == {(1, True)}


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"across": 100}, "figure.across=100"),
        ({"tile": 5000}, "figure.tile"),
        ({"whole": True, "across": 1}, "a dendrogram"),
    ],
)
def test_what_has_no_room_is_told(asked: dict[str, int], told: str) -> None:
    with pytest.raises(UserError, match=told):
        plan_grid([[1] * 512], PLAIN, **asked)  # type: ignore[arg-type]
