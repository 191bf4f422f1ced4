"""Which layers and channels are shown: every way of choosing against a known answer."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atlases import FAMILIES, made_up
from toys import make_recipe

from pipeline import open_atlas
from pipeline.errors import UserError
from pipeline.figures.selection.choose import choose, chosen_layers
from pipeline.figures.selection.shown import Shown
from pipeline.reader import Atlas, Layer
from pipeline.settings.figures import FigureSettings
from pipeline.settings.objectives import InterpolationObjective, LogitObjective
from pipeline.settings.recipe import Recipe
from pipeline.targets import Targets


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    fates = {3: "dead", 7: "missing"}
    layers = {"block.conv": 40, "block.fc": 12}
    return open_atlas(
        made_up(tmp_path_factory.mktemp("atlas"), layers, (0, 5), fates, shard_size=1)
    )


@pytest.fixture
def layer(atlas: Atlas) -> Layer:
    return atlas["toy/block.conv"]


def chosen(layer: Layer, selection: Any, order: str = "chosen") -> list[int]:
    return list(choose(Shown(layer), selection, order).channels)


def activations(layer: Layer) -> dict[int, float]:
    values = dict(zip(layer.channels, layer["activation"][:, 0].tolist(), strict=True))
    return {channel: value for channel, value in values.items() if np.isfinite(value)}


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


def test_the_top_and_the_bottom_of_a_statistic(layer: Layer) -> None:
    known = activations(layer)
    ranked = sorted(known, key=lambda channel: -known[channel])
    assert chosen(layer, {"top": 5}) == ranked[:5]
    assert chosen(layer, {"bottom": 3, "by": "activation"}) == ranked[::-1][:3]
    assert 7 not in chosen(layer, {"top": 39})  # has no image, so it comes last


def test_random_channels_are_the_same_every_time_and_more_add_to_fewer(layer: Layer) -> None:
    few, many = chosen(layer, {"random": 5}), chosen(layer, {"random": 20})
    assert few == chosen(layer, {"random": 5})
    assert set(few) < set(many)
    assert few != chosen(layer, {"random": 5, "seed": 1})


def test_representatives_are_of_all_families(layer: Layer) -> None:
    found = chosen(layer, {"representatives": FAMILIES})
    assert {channel % FAMILIES for channel in found} == set(range(FAMILIES))
    assert len(found) == FAMILIES


def test_the_most_diverse_are_of_all_families_and_the_strongest_is_first(layer: Layer) -> None:
    found = chosen(layer, {"diverse": FAMILIES})
    known = activations(layer)
    assert found[0] == max(set(known) - {3}, key=lambda channel: known[channel])
    assert {channel % FAMILIES for channel in found} == set(range(FAMILIES))


def test_dead_and_missing_channels_represent_nothing(layer: Layer) -> None:
    assert not {3, 7} & set(chosen(layer, {"diverse": 40}))
    assert not {3, 7} & set(chosen(layer, {"representatives": 40}))


def test_orders(layer: Layer) -> None:
    known = activations(layer)
    assert chosen(layer, [9, 4, 30], "index") == [4, 9, 30]
    ranked = sorted([9, 4, 30], key=lambda channel: -known[channel])
    assert chosen(layer, [9, 4, 30], "activation") == ranked


def test_similar_channels_lie_together_and_the_dead_at_the_end(layer: Layer) -> None:
    found = choose(Shown(layer), "all", "similarity")
    families = [channel % FAMILIES for channel in found.channels[:-2]]
    changes = sum(a != b for a, b in pairwise(families))
    assert changes == FAMILIES - 1
    assert found.channels[-2:] == (3, 7)
    bracketed = found.clustered(FAMILIES)
    assert bracketed.channels == found.channels
    assert len(set(bracketed.groups[:-2])) == FAMILIES
    assert bracketed.groups[-2:] == ("", "")


def test_classes_by_name_and_combinations_by_their_parts(tmp_path: Path) -> None:
    recipe: Recipe = make_recipe()
    names = tuple(f"Class {i}" for i in range(6))
    classes = made_up(
        tmp_path / "a",
        {"output": 6},
        recipe=Recipe(**{**vars(recipe), "objective": LogitObjective()}),
        targets=Targets((6,), names),
    )
    layer = open_atlas(classes)["toy/output"]
    assert chosen(layer, ["class 4", 1]) == [4, 1]
    assert layer.labels[4] == "4 Class 4"
    mixed = Recipe(**{**vars(recipe), "objective": InterpolationObjective(images=2)})
    parts = {"targets": Targets((6, 6)), "channels": (8, 23)}
    pairs = made_up(tmp_path / "b", {"conv": 6}, recipe=mixed, **parts)
    layer = open_atlas(pairs)["toy/conv"]
    assert layer.labels == ["1+2", "3+5"]
    assert chosen(layer, [[3, 5]]) == [23]


@pytest.mark.parametrize(
    ("selection", "order", "told"),
    [
        ([99], "chosen", "unknown channel of toy/block.conv '99'|unknown channel"),
        ("nothing", "chosen", "unknown figure.channels"),
        ({"topp": 3}, "chosen", "is not understood"),
        ({"top": 0}, "chosen", "1 or more"),
        ({"top": 3, "seed": 1}, "chosen", "is not understood"),
        ({"top": 3, "by": "activaton"}, "chosen", "choose from: activation"),
        ("50:60", "chosen", "selects no channel"),
        ([[1, 2]], "chosen", "single channels"),
        ("all", "agreement", "unknown statistic"),
        ([], "chosen", "is not understood"),
        ([1.5], "chosen", "is not understood"),
    ],
)
def test_what_cannot_be_chosen_is_told(layer: Layer, selection: Any, order: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        choose(Shown(layer), selection, order)


def test_layers_by_glob_by_type_and_in_the_order_of_the_atlas(atlas: Atlas) -> None:
    def names(*globs: str) -> list[str]:
        return [layer.name for layer in chosen_layers(atlas, FigureSettings(layers=globs))]

    assert names("*.fc", "*.conv") == ["block.conv", "block.fc"]
    assert names("block.c*@Conv2d") == ["block.conv"]
    assert names("toy/block.fc") == ["block.fc"]
    assert len(chosen_layers(atlas, FigureSettings(models=("toy",)))) == 2


def test_layers_and_models_that_are_not_there_are_told(atlas: Atlas) -> None:
    with pytest.raises(UserError, match=r"choose from: block\.conv"):
        chosen_layers(atlas, FigureSettings(layers=("block.con",)))
    with pytest.raises(UserError, match="choose from: toy"):
        chosen_layers(atlas, FigureSettings(models=("tyo",)))


def test_a_seed_is_shown_if_asked_for(layer: Layer) -> None:
    shown = Shown(layer, seed=5)
    assert np.array_equal(shown.values("activation"), layer["activation"][:, 1], equal_nan=True)
    with pytest.raises(UserError, match="choose from: 0, 5"):
        _ = Shown(layer, seed=4).seeds
