"""Which channels a selection names: every way of choosing against a known answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atlases import FAMILIES, add_photographs, made_up
from toys import make_recipe

from layer_atlas import open_atlas
from layer_atlas.atlas.reader import Layer
from layer_atlas.config.objectives import InterpolationObjective, LogitObjective
from layer_atlas.config.recipe import Recipe
from layer_atlas.errors import UserError
from layer_atlas.plan.targets import TargetSpace
from layer_atlas.presentation.figures.selection import LayerData, select


def chosen(layer: Layer, selection: Any) -> list[int]:
    return select(LayerData(layer), selection)


@pytest.mark.parametrize(
    ("selection", "channels"),
    [
        ("all", list(range(40))),
        ("10:20:4", [10, 14, 18]),
        ([17, 3, 5], [17, 3, 5]),
        (4, [4]),
    ],
)
def test_channels_by_number(layer: Layer, selection: Any, channels: list[int]) -> None:
    assert chosen(layer, selection) == channels


def test_the_top_and_the_bottom_of_a_statistic(layer: Layer, activations: dict[int, float]) -> None:
    ranked = sorted(activations, key=lambda channel: -activations[channel])
    assert chosen(layer, {"top": 5, "by": "activation"}) == ranked[:5]
    assert chosen(layer, {"bottom": 3, "by": "activation"}) == ranked[::-1][:3]
    assert 7 not in chosen(layer, {"top": 39})  # has no image, so it comes last


@pytest.mark.parametrize("axis", ["response_channel", "channel", "seed", "best_seed"])
def test_the_coordinates_of_an_axis_are_no_statistic(layer: Layer, axis: str) -> None:
    assert axis not in LayerData(layer).statistics
    with pytest.raises(UserError, match="unknown statistic"):
        chosen(layer, {"top": 3, "by": axis})


def test_random_channels_are_the_same_every_time_and_more_add_to_fewer(layer: Layer) -> None:
    few, many = chosen(layer, {"random": 5}), chosen(layer, {"random": 20})
    assert few == chosen(layer, {"random": 5})
    assert set(few) < set(many)
    assert few != chosen(layer, {"random": 5, "seed": 1})


def test_representatives_are_of_all_families(layer: Layer) -> None:
    found = chosen(layer, {"representatives": FAMILIES})
    assert {channel % FAMILIES for channel in found} == set(range(FAMILIES))
    assert len(found) == FAMILIES


def test_by_default_channels_are_ranked_by_what_compares_them(tmp_path: Path) -> None:
    file = made_up(tmp_path, {"a": 12})
    layer = open_atlas(file)["toy/a"]
    best = np.argsort(-layer["selectivity"][:, 0], kind="stable").tolist()
    assert chosen(layer, {"top": 4}) == best[:4]
    assert chosen(layer, {"bottom": 4}) == best[::-1][:4]
    layer.group.file.close()
    add_photographs(file)
    layer = open_atlas(file)["toy/a"]
    assert chosen(layer, {"top": 4}) == np.argsort(-layer["agreement"][:, 0])[:4].tolist()


def test_the_most_diverse_are_of_all_families_and_the_first_ranks_first(layer: Layer) -> None:
    found = chosen(layer, {"diverse": FAMILIES})
    assert found[0] == chosen(layer, {"top": 1})[0]
    assert {channel % FAMILIES for channel in found} == set(range(FAMILIES))


def test_dead_and_missing_channels_represent_nothing(layer: Layer) -> None:
    assert not {3, 7} & set(chosen(layer, {"diverse": 40}))
    assert not {3, 7} & set(chosen(layer, {"representatives": 40}))


def test_classes_by_name_and_combinations_by_their_parts(tmp_path: Path) -> None:
    recipe: Recipe = make_recipe()
    names = tuple(f"Class {i}" for i in range(6))
    classes = made_up(
        tmp_path / "a",
        {"output": 6},
        recipe=Recipe(**{**vars(recipe), "objective": LogitObjective()}),
        targets=TargetSpace((6,), names),
    )
    layer = open_atlas(classes)["toy/output"]
    assert chosen(layer, ["class 4", 1]) == [4, 1]
    assert layer.labels[4] == "4 Class 4"
    mixed = Recipe(**{**vars(recipe), "objective": InterpolationObjective(images=2)})
    parts = {"targets": TargetSpace((6, 6)), "channels": (8, 23)}
    pairs = made_up(tmp_path / "b", {"conv": 6}, recipe=mixed, **parts)
    layer = open_atlas(pairs)["toy/conv"]
    assert layer.labels == ["1+2", "3+5"]
    assert chosen(layer, [[3, 5]]) == [23]


def test_labels_choose_all_their_channels_beside_names_of_classes(tmp_path: Path) -> None:
    recipe = make_recipe()
    classes = made_up(
        tmp_path,
        {"output": 6},
        recipe=Recipe(**{**vars(recipe), "objective": LogitObjective()}),
        targets=TargetSpace((6,), tuple(f"Class {i}" for i in range(6))),
    )
    layer = open_atlas(classes)["toy/output"].called(
        {"output:1": "Curve, left", "toy/output:4": "curve, right", "output:5": "Dogs"}
    )
    assert chosen(layer, {"label": "curve*"}) == [1, 4]
    assert chosen(layer, {"label": "*s*"}) == [0, 1, 2, 3, 4, 5], "a label hides no class"
    assert chosen(layer, {"label": "class 5"}) == [5]
    assert chosen(layer, ["dogs", 0, "class 4"]) == [5, 0, 4]
    assert chosen(layer, "CURVE, LEFT") == [1]
    with pytest.raises(UserError, match=r"curv.*Curve, left"):
        chosen(layer, {"label": "curv"})
    same = layer.called({"output:2": "dogs", "output:0": "Dogs"})
    assert chosen(same, ["dogs"]) == [0, 2]


@pytest.mark.parametrize(
    ("selection", "told"),
    [
        ([99], "unknown channel of toy/block.conv '99'|unknown channel"),
        ("nothing", "unknown figure.channels"),
        ({"topp": 3}, "is not understood"),
        ({"top": 0}, "1 or more"),
        ({"top": 3, "seed": 1}, "is not understood"),
        ({"top": 3, "by": "activaton"}, "choose from: activation"),
        ("50:60", "selects no channel"),
        ([[1, 2]], "single channels"),
        ([], "is not understood"),
        ([1.5], "is not understood"),
        ({"label": 3}, "is not understood"),
        ({"label": "a", "by": "activation"}, "is not understood"),
    ],
)
def test_what_cannot_be_chosen_is_told(layer: Layer, selection: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        chosen(layer, selection)
