"""Objectives: the known score, and a sample that reads nothing but its own activation."""

import torch
from toys import channel_mean

OBJECTIVE = channel_mean()


def test_score_is_the_mean_of_the_channel_over_all_positions() -> None:
    activation = torch.tensor([[[1.0, 2.0, 6.0], [9.0, 9.0, 9.0]], [[0.0, 0.0, 0.0], [-1, 0, 4]]])
    channel = torch.tensor([0, 1])
    assert OBJECTIVE.score([activation], channel).tolist() == [3.0, 1.0]
    assert OBJECTIVE.responses([activation], channel).tolist() == [
        [1.0, 2.0, 6.0],
        [-1.0, 0.0, 4.0],
    ]


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
