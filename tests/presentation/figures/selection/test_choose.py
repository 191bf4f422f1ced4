"""Which layers and channels are shown, in which order and under which brackets."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from atlases import FAMILIES

from layer_atlas.atlas.reader import Atlas, Layer
from layer_atlas.config.outputs import FigureSettings, Group, ImagesFigure
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.selection import (
    LayerData,
    Selection,
    choose,
    choose_bracketed,
    chosen_layers,
)


def chosen(layer: Layer, selection: Any, order: str = "chosen") -> list[int]:
    return list(choose(LayerData(layer), selection, order).channels)


@pytest.mark.slow
def test_orders(layer: Layer, activations: dict[int, float]) -> None:
    assert chosen(layer, [9, 4, 30], "index") == [4, 9, 30]
    ranked = sorted([9, 4, 30], key=lambda channel: -activations[channel])
    assert chosen(layer, [9, 4, 30], "activation") == ranked


def test_similar_channels_lie_together_and_the_dead_at_the_end(layer: Layer) -> None:
    found = choose(LayerData(layer), "all", "similarity")
    families = [channel % FAMILIES for channel in found.channels[:-2]]
    changes = sum(a != b for a, b in pairwise(families))
    assert changes == FAMILIES - 1
    assert found.channels[-2:] == (3, 7)
    bracketed = found.clustered(FAMILIES)
    assert bracketed.channels == found.channels
    assert len(set(bracketed.groups[:-2])) == FAMILIES
    assert bracketed.groups[-2:] == ("", "")


def test_an_order_that_is_not_there_is_told(layer: Layer) -> None:
    with pytest.raises(UserError, match="unknown statistic"):
        choose(LayerData(layer), "all", "agreement")


def grouped(layer: Layer, order: str = "chosen", **groups: Any) -> Selection:
    named = tuple(Group(name=name, channels=which) for name, which in groups.items())
    return choose_bracketed(LayerData(layer), ImagesFigure(groups=named, order=order))


def test_groups_follow_one_another_in_their_order(layer: Layer) -> None:
    found = grouped(layer, curves=[17, 3, 5], colours="10:14", rest={"random": 2, "seed": 0})
    rest = chosen(layer, {"random": 2, "seed": 0})
    assert found.channels == (17, 3, 5, 10, 11, 12, 13, *rest)
    assert found.groups == (*["curves"] * 3, *["colours"] * 4, *["rest"] * 2)
    assert found.members == {"curves": [17, 3, 5], "colours": [10, 11, 12, 13], "rest": rest}
    assert found.tree is None


@pytest.mark.parametrize("order", ["index", "activation", "similarity"])
def test_an_order_is_that_within_each_group(layer: Layer, order: str) -> None:
    found = grouped(layer, order, b=[30, 9, 4, 3, 21, 14], a="10:14")
    assert found.members == {
        "b": chosen(layer, [30, 9, 4, 3, 21, 14], order),
        "a": chosen(layer, "10:14", order),
    }
    assert list(found.members) == ["b", "a"]


def test_a_channel_in_two_groups_is_told_with_both(layer: Layer) -> None:
    told = "channel 5 of toy/block.conv is in two of figure.groups, 'curves' and 'colours'"
    with pytest.raises(UserError, match=told):
        grouped(layer, curves=[1, 5], dots=[2], colours="4:8")


@pytest.mark.parametrize("which", ["50:60", {"topp": 3}, "nothing", [], {"top": 0}])
def test_a_mistake_in_a_group_is_told_with_its_name(layer: Layer, which: Any) -> None:
    with pytest.raises(UserError, match=r"figure\.groups\.curve detectors"):
        grouped(layer, **{"dots": [2], "curve detectors": which})


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
    shown = LayerData(layer, seed=5)
    assert np.array_equal(shown.values("activation"), layer["activation"][:, 1], equal_nan=True)
    with pytest.raises(UserError, match="choose from: 0, 5"):
        _ = LayerData(layer, seed=4).seeds
