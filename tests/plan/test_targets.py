"""Targets: selections of channels, classes and combinations, and mistakes told."""

from itertools import pairwise
from typing import Any

import pytest

from layer_atlas.errors import UserError
from layer_atlas.plan.targets import TargetSpace, select_targets

TEN = TargetSpace((10,))
PAIRS = TargetSpace((8, 10))
CLASSES = TargetSpace((4,), ("tench", "great white shark", "crane", "Crane"))


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        ("all", range(10)),
        ("0:4", range(4)),
        ("2:8:3", (2, 5)),
        (":3", range(3)),
        ("7:", (7, 8, 9)),
        ("-2:", (8, 9)),
        ("8:64", (8, 9)),  # layers differ in width: a range may reach beyond
        ("9:5:-2", (7, 9)),
        (3, (3,)),
        ([7, 3, 7], (3, 7)),
        ((0, 9), (0, 9)),
        ({"random": 99}, range(10)),
    ],
)
def test_selections_choose_channels_in_ascending_order(selection: Any, chosen: Any) -> None:
    assert select_targets(selection, TEN, "net/layer") == tuple(chosen)


def test_random_selection_is_fixed_and_grows_with_its_size() -> None:
    picks = [
        set(select_targets({"random": n}, TargetSpace((512,)), "net/layer"))
        for n in (8, 32, 256, 512)
    ]
    assert [len(pick) for pick in picks] == [8, 32, 256, 512]
    for small, large in pairwise(picks):
        assert small < large
    assert picks[0] == set(select_targets({"random": 8}, TargetSpace((512,)), "net/layer"))
    assert picks[1] != set(range(32))


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ([3, 10], ["channel 10", "net/layer", "channels 0 to 9"]),
        (-1, ["channel -1", "net/layer"]),
        ([], ["[]", "no channel of net/layer", "10"]),
        ("12:14", ["'12:14'", "no channel of net/layer"]),
        ("0:4:0", ["'0:4:0'", "start:stop"]),
        ("a:b", ["'a:b'", "start:stop"]),
        ("1:2:3:4", ["'1:2:3:4'", "start:stop"]),
        ("al", ["'al'", "all", "{random: 32}"]),
        ("5", ["'5'", "[3,17]"]),
        ([1.5], ["[1.5]", "[3,17]"]),
        ([True], ["[True]", "[3,17]"]),
        (True, ["True", "[3,17]"]),
        (None, ["None", "all"]),
        ({"random": 0}, ["{random: 0}", "1 or more"]),
        ({"random": "many"}, ["{random: many}", "whole number"]),
        ({"rnadom": 3}, ["rnadom", "{random: 32}"]),
    ],
)
def test_mistakes_in_a_selection_are_told(selection: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        select_targets(selection, TEN, "net/layer")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        ([[3, 7], [0, 1]], [(0, 1), (3, 7)]),
        (((3, 7),), [(3, 7)]),
        ({"zip": ["0:3", [9, 1, 5]]}, [(0, 9), (1, 1), (2, 5)]),
        ({"product": [[1, 2], "8:"]}, [(1, 8), (1, 9), (2, 8), (2, 9)]),
    ],
)
def test_combinations_are_numbered_as_the_elements_of_an_array(
    selection: Any, chosen: list[tuple[int, ...]]
) -> None:
    numbers = select_targets(selection, PAIRS, "net/layer")
    assert [PAIRS.parts(number) for number in numbers] == sorted(chosen)
    assert list(numbers) == sorted(10 * first + second for first, second in chosen)


@pytest.mark.parametrize(
    ("selection", "words"),
    [
        ("all", ["'all'", "the channels of each combination", "{zip: [...]}"]),
        ([3, 7], ["[3, 7]", "[[3, 4]]"]),
        ([[3]], ["a list of 2 channels each"]),
        ([[8, 0]], ["channel 8 of [8, 0]", "0 to 7"]),
        ([[0, 10]], ["channel 10", "0 to 9"]),
        ({"zip": ["0:3", "0:4"]}, ["lengths [3, 4]", "product"]),
        ({"zip": ["0:3"]}, ["with 2 selections"]),
        ([], ["selects nothing of net/layer"]),
    ],
)
def test_mistakes_in_combinations_are_told(selection: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        select_targets(selection, PAIRS, "net/layer")
    for word in words:
        assert word in str(caught.value)


def test_classes_are_chosen_by_name_or_number() -> None:
    assert select_targets(["Tench", 2], CLASSES, "net/output") == (0, 2)
    assert select_targets("great white shark", CLASSES, "net/output") == (1,)
    assert CLASSES.label(1) == "1 great white shark"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("trench", ["'trench'", "4 classes", "nearest are: tench"]),
        ("crane", ["'crane'", "several classes, 2 and 3", "number"]),
    ],
)
def test_mistakes_in_names_are_told(name: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        select_targets([name], CLASSES, "net/output")
    for word in words:
        assert word in str(caught.value)
