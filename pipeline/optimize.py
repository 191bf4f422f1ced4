"""The loop, alone: gradient ascent of many images for many channels in one batch.

Nothing here mixes samples: scores are (B,), the sum of scores is ascended, so the gradient of one
sample does not depend on how many others there are, and Adam works element by element.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pipeline.gradients import LeakyGradient
from pipeline.objectives import Objective
from pipeline.parameterizations import make_parameterization
from pipeline.recipe import Adam, Recipe, trace_steps
from pipeline.transforms import draw_views, warp

Responses = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W) in [0, 1] to activations (B, C, L) of the layer."""


@dataclass(frozen=True)
class Ascent:
    """What the loop hands back for a batch of B jobs."""

    images: Tensor
    """(B, 3, H, W) float32 in [0, 1]."""
    finite: Tensor
    """(B,) bool: False where a score or a gradient was not finite at some step."""
    trace: Tensor
    """(B, T) float32: scores of the transformed views during ascent."""


def ascend(
    responses: Responses,
    objective: Objective,
    recipe: Recipe,
    keys: Tensor,
    channels: Tensor,
    on_step: Callable[[int], None] = lambda step: None,
) -> Ascent:
    """Find for each job the image that its target responds to most.

    Args:
        responses: the network up to the layer; must treat every sample for itself.
        objective: scores of the activations.
        recipe: how to do it.
        keys: (B, 2) int64, random keys of the jobs.
        channels: (B,) int64, target channel of each job.
        on_step: told the number of each finished step.
    """
    settings = recipe.optimizer
    images = make_parameterization(recipe, keys)
    views = draw_views(recipe.transforms, keys, settings.steps, recipe.image_size)
    adam = _optimizer(images, settings)
    finite = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
    recorded, trace = set(trace_steps(settings.steps)), []
    for step in range(settings.steps):
        _set_learning_rate(adam, settings, step)
        leaky = step < settings.leaky_steps and settings.leaky_slope > 0
        with LeakyGradient(settings.leaky_slope) if leaky else nullcontext():
            scores = objective.score(responses(warp(images(), views[step])), channels)
        finite &= _set_gradients(images, scores)
        adam.step()
        if step in recorded:
            trace.append(scores.detach())
        on_step(step)
    with torch.no_grad():
        return Ascent(images(), finite, torch.stack(trace, dim=1))


def _optimizer(images: nn.Module, settings: Adam) -> torch.optim.Adam:
    # The one place that says "up": every score is maximised.
    betas = (settings.beta1, settings.beta2)
    return torch.optim.Adam(images.parameters(), betas=betas, eps=1e-12, maximize=True, fused=True)


def _set_learning_rate(adam: torch.optim.Adam, settings: Adam, step: int) -> None:
    """Half a cosine from the first to the final learning rate."""
    progress = step / max(settings.steps - 1, 1)
    first, last = settings.learning_rate, settings.final_learning_rate
    rate = last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * progress))
    for group in adam.param_groups:
        group["lr"] = rate


def _set_gradients(images: nn.Module, scores: Tensor) -> Tensor:
    """Gradients of the scores, zero for samples where they are not finite; tells which: (B,)."""
    parameters = list(images.parameters())
    gradients = torch.autograd.grad(scores.sum(), parameters)
    finite = torch.isfinite(scores.detach())
    for gradient in gradients:
        finite &= torch.isfinite(gradient.flatten(1).sum(dim=1))
    for parameter, gradient in zip(parameters, gradients, strict=True):
        keep = finite.view((-1,) + (1,) * (gradient.ndim - 1))
        parameter.grad = gradient.nan_to_num_(0.0, 0.0, 0.0).mul_(keep)
    return finite
