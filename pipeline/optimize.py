"""The loop, alone: gradient ascent of many images for many channels in one batch.

Nothing here mixes samples: scores are (B,), the sum of scores is ascended, so the gradient of one
sample does not depend on how many others there are, and Adam works element by element. Nothing
here waits for the device: what a step reads and writes stays there.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.gradients import LeakyGradient, PolyphaseStem
from pipeline.objectives import Objective
from pipeline.parameterizations import make_parameterization
from pipeline.recipe import Adam, Recipe, trace_steps
from pipeline.replay import Graphs, capture
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


class Climber:
    """Finds images for one layer, a batch of jobs at a time.

    Batches of the same size share tensors, and on a GPU the graphs of their steps.

    Args:
        responses: the network up to the layer; must treat every sample for itself.
        objective: scores of the activations.
        recipe: how to do it.
    """

    def __init__(self, responses: Responses, objective: Objective, recipe: Recipe) -> None:
        self.responses, self.objective, self.recipe = responses, objective, recipe
        self._batch: _Batch | None = None

    def ascend(
        self, keys: Tensor, channels: Tensor, on_step: Callable[[int], None] = lambda step: None
    ) -> Ascent:
        """Find for each job the image that its target responds to most.

        Args:
            keys: (B, 2) int64, random keys of the jobs.
            channels: (B,) int64, target channel of each job.
            on_step: told the number of each step, once it is under way.
        """
        batch = self._start(keys, channels)
        for step in range(self.recipe.optimizer.steps):
            batch.step(step)
            on_step(step)
        return batch.result()

    def _start(self, keys: Tensor, channels: Tensor) -> "_Batch":
        if self._batch is not None and len(self._batch.channels) == len(channels):
            self._batch.restart(keys, channels)
        else:
            self._batch = None  # its memory is needed
            self._batch = _Batch(self.responses, self.objective, self.recipe, keys, channels)
        return self._batch


class _Batch:
    """The tensors of a batch on its way up."""

    def __init__(
        self,
        responses: Responses,
        objective: Objective,
        recipe: Recipe,
        keys: Tensor,
        channels: Tensor,
    ) -> None:
        self.responses, self.objective, self.recipe = responses, objective, recipe
        self.channels = channels.clone()
        self.images = make_parameterization(self.recipe, keys)
        self.adam = _optimizer(list(self.images.parameters()), self.recipe.optimizer)
        self.views = self._draw(keys)
        self.view = torch.empty_like(self.views[0])
        self.finite = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
        self.trace = torch.empty(len(self.views), len(keys), device=keys.device)
        self.graphs = self._captured(keys) if keys.is_cuda else None

    def restart(self, keys: Tensor, channels: Tensor) -> None:
        """Put other jobs in the place of these: graphs know tensors by where they lie."""
        self.channels.copy_(channels)
        self.views.copy_(self._draw(keys))
        fresh = make_parameterization(self.recipe, keys)
        with torch.no_grad():
            for mine, new in zip(self.images.parameters(), fresh.parameters(), strict=True):
                mine.copy_(new)
        for state in self.adam.state.values():
            for tensor in state.values():
                tensor.zero_()
        self.finite.fill_(True)

    def step(self, number: int) -> None:
        """One step of ascent for all samples."""
        settings = self.recipe.optimizer
        self.view.copy_(self.views[number])
        _set_learning_rate(self.adam, settings, number)
        leaky = number < settings.leaky_steps and settings.leaky_slope > 0
        self.trace[number] = self.graphs.replay(leaky) if self.graphs else self._move(leaky)

    def result(self) -> Ascent:
        """The images as they are now."""
        recorded = trace_steps(self.recipe.optimizer.steps)
        with torch.no_grad():
            return Ascent(self.images(), self.finite.clone(), self.trace[recorded].mT.contiguous())

    def _captured(self, keys: Tensor) -> Graphs | None:
        """The step as CUDA graphs, with and without the leak."""
        both = (True, False)
        self.view.copy_(self.views[0])
        for leaky in both:
            self._move(leaky)
        graphs = capture(self._move, both)
        self.restart(keys, self.channels)
        return graphs

    def _draw(self, keys: Tensor) -> Tensor:
        recipe = self.recipe
        return draw_views(recipe.transforms, keys, recipe.optimizer.steps, recipe.image_size)

    def _move(self, leaky: bool) -> Tensor:
        """Climb once along the gradient; returns the scores before: (B,)."""
        with ExitStack() as gradients:
            gradients.enter_context(PolyphaseStem())
            if leaky:
                gradients.enter_context(LeakyGradient(self.recipe.optimizer.leaky_slope))
            activation = self.responses(warp(self.images(), self.view))
            scores = self.objective.score(activation, self.channels)
        self._set_gradients(scores)
        self.adam.step()
        return scores.detach()

    def _set_gradients(self, scores: Tensor) -> None:
        """Gradients of the scores; zero, from now on noted, for samples where not finite."""
        parameters = list(self.images.parameters())
        gradients = torch.autograd.grad(scores.sum(), parameters)
        finite = torch.isfinite(scores.detach())
        for gradient in gradients:
            finite &= torch.isfinite(gradient.flatten(1).sum(dim=1))
        for parameter, gradient in zip(parameters, gradients, strict=True):
            keep = finite.view((-1,) + (1,) * (gradient.ndim - 1))
            parameter.grad = gradient.nan_to_num_(0.0, 0.0, 0.0).mul_(keep)
        self.finite &= finite


def _optimizer(parameters: list[torch.nn.Parameter], settings: Adam) -> torch.optim.Adam:
    # The one place that says "up": every score is maximised.
    on_gpu = parameters[0].is_cuda
    return torch.optim.Adam(
        parameters,
        # On a GPU a graph reads the rate from where it lies.
        lr=torch.zeros((), device=parameters[0].device) if on_gpu else 0.0,
        betas=(settings.beta1, settings.beta2),
        eps=1e-12,
        maximize=True,
        fused=True,
        capturable=on_gpu,
    )


def _set_learning_rate(adam: torch.optim.Adam, settings: Adam, step: int) -> None:
    """Half a cosine from the first to the final learning rate."""
    progress = step / max(settings.steps - 1, 1)
    first, last = settings.learning_rate, settings.final_learning_rate
    rate = last + (first - last) * 0.5 * (1.0 + math.cos(math.pi * progress))
    for group in adam.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
