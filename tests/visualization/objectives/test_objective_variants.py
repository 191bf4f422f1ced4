"""Objectives of several images per job: known likenesses, and jobs that keep to themselves."""

import pytest
import torch
from torch import Tensor
from toys import layer_info, surroundings

from layer_atlas.config.objectives import (
    DiversityObjective,
    InterpolationObjective,
)
from layer_atlas.config.objectives import (
    Objective as Record,
)
from layer_atlas.visualization.objectives import Objective, make_objective
from layer_atlas.visualization.objectives.channels import gram_cosines

K, L = 3, 4


def objective_of(record: Record) -> Objective:
    return make_objective(record, surroundings(layer_info(n_channels=K)))


def maps(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, K, L, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("positions", [1, 2, 50], ids=["by positions", "few", "by channels"])
def test_gram_cosines_are_those_of_the_gram_matrices(positions: int) -> None:
    activation = torch.randn(6, K, positions, dtype=torch.float64)
    found = gram_cosines(activation, 3)
    for job in range(2):
        grams = [(a @ a.T).flatten() for a in activation[3 * job : 3 * job + 3]]
        for v, left in enumerate(grams):
            for u, right in enumerate(grams):
                expected = left @ right / (left.norm() * right.norm())
                assert found[job, v, u].item() == pytest.approx(expected.item())


def test_diversity_takes_likeness_from_the_score() -> None:
    objective = objective_of(DiversityObjective(images=2, weight=0.5))
    alike = maps(1).expand(2, -1, -1).abs()
    score, surrogate = objective.surrogate([alike], torch.tensor([1, 1]))
    assert torch.allclose(surrogate, score - 0.5 * score.abs())
    apart = torch.zeros(2, K, L)
    apart[0, 1], apart[1, 2] = 1.0, 1.0
    score, surrogate = objective.surrogate([apart], torch.tensor([1, 1]))
    assert score.tolist() == [1.0, 0.0]
    assert torch.allclose(surrogate, score)


def test_interpolation_goes_from_the_first_channel_to_the_second() -> None:
    objective = objective_of(InterpolationObjective(images=3))
    assert objective.sizes == (K, K)
    same = maps(1).expand(3, -1, -1)
    first, second = same[0, 0].mean(), same[0, 2].mean()
    target = torch.full((3,), 0 * K + 2)
    score, surrogate = objective.surrogate([same], target)
    assert torch.allclose(score, torch.stack([first, (first + second) / 2, second]))
    # Neighbours are all alike.
    assert torch.allclose(surrogate, score + score.abs().mean(), atol=1e-6)
    parts = objective.parts([same], target)
    assert parts is not None
    assert torch.allclose(parts, torch.stack([first, second]).expand(3, 2))


def test_neighbours_are_drawn_to_each_other() -> None:
    objective = objective_of(InterpolationObjective(images=3, alignment=2.0))
    activation = maps(3)
    score, surrogate = objective.surrogate([activation], torch.tensor([5, 5, 5]))
    flat = torch.nn.functional.normalize(activation.flatten(1), dim=1)
    near, far = flat[0] @ flat[1], flat[1] @ flat[2]
    expected = 2.0 * score.abs().mean() * torch.stack([near, (near + far) / 2, far])
    assert torch.allclose(surrogate - score, expected, atol=1e-6)


@pytest.mark.parametrize(
    "record", [DiversityObjective(images=2), InterpolationObjective(images=2)], ids=lambda r: r.name
)
def test_jobs_do_not_look_at_each_other(record: Record) -> None:
    objective = objective_of(record)
    activation = maps(4).requires_grad_()
    _, surrogate = objective.surrogate([activation], torch.tensor([1, 1, 2, 2]))
    (gradient,) = torch.autograd.grad(surrogate[:2].sum(), activation)
    assert gradient[:2].abs().sum() > 0
    assert gradient[2:].abs().sum() == 0


def test_the_strength_of_the_score_sets_the_scale_without_a_gradient() -> None:
    objective = objective_of(DiversityObjective(images=2, weight=1.0))
    activation = maps(2).requires_grad_()
    for factor in (1.0, 100.0):
        score, surrogate = objective.surrogate([activation * factor], torch.tensor([1, 1]))
        pushed = (surrogate - score).detach() / factor
        assert torch.allclose(pushed, pushed[:1].expand(2), rtol=1e-4)
    (gradient,) = torch.autograd.grad((surrogate - score).sum(), activation)
    # Likeness does not change with the length of the activations, so no gradient lengthens them.
    assert (gradient * activation).sum().abs() < 1e-3 * gradient.norm() * activation.norm()
