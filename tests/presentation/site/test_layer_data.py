"""What scripts know of a layer is what atlas.h5 says of it."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from atlases import add_photographs, made_up
from toys import make_recipe

from layer_atlas.atlas.reader import Layer, open_atlas
from layer_atlas.config.objectives import ChannelObjective
from layer_atlas.presentation.site.layer_data import channel_blocks, layer_data, layer_facts


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    """Three channels of a layer, two seeds, two variants."""
    recipe = replace(make_recipe(), objective=ChannelObjective(sign="both"))
    root = tmp_path_factory.mktemp("data")
    file = made_up(root, {"a.b": 40}, (3, 5), recipe=recipe, channels=(3, 17, 30))
    return open_atlas(file)["toy/a.b"]


def test_every_number_per_channel_job_or_image_is_a_statistic(layer: Layer) -> None:
    assert set(layer.statistics) == {
        *("activation", "activation_robust", "activation_max"),
        *("clipped", "high_frequency", "start"),
    }
    assert layer.statistics["activation"].startswith("objective of the stored 8-bit image")


def test_values_are_those_of_the_atlas_to_the_last_bit(layer: Layer) -> None:
    data = layer_data(layer)
    assert (data["channels"], data["seeds"]) == ([3, 17, 30], [3, 5])
    assert data["variants"] == ["positive", "negative"]
    assert [data["perSheet"], data["columns"], data["tile"]] == [64, 8, [16, 16]]
    assert data["previewColumns"] == 2
    for told in data["statistics"]:
        kept = layer[told["name"]]
        assert told["axes"] == kept.ndim - 1
        values = np.asarray(told["values"], dtype=kept.dtype)
        assert np.array_equal(values, kept.ravel()), told["name"]
    assert np.asarray(data["status"]).reshape(layer.status.shape).tolist() == [["ok"] * 2] * 3


def test_channels_have_their_curves(layer: Layer) -> None:
    ((number, block),) = channel_blocks(layer)
    assert (number, block["first"], block["step"]) == (0, 0, layer["trace_step"].tolist())
    assert np.asarray(block["trace"]) == pytest.approx(layer["trace"], rel=1e-4)
    assert [sorted(each) for each in block["similar"]] == [["best", "cosine", "rows"]] * 3


def test_a_layer_among_others_is_told_in_a_few_facts(layer: Layer) -> None:
    facts = layer_facts(layer)
    assert facts["share"] == pytest.approx(layer.facts["flops_share"])
    assert (facts["channels"], facts["some"], facts["of"]) == (3, [3, 17, 30], 40)
    assert facts["recipe"].startswith("channel (positive, negative), fourier, adam 12 steps, 16 px")


def test_the_image_that_agrees_most_leads_else_the_first_that_is_well(tmp_path: Path) -> None:
    file = made_up(tmp_path / "atlas", {"a": 4}, (0, 1))
    with h5py.File(file, "a") as opened:
        opened["toy/a/status"][:3] = [[1, 0], [0, 0], [1, 1]]
    with open_atlas(file) as atlas:
        assert atlas["toy/a"].leads().tolist() == [1, 0, 0, 0]
    add_photographs(file)
    with h5py.File(file, "a") as opened:
        opened["toy/a/best_seed_index"][:] = [0, 1, -1, 9]
    with open_atlas(file) as atlas:
        assert atlas["toy/a"].leads().tolist() == [0, 1, 0, 0]
