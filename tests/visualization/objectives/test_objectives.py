"""Objectives: known scores, and a sample that reads nothing but its own activation."""

import math

import pytest
import torch
from torch import Tensor, nn
from toys import channel_mean, layer_info, surroundings

from layer_atlas.config.objectives import (
    ChannelObjective,
    CustomObjective,
    JointObjective,
    LayerObjective,
    LogitObjective,
    NeuronObjective,
    ProbabilityObjective,
    Term,
)
from layer_atlas.errors import UserError
from layer_atlas.visualization.objectives import Objective, make_objective
from layer_atlas.visualization.objectives.custom import with_source

MAPS = torch.tensor([[[1.0, 2.0, 6.0], [9.0, 9.0, 9.0]], [[0.0, 0.0, 0.0], [-1.0, 0.0, 4.0]]])
"""Two samples, two channels, three positions."""
OBJECTIVE = channel_mean()


def scores(objective: Objective, activations: list[Tensor], targets: list[int]) -> list[float]:
    return objective.score(activations, torch.tensor(targets)).tolist()


def test_score_is_the_mean_of_the_channel_over_all_positions() -> None:
    channel = torch.tensor([0, 1])
    assert scores(OBJECTIVE, [MAPS], [0, 1]) == [3.0, 1.0]
    responses = OBJECTIVE.responses([MAPS], channel)
    assert responses.tolist() == [[1.0, 2.0, 6.0], [-1.0, 0.0, 4.0]]


def test_each_sample_reads_its_own_channel_of_its_own_activation() -> None:
    activation = torch.randn(4, 5, 7, requires_grad=True)
    channel = torch.tensor([4, 0, 0, 2])
    for b, score in enumerate(OBJECTIVE.score([activation], channel)):
        (gradient,) = torch.autograd.grad(score, activation, retain_graph=True)
        expected = torch.zeros_like(gradient)
        expected[b, channel[b]] = 1 / 7
        assert torch.allclose(gradient, expected)


def test_scores_of_half_precision_activations_are_summed_in_fp32() -> None:
    activation = torch.full((1, 1, 3), 256.0).bfloat16()
    activation[0, 0, 0] = 258.0
    score = OBJECTIVE.score([activation], torch.tensor([0]))
    assert score.dtype == torch.float32
    assert score.item() == torch.tensor([258.0, 256.0, 256.0]).mean().item()


def test_gradient_keeps_the_layout_of_the_activations() -> None:
    maps = torch.randn(2, 8, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    score = OBJECTIVE.score([maps.flatten(2)], torch.tensor([1, 5])).sum()
    (gradient,) = torch.autograd.grad(score, maps)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    expanded = torch.randn(2, 8, 1, requires_grad=True)
    score = OBJECTIVE.score([expanded.expand(-1, -1, 4)], torch.tensor([1, 5])).sum()
    (gradient,) = torch.autograd.grad(score, expanded)
    assert gradient[0, 1] == gradient[1, 5] == 1.0
    assert gradient.sum() == 2.0


def test_signs_turn_the_score_round() -> None:
    negative = make_objective(ChannelObjective(sign="negative"), surroundings())
    assert scores(negative, [MAPS], [0, 1]) == [-3.0, -1.0]
    both = make_objective(ChannelObjective(sign="both"), surroundings())
    assert scores(both, [MAPS[:1].expand(4, -1, -1)], [0, 0, 1, 1]) == [3.0, -3.0, 9.0, -9.0]


def test_a_logit_is_the_score_of_a_class() -> None:
    objective = make_objective(LogitObjective(), surroundings(layer_info(n_channels=2)))
    assert objective.sizes == (2,)
    assert scores(objective, [torch.tensor([[[3.0], [5.0]]])], [1]) == [5.0]


# --- neurons -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("position", "place"), [((0, 1), 1), ((1, 2), 5), (None, 4)])
def test_a_neuron_is_one_position_counted_row_by_row(
    position: tuple[int, int] | None, place: int
) -> None:
    layer = layer_info(n_channels=2, shape=(2, 2, 3))
    objective = make_objective(NeuronObjective(position=position), surroundings(layer))
    maps = torch.arange(12.0).view(1, 2, 6)
    assert scores(objective, [maps], [1]) == [6.0 + place]


def test_a_position_outside_the_map_is_told() -> None:
    layer = layer_info(shape=(6, 4, 5))
    with pytest.raises(UserError, match=r"\[4, 0\] is outside .* rows 0 to 3 and columns 0 to 4"):
        make_objective(NeuronObjective(position=(4, 0)), surroundings(layer))


# --- classes -------------------------------------------------------------------------------------


def test_probability_is_the_softmax_and_its_logarithm_is_climbed() -> None:
    objective = make_objective(ProbabilityObjective(), surroundings(layer_info(n_channels=3)))
    logits = torch.tensor([[[0.0], [math.log(2.0)], [0.0]]])
    score, surrogate = objective.surrogate([logits], torch.tensor([1]))
    assert score.item() == pytest.approx(0.5)
    assert surrogate.item() == pytest.approx(math.log(0.5))
    assert scores(objective, [logits], [0]) == pytest.approx([0.25])


def test_a_class_without_any_probability_still_has_a_gradient() -> None:
    objective = make_objective(ProbabilityObjective(), surroundings(layer_info(n_channels=2)))
    logits = torch.tensor([[[0.0], [200.0]]], requires_grad=True)
    score, surrogate = objective.surrogate([logits], torch.tensor([0]))
    (gradient,) = torch.autograd.grad(surrogate.sum(), logits)
    assert score.item() == 0.0
    assert gradient.flatten().tolist() == [1.0, -1.0]


# --- layers, functions, several layers -----------------------------------------------------------


def test_a_layer_is_the_mean_square_of_all_of_it() -> None:
    objective = make_objective(LayerObjective(), surroundings())
    assert objective.sizes == (1,)
    assert scores(objective, [MAPS], [0, 0]) == pytest.approx([284 / 6, 17 / 6])


def peak(activations: Tensor, scale: float = 1.0) -> Tensor:
    return scale * activations.amax(dim=(1, 2))


def own_channel(activations: Tensor, channel: Tensor) -> Tensor:
    return activations[torch.arange(len(channel)), channel, 0]


def ill_shaped(activations: Tensor) -> Tensor:
    return activations.mean()


def failing(activations: Tensor) -> Tensor:
    raise RuntimeError("no such thing")


not_a_function = 3


def custom(name: str, **changes: object) -> Objective:
    record = CustomObjective(
        function=f"tests.visualization.objectives.test_objectives.{name}", **changes
    )  # type: ignore[arg-type]
    network = nn.Conv2d(3, 4, 1)
    activations = lambda images: [network(images).flatten(2)]  # noqa: E731
    return make_objective(record, surroundings(layer_info(n_channels=4), activations=activations))


def test_a_function_of_the_users_own_gives_the_score() -> None:
    assert custom("peak").sizes == (1,)
    assert scores(custom("peak", args={"scale": 2.0}), [MAPS], [0, 0]) == [18.0, 8.0]


def test_a_function_that_asks_for_channels_gets_an_image_for_each() -> None:
    assert custom("own_channel").sizes == (4,)
    assert scores(custom("own_channel"), [MAPS], [1, 0]) == [9.0, 0.0]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ill_shaped", ["returned []", "must return a tensor of shape [8]"]),
        ("failing", ["failed: RuntimeError('no such thing')"]),
        ("not_a_function", ["is int, not a callable"]),
        ("missing", ["cannot be imported", "activations (B, C, positions)"]),
    ],
)
def test_what_is_wrong_with_a_function_is_told_before_a_sweep(name: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        custom(name)
    for word in words:
        assert word in str(caught.value)


def test_the_file_of_a_function_is_part_of_the_identity() -> None:
    record = with_source(
        CustomObjective(function="tests.visualization.objectives.test_objectives.peak")
    )
    assert len(record.source) == 64  # type: ignore[union-attr]


def test_a_function_that_was_changed_after_planning_is_refused() -> None:
    with pytest.raises(UserError, match="is not what the sweep was planned with"):
        custom("peak", source="0" * 64)


def test_a_joint_score_is_the_weighted_sum_of_its_terms() -> None:
    record = JointObjective(terms=(Term("a", weight=2.0), Term("b", weight=-0.5)))
    layers = (layer_info("a", n_channels=2), layer_info("b", n_channels=5))
    objective = make_objective(record, surroundings(*layers))
    assert objective.sizes == (2, 5)
    other = torch.arange(10.0).view(2, 5, 1)
    targets = [0 * 5 + 3, 1 * 5 + 4]  # (0, 3) and (1, 4)
    assert scores(objective, [MAPS, other], targets) == [6.0 - 1.5, 2.0 - 4.5]
    parts = objective.parts([MAPS, other], torch.tensor(targets))
    assert parts is not None
    assert parts.tolist() == [[3.0, 3.0], [1.0, 9.0]]
