"""What things are called, in pictures and tables."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toys import IDENTITY, layer_info, make_plan, make_recipe, make_study_plan

from layer_atlas.config.objectives import (
    ChannelObjective,
    DirectionObjective,
    DiversityObjective,
    InterpolationObjective,
    JointObjective,
    LayerObjective,
    LogitObjective,
    Objective,
    Term,
)
from layer_atlas.config.recipe import DatasetInit, Octaves
from layer_atlas.plan.environment import Device, Environment
from layer_atlas.plan.labels import (
    Made,
    count_images,
    dropped,
    layer_title,
    mixture,
    notices,
    recipe_lines,
    sampling_of,
    target_label,
    target_name,
    targets_word,
)
from layer_atlas.plan.plan import LayerRef, Plan
from layer_atlas.plan.targets import TargetSpace
from tests.environments import made_by

NAMED = TargetSpace((3,), ("owl", "cab", "tench"))
_PAIR = "channels 3+2"
KINDS: list[tuple[Objective, TargetSpace | None, int, str, str, str]] = [
    (ChannelObjective(), None, 4, "1 of 6 channels", "4", "channel 4"),
    (LogitObjective(), NAMED, 1, "1 of 3 classes", "1 cab", "class 1 cab"),
    (LogitObjective(), None, 1, "1 of 6 classes", "1", "class 1"),
    (DirectionObjective(), TargetSpace((1,)), 0, "the only random direction", "0", "direction 0"),
    (
        InterpolationObjective(),
        TargetSpace((6, 6)),
        20,
        "1 combination of channels",
        "3+2",
        "channels 3+2",
    ),
    (LayerObjective(), TargetSpace((1,)), 0, "whole layer", "whole layer", "whole layer"),
]


@pytest.mark.parametrize(("objective", "targets", "target", "counted", "label", "name"), KINDS)
def test_targets_are_called_what_they_are(
    objective: Objective,
    targets: TargetSpace | None,
    target: int,
    counted: str,
    label: str,
    name: str,
) -> None:
    recipe = replace(make_recipe(), objective=objective)
    plan = make_plan(layer_info("a", 6), channels=(target,), recipe=recipe, targets=targets)
    (layer,) = plan.models[0].layers
    assert sampling_of(plan, plan.models[0], layer).words() == counted
    assert target_label(recipe, layer, target) == label
    assert target_name(recipe, layer, target) == name
    assert targets_word(plan).rstrip("es") in counted.replace(
        "combination of channels", "combination"
    )


def test_jobs_of_several_images_are_told_from_images() -> None:
    several = replace(make_recipe(), objective=DiversityObjective(images=3))
    assert count_images(make_plan(), 1) == "1 image"
    assert count_images(make_plan(), 2) == "2 images"
    assert count_images(make_plan(recipe=several), 2) == "2 jobs of 3 images"


_WEIGHTS = ((1.0, 1.0, 1.0), (2.0, -1.0, -0.5))


def joint_title(weights: tuple[float, ...]) -> str:
    """The title of a sum of three layers, of which the last is of another network."""
    terms = tuple(Term(layer, weight=w) for layer, w in zip("abc", weights, strict=True))
    recipe = replace(make_recipe(), objective=JointObjective(terms=terms))
    (model,) = make_plan(layer_info("a"), label="net").models
    others = (
        LayerRef("net", IDENTITY, layer_info("b")),
        LayerRef("other", IDENTITY, layer_info("c")),
    )
    layer = replace(model.layers[0], others=others)
    return layer_title(replace(model, recipe=recipe, layers=(layer,)), layer)


def test_a_joint_title_names_every_term_with_its_weight() -> None:
    plain, weighted = (" ".join(title.split()) for title in map(joint_title, _WEIGHTS))
    assert plain == "net · a + b + other · c"
    assert weighted == "2 x net · a - b - 0.5 x other · c"


def test_that_images_were_photographs_is_told() -> None:
    assert "photographs" not in make_recipe().summary()
    assert "from photographs" in replace(make_recipe(), init=DatasetInit()).summary()


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (ChannelObjective(), "channel, "),
        (ChannelObjective(sign="both"), "channel (positive, negative), "),
        (ChannelObjective(sign="negative"), "channel (negative), "),
        (DiversityObjective(images=4), "diversity (4 images), "),
        (InterpolationObjective(images=3), "interpolation (0, 0.5, 1), "),
        (InterpolationObjective(images=9), "interpolation (0, ..., 1), "),
    ],
)
def test_a_recipe_tells_what_sets_its_images_apart(objective: Objective, words: str) -> None:
    assert replace(make_recipe(), objective=objective).summary().startswith(words)


def test_a_recipe_tells_steps_octaves_and_size() -> None:
    recipe = replace(make_recipe(image_size=(24, 32), steps=5), octaves=Octaves(count=3, scale=2.0))
    assert "15 steps in 3 octaves, 32 x 24 px, fp32" in recipe.summary()


H200, A100 = made_by("2.15.0"), made_by("2.15.0", "NVIDIA A100")
CPUS = [Environment({"torch": "2"}, Device("EPYC", set_)) for set_ in ("AVX2", "AVX512")]
VISION = [Environment({"torch": "2", "torchvision": v}, Device("EPYC", "AVX2")) for v in "12"]
CUDNN = [Environment({"torch": "2"}, Device("H200", "9", {"CUDA": "13", "cuDNN": n})) for n in "12"]


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ({made_by(): 120, H200: 8}, "torch 2.11.0 on NVIDIA H200 (120 images), torch 2.15.0 on"),
        ({H200: 1, A100: 2}, "torch 2.15.0 on NVIDIA A100 (2 images), torch 2.15.0 on NVIDIA H200"),
        ({None: 4, H200: 1}, "unknown versions (4 images), torch 2.15.0 on NVIDIA H200 (1 image)"),
        ({CPUS[0]: 2, CPUS[1]: 1}, "torch 2 on EPYC (AVX2) (2 images), torch 2 on EPYC (AVX512)"),
        ({VISION[0]: 2, VISION[1]: 1}, "torch 2, torchvision 1 on EPYC (2 images), torch 2, torch"),
        ({CUDNN[0]: 2, CUDNN[1]: 1}, "torch 2, cuDNN 1 on H200 (2 images), torch 2, cuDNN 2 on"),
        ({made_by("a\nb"): 2, H200: 1}, r"torch a\nb on NVIDIA H200 (2 images)"),
    ],
)
def test_a_mixture_is_told_by_what_differs(made: Made, words: str) -> None:
    told = mixture([made], "do")
    assert told.startswith(f"made with 2 environments: {words}")
    assert told.endswith("; bits may differ between them; do")


@given(st.lists(st.dictionaries(st.sampled_from([None, H200, A100, *CPUS]), st.integers(1, 9))))
def test_only_mixtures_within_a_model_are_told_and_all_their_images(models: list[Made]) -> None:
    mixed = [made for made in models if len(made) > 1]
    numbers = re.findall(r"\((\d+) images?\)", mixture(models))
    assert sum(map(int, numbers)) == sum(sum(made.values()) for made in mixed)


@pytest.mark.parametrize(
    ("selection", "notices_of"),
    [
        ("0:7", ["channels=0:7 asks for more than toy/a has (6); those that exist are taken"]),
        (
            {"random": 9},
            ["channels={random: 9} asks for more than toy/a has (6) and 1 layer more; "],
        ),
        *((selection, []) for selection in ("0:6", "::2", "-2:", "all", {"random": 2}, [1, 2])),
    ],
)
def test_a_selection_that_ends_beyond_a_layer_is_noted(
    selection: object, notices_of: list[str]
) -> None:
    plan = make_plan(layer_info("a", 6), layer_info("b", 8), selection=selection)
    assert len(notices(plan)) == len(notices_of)
    assert all(part in said for part, said in zip(notices_of, notices(plan), strict=True))


def judged(*counts: int) -> Plan:
    """Layers of so many channels, whose images a judge sees."""
    plan = make_plan(*(layer_info(f"layer{n}", n) for n in counts))
    judge = replace(plan.models[0], label="judge-net", network=replace(IDENTITY, source="net"))
    judge = replace(judge, layers=judge.layers[:1], is_judge=True)
    return replace(plan, dataset_plan=make_study_plan(), judge=judge)


def test_recognisability_among_few_targets_is_noted() -> None:
    assert notices(judged(8, 9)) == []
    (few,) = notices(judged(9, 3, 7))
    assert few == (
        "recognisability of toy/layer3 and 1 layer more is coarse: it compares an image with those "
        "of the layer's other targets, of which there are fewer than 8"
    )
    assert "of toy/layer1 is unknown" in notices(judged(1))[0]


def test_what_an_atlas_would_lose_is_named() -> None:
    full = judged(8)
    seen, bare = replace(full, judge=None), make_plan()
    assert dropped(full, None) == dropped(full, full) == dropped(full, bare) == []
    (judge,) = dropped(seen, full)
    assert "recognisability by layer8 of net is dropped from the atlas: add judge=..." in judge
    (dataset,) = dropped(bare, full)
    assert "dataset images are dropped from the atlas: add dataset=..." in dataset


def test_a_plan_words_its_recipe_once_or_by_network() -> None:
    (model,) = make_plan().models
    other = replace(model, label="other")
    assert recipe_lines(replace(make_plan(), models=(model, other))) == [model.recipe.summary()]
    larger = replace(other, recipe=replace(model.recipe, image_size=(20, 24)))
    assert recipe_lines(replace(make_plan(), models=(model, larger))) == [
        f"{model.label}: {model.recipe.summary()}",
        f"other: {larger.recipe.summary()}",
    ]
