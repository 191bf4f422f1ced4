"""What brackets hold together is told by name, with the channels or how they were chosen."""

from pathlib import Path
from typing import Any

import pytest
from atlases import made_up
from toys import make_recipe

from layer_atlas import open_atlas
from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.objectives import LogitObjective
from layer_atlas.config.outputs import Group, ImagesFigure
from layer_atlas.config.recipe import Recipe
from layer_atlas.plan.targets import TargetSpace
from layer_atlas.presentation.figures.captions import (
    bracket_caption,
    bracket_methods,
    number_ranges,
    order_caption,
)
from layer_atlas.presentation.figures.selection import LayerData, choose_bracketed


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    return open_atlas(made_up(tmp_path_factory.mktemp("atlas"), {"a": 40, "b": 12}))


def told(atlas: Atlas, words: Any, **settings: Any) -> str:
    figure = ImagesFigure(**settings)
    chosen = [choose_bracketed(LayerData(layer), figure) for layer in atlas.values()]
    return " ".join(words(chosen, figure))


def groups(**named: Any) -> tuple[Group, ...]:
    return tuple(Group(name=name, channels=which) for name, which in named.items())


def test_groups_are_told_with_their_channels_or_how_these_were_chosen(atlas: Atlas) -> None:
    named = groups(curves=[9, 3], rest="4:8", best={"bottom": 1}, odd={"random": 1, "seed": 5})
    assert told(atlas, bracket_caption, groups=named) == (
        "Brackets mark curves (3, 9); rest (4–7); best (those with the smallest selectivity); "
        "odd (drawn at random (seed 5))."
    )
    # Of several layers, those that are in any of them.
    assert told(atlas, bracket_caption, groups=groups(all="10:20")) == "Brackets mark all (10–19)."
    assert told(atlas, bracket_caption) == ""


def test_clusters_are_told_by_their_number(atlas: Atlas) -> None:
    words = told(atlas, bracket_caption, order="similarity", clusters=3)
    assert words == "Brackets mark 3 clusters of similar channels."


def test_methods_tell_what_groups_need_to_be_made_again(atlas: Atlas) -> None:
    named = groups(few=[1], some={"diverse": 3}, more={"top": 1})
    words = told(atlas, bracket_methods, groups=groups(few=[1], some="4:7"))
    assert words == (
        "Brackets mark few (1); some (4–6). The figure shows 8 channels of toy (4 of each of the "
        "layers a and b), out of all channels."
    )
    with_ways = told(atlas, bracket_methods, groups=named[:2])
    assert "some (the most dissimilar ones)" in with_ways
    assert with_ways.count("Gonzalez 1985") == with_ways.count("The similarity of two") == 1
    ordered = told(atlas, bracket_methods, groups=groups(few=[1, 2]), order="similarity")
    assert "Channels of each group were clustered by average linkage" in ordered
    single = told(atlas, bracket_methods, channels={"top": 2})
    assert single == (
        "The figure shows 4 channels of toy (2 of each of the layers a and b), those with the "
        "largest selectivity in each layer, out of all channels."
    )


def test_an_order_is_told_as_that_of_each_group() -> None:
    named = groups(a=[1])
    assert order_caption(ImagesFigure(groups=named)) == ""
    assert order_caption(ImagesFigure(order="agreement")) == "in descending order of agreement"
    assert order_caption(ImagesFigure(order="agreement", groups=named)).startswith("in each group")


def test_numbers_that_follow_one_another_are_ranges() -> None:
    assert number_ranges([0, 1, 2, 4, 6, 7, 9, 10, 11, 12]) == "0–2, 4, 6, 7, 9–12"
    assert number_ranges([5]) == "5"


def test_classes_are_told_by_name(tmp_path: Path) -> None:
    recipe = Recipe(**{**vars(make_recipe()), "objective": LogitObjective()})
    targets = TargetSpace((6,), tuple(f"Class {i}" for i in range(6)))
    classes = open_atlas(made_up(tmp_path, {"output": 6}, recipe=recipe, targets=targets))
    words = told(classes, bracket_caption, groups=groups(dogs=["class 4", 1]))
    assert words == "Brackets mark dogs (4 Class 4, 1 Class 1)."
