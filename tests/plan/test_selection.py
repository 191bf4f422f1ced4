"""How a sweep chose its targets is said as it was, with the right numbers and the right noun."""

from dataclasses import replace
from typing import Any

import pytest
from toys import IDENTITY, layer_info, make_plan, make_recipe

from layer_atlas.config.objectives import (
    ChannelObjective,
    DirectionObjective,
    LogitObjective,
    NeuronObjective,
    Objective,
)
from layer_atlas.plan.jobs import UNTRAINED, Origin
from layer_atlas.plan.labels import (
    layer_title,
    network_lines,
    sampling_lines,
    sampling_of,
    weights_words,
)
from layer_atlas.plan.plan import LayerRef
from layer_atlas.plan.targets import Sampling, TargetSpace, joint_words, select_targets, spaced

SENTENCES: list[tuple[Any, str]] = [
    ("all", "all 64 channels"),
    ({"random": 24}, "24 of 64 channels drawn at random"),
    ({"random": 64}, "all 64 channels"),
    ([3, 17, 9], "3 of 64 channels chosen by hand"),
    (5, "1 of 64 channels chosen by hand"),
    ("0:16", "channels 0 to 15 of 64"),
    ("8:64:16", "channels 8 to 56 in steps of 16 of 64"),
    ("0:999", "all 64 channels"),
]


@pytest.mark.parametrize(("asked", "words"), SENTENCES)
def test_every_selection_has_its_sentence(asked: Any, words: str) -> None:
    chosen = spaced(select_targets(asked, TargetSpace((64,)), "net/layer"))
    assert Sampling(asked, chosen, 64).words() == words


def test_the_place_stands_where_it_belongs() -> None:
    assert Sampling({"random": 2}, (1, 5), 9).words("a (m)") == (
        "2 of 9 channels of a (m) drawn at random"
    )
    assert Sampling("0:2", range(2), 9).words("a (m)") == "channels 0 to 1 of 9 in a (m)"
    assert Sampling("all", range(9), 9).words("a (m)") == "all 9 channels of a (m)"
    assert Sampling(None, (1, 5), 9).words("a") == "2 of 9 channels of a"


NOUNS: list[tuple[Objective, str]] = [
    (ChannelObjective(), "2 of 6 channels chosen by hand"),
    (NeuronObjective(), "2 of 6 neurons at the centre of the map chosen by hand"),
    (
        NeuronObjective(position=(3, 5)),
        "2 of 6 neurons at row 3, column 5 of the map chosen by hand",
    ),
    (LogitObjective(), "2 of 6 classes chosen by hand"),
    (DirectionObjective(), "2 of 6 random directions chosen by hand"),
    (DirectionObjective(vectors="basis.npy"), "2 of 6 directions chosen by hand"),
]


@pytest.mark.parametrize(("objective", "words"), NOUNS, ids=lambda x: getattr(x, "name", ""))
def test_targets_have_their_noun(objective: Objective, words: str) -> None:
    plan = make_plan(channels=(1, 4), recipe=replace(make_recipe(), objective=objective))
    (model,) = plan.models
    told = replace(plan, selection=[1, 4])
    assert sampling_of(told, model, model.layers[0]).words() == words


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ([[1, 2]], "1 combination of channels chosen by hand"),
        ({"zip": ["0:2", "0:2"]}, "2 combinations of channels, paired in order"),
        (
            {"product": [{"random": 2}, "0:1"]},
            "2 combinations of channels, every pairing of those chosen, some drawn at random",
        ),
    ],
)
def test_combinations(asked: Any, words: str) -> None:
    chosen = select_targets(asked, TargetSpace((6, 8)), "net/layer")
    assert Sampling(asked, chosen, 48, "combination").words() == words


def test_layers_of_one_sentence_are_told_together() -> None:
    drawn = {"random": 4}
    some = [(Sampling(drawn, range(4), n), title) for n, title in ((8, "a"), (9, "b"), (8, "c"))]
    assert joint_words(some) == (
        "4 of 8 channels of each of a, c drawn at random; 4 of 9 channels of b drawn at random"
    )
    many = [(Sampling(drawn, range(4), n), str(n)) for n in range(10, 20)]
    assert joint_words(many) == "40 of 145 channels of 10 layers drawn at random"
    assert joint_words([(Sampling("all", range(n), n), str(n)) for n in (3, 4)]) == "all channels"


def test_a_plan_says_it_layer_by_layer() -> None:
    layers = [layer_info(name, 6) for name in "abcde"]
    plan = replace(make_plan(*layers, channels=(0, 1)), selection="0:2")
    assert sampling_lines(plan) == ["channels 0 to 1 of 6: toy/a, toy/b, toy/c and 2 more"]


# --- weights -------------------------------------------------------------------------------------


def test_random_weights_are_named_wherever_a_network_is() -> None:
    (model,) = make_plan().models
    raw = replace(model, origin=Origin(UNTRAINED, "given", "given", "assumed"))
    title = layer_title(raw, raw.layers[0])
    assert title == "toy, untrained (random weights)  ·  block.conv"
    assert layer_title(model, model.layers[0]) == "toy  ·  block.conv"
    (line,) = network_lines(replace(make_plan(), models=(raw,)))
    assert line == (
        "toy, untrained (random weights); mean (0.5, 0.5, 0.5), std (0.25, 0.25, 0.25): given; "
        "input size 16 px: image_size in the config"
    )
    known = replace(model, origin=Origin("", "given", "given", "its preset"))
    assert network_lines(replace(make_plan(), models=(known,)))[0].endswith(
        "input size 16 px: image_size in the config, trained at 64 px (its preset)"
    )
    fixed = replace(raw, network=replace(raw.network, fixed_size=224))
    assert network_lines(replace(make_plan(), models=(fixed,)))[0].endswith(
        "input size 224 px: assumed, images are resized to it"
    )
    tap = LayerRef("other", IDENTITY, layer_info("c"), Origin("weights from file w.pth"))
    both = replace(raw, layers=(replace(raw.layers[0], others=(tap,)),), recipe=_joint())
    assert weights_words(both) == f"toy: {UNTRAINED}; other: weights from file w.pth"


def _joint() -> Any:
    from layer_atlas.config.objectives import JointObjective, Term

    objective = JointObjective(terms=(Term("block.conv"), Term("c")))
    return replace(make_recipe(), objective=objective)
