"""Layers are found by globs over names and types."""

from collections.abc import Sequence

import pytest
from nets import matched, residual

from layer_atlas.errors import UserError
from layer_atlas.models.activations import OUTPUT


def test_output_is_chosen_by_its_name_alone() -> None:
    assert OUTPUT not in matched(residual(), "*", "*@*")
    assert matched(residual(), OUTPUT, "0") == ["0", OUTPUT]
    for pattern in ("outpu?", "*@Sequential"):
        with pytest.raises(UserError, match="unknown layer"):
            matched(residual(), pattern)


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["0"], ["0"]),
        (["1.*"], ["1.conv1", "1.conv2", "1.relu"]),
        (["*@Conv2d"], ["0", "1.conv1", "1.conv2", "2.conv1", "2.conv2"]),
        (["2.*@_ConvNd"], ["2.conv1", "2.conv2"]),  # a base class
        (["*@Re?U"], ["1.relu", "2.relu"]),
        (["2.conv2", "1.conv?", "*.conv2"], ["1.conv1", "1.conv2", "2.conv2"]),
        (["[12]"], ["1", "2"]),
    ],
)
def test_globs_choose_layers_in_network_order_each_once(
    patterns: Sequence[str], names: Sequence[str]
) -> None:
    assert matched(residual(), *patterns) == names


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("1.conv3", ["'1.conv3'", "model 'toy'", "choose from: 1.conv", "@Type"]),
        ("*@Linear", ["'*@Linear'", "Types in this model: ", "Conv2d", "ReLU"]),
        ("1.unused", ["'1.unused'", "never calls it", "atlas layers"]),
        ("outptu", ["'outptu'", "choose from: output"]),
        ("1.CONV1", ["'1.CONV1'", "choose from: 1.conv1"]),
    ],
)
def test_pattern_that_chooses_nothing_is_told(pattern: str, told: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        matched(residual(), "0", pattern)
    for words in told:
        assert words in str(caught.value)
