"""Ascent curves: each channel's own, of the seed that is shown, on one scale or on its own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from atlases import made_up
from toys import make_recipe

from layer_atlas import open_atlas
from layer_atlas.atlas.reader import Layer
from layer_atlas.config.objectives import ChannelObjective
from layer_atlas.presentation.figures.plots import curves_of
from layer_atlas.presentation.figures.selection import LayerData, Selection

BOTH = replace(make_recipe(), objective=ChannelObjective(sign="both"))


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    root = tmp_path_factory.mktemp("atlas")
    fates = {3: "missing"}
    return open_atlas(made_up(root, {"a": 5}, (0, 7), fates, recipe=BOTH, shard_size=1))["toy/a"]


def test_curves_are_those_of_the_channels_the_seed_and_the_variants(layer: Layer) -> None:
    chosen = Selection(LayerData(layer, seed=7), (4, 1))
    positive, negative = curves_of(chosen, relative=False)
    assert np.array_equal(positive, layer["trace"][[4, 1], 1, 0])
    assert np.array_equal(negative, layer["trace"][[4, 1], 1, 1])


def test_what_was_not_made_has_no_curve(layer: Layer) -> None:
    assert len(curves_of(Selection(LayerData(layer), (2, 3)), relative=False)[0]) == 1
    assert len(curves_of(Selection(LayerData(layer), (3,)), relative=True)[0]) == 0


def test_relative_curves_reach_one_and_nothing_stays_nothing(layer: Layer) -> None:
    curves = curves_of(Selection(LayerData(layer), (1, 4)), relative=True)[0]
    assert np.allclose(np.abs(curves).max(axis=1), 1)
    raw = curves_of(Selection(LayerData(layer), (1, 4)), relative=False)[0]
    assert np.allclose(curves * np.abs(raw).max(axis=1, keepdims=True), raw)


def test_layers_without_variants_have_one_curve_per_channel(tmp_path: Path) -> None:
    layer = open_atlas(made_up(tmp_path, {"a": 3}))["toy/a"]
    (curves,) = curves_of(Selection(LayerData(layer), (0, 2)), relative=False)
    assert np.array_equal(curves, layer["trace"][[0, 2], 0])
