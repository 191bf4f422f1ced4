"""The loop, alone: gradient ascent of many images for many channels in one batch.

Nothing here mixes samples: scores are (B,), the sum of scores is ascended, so the gradient of one
sample does not depend on how many others there are, and optimizers keep to the rows of samples.
Nothing here waits for the device: what a step reads and writes stays there.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.gradients import LeakyGradient, PolyphaseStem
from pipeline.objectives import Objective
from pipeline.optimizers import make_stepper
from pipeline.parameterizations import make_parameterization
from pipeline.recipe import Recipe, trace_steps
from pipeline.regularizers import blur, blur_width, clipped, pulled_back
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
    """(B, T) float32: scores of the transformed views during ascent, without regularizers."""
    alpha: Tensor | None = None
    """(B, H, W) uint8, opacity: where the score's gradient fell; None unless the recipe wants it.
    """


@dataclass(frozen=True)
class Jobs:
    """What differs between batches."""

    keys: Tensor
    """(B, 2) int64, random keys of the jobs."""
    channels: Tensor
    """(B,) int64, target channel of each job."""
    photographs: Tensor | None
    """(B, 3, H, W) in [0, 1], which `init=dataset` starts from."""

    def some(self, positions: Tensor) -> "Jobs":
        """The jobs at some positions (M,), in that order."""
        photographs = None if self.photographs is None else self.photographs[positions]
        return Jobs(self.keys[positions], self.channels[positions], photographs)


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
        self,
        keys: Tensor,
        channels: Tensor,
        on_step: Callable[[int], None] = lambda step: None,
        photographs: Tensor | None = None,
    ) -> Ascent:
        """Find for each job the image that its target responds to most.

        Args:
            keys: (B, 2) int64, random keys of the jobs.
            channels: (B,) int64, target channel of each job.
            on_step: told the number of each step, once it is under way.
            photographs: (B, 3, H, W) in [0, 1], which `init=dataset` starts from.
        Raises:
            ValueError: `init=dataset` without photographs.
        """
        batch = self._start(Jobs(keys, channels, photographs))
        for step in range(self.recipe.optimizer.steps):
            batch.step(step)
            on_step(step)
        return batch.result()

    def _start(self, jobs: Jobs) -> "_Batch":
        if self._batch is not None and len(self._batch.channels) == len(jobs.channels):
            self._batch.restart(jobs)
        else:
            self._batch = None  # its memory is needed
            self._batch = _Batch(self.responses, self.objective, self.recipe, jobs)
        return self._batch


class _Batch:
    """The tensors of a batch on its way up."""

    def __init__(
        self, responses: Responses, objective: Objective, recipe: Recipe, jobs: Jobs
    ) -> None:
        self.responses, self.objective, self.recipe = responses, objective, recipe
        keys = jobs.keys
        self.channels = jobs.channels.clone()
        self.images = make_parameterization(recipe, keys, jobs.photographs)
        (self.parameters,) = self.images.parameters()
        self.stepper = make_stepper(self.parameters, recipe.optimizer)
        self.views = self._draw(keys)
        self.view = torch.empty_like(self.views[0])
        self.blur = torch.zeros((), device=keys.device)
        self.attribution = torch.zeros(
            (len(keys), recipe.image_size, recipe.image_size), device=keys.device
        )
        self.finite = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
        self.trace = torch.empty(len(self.views), len(keys), device=keys.device)
        self.graphs = self._captured(jobs) if keys.is_cuda and not self.stepper.waits else None

    def restart(self, jobs: Jobs) -> None:
        """Put other jobs in the place of these: graphs know tensors by where they lie."""
        self.channels.copy_(jobs.channels)
        self.views.copy_(self._draw(jobs.keys))
        fresh = make_parameterization(self.recipe, jobs.keys, jobs.photographs)
        with torch.no_grad():
            for mine, new in zip(self.images.parameters(), fresh.parameters(), strict=True):
                mine.copy_(new)
        self.stepper.restart()
        self.attribution.zero_()
        self.finite.fill_(True)

    def step(self, number: int) -> None:
        """One step of ascent for all samples."""
        settings = self.recipe.optimizer
        self.view.copy_(self.views[number])
        self.blur.fill_(blur_width(self.recipe.regularizers, number, settings.steps))
        self.stepper.begin(number)
        leaky = settings.leaks(number)
        self.trace[number] = self.graphs.replay(leaky) if self.graphs else self._move(leaky)

    def result(self) -> Ascent:
        """The images as they are now."""
        recorded = trace_steps(self.recipe.optimizer.steps)
        trace = self.trace[recorded].mT.contiguous()
        alpha = opacity(self.attribution) if self.recipe.parameterization.alpha else None
        with torch.no_grad():
            return Ascent(self.images(), self.finite.clone(), trace, alpha)

    def _captured(self, jobs: Jobs) -> Graphs | None:
        """The step as CUDA graphs, with and without the leak."""
        both = (True, False)
        self.view.copy_(self.views[0])
        for leaky in both:
            self._move(leaky)
        graphs = capture(self._move, both)
        self.restart(jobs)
        return graphs

    def _draw(self, keys: Tensor) -> Tensor:
        recipe = self.recipe
        return draw_views(recipe.transforms, keys, recipe.optimizer.steps, recipe.image_size)

    def _move(self, leaky: bool) -> Tensor:
        """Climb once along the gradient; returns the scores before: (B,)."""
        here = self._evaluate(leaky)
        if self.recipe.parameterization.alpha:
            self.attribution += here.gradient.abs().mean(dim=1).nan_to_num_(0.0, 0.0, 0.0)
        self.finite &= here.finite
        self.stepper.step(here.scores, lambda: self._evaluate(leaky).scores)
        if self.recipe.regularizers.blur > 0:
            blur(self.images, self.blur, self.recipe.image_size)
        return here.scores

    def _evaluate(self, leaky: bool) -> "_Evaluation":
        """What the images are worth as they are; sets the gradient of their parameters."""
        rendered = self.images()
        seen = rendered.detach().requires_grad_()
        scores = self._scores(seen, leaky)
        (gradient,) = torch.autograd.grad(scores.sum(), seen)
        climbed = pulled_back(self.recipe.regularizers, seen.detach(), gradient)
        finite = self._set_gradient(rendered, climbed, scores)
        return _Evaluation(scores.detach(), gradient, finite)

    def _scores(self, images: Tensor, leaky: bool) -> Tensor:
        """Scores (B,) of the images as they are seen at this step."""
        with ExitStack() as gradients:
            gradients.enter_context(PolyphaseStem())
            if leaky:
                gradients.enter_context(LeakyGradient(self.recipe.optimizer.leaky_slope))
            activation = self.responses(warp(images, self.view))
            return self.objective.score(activation, self.channels)

    def _set_gradient(self, rendered: Tensor, at_image: Tensor, scores: Tensor) -> Tensor:
        """The parameters' gradient, zero where it is not finite; returns where it is: (B,)."""
        (gradient,) = torch.autograd.grad(rendered, self.parameters, at_image)
        finite = torch.isfinite(scores.detach()) & torch.isfinite(gradient.sum(dim=1))
        gradient = gradient.nan_to_num_(0.0, 0.0, 0.0).mul_(finite[:, None])
        clip = self.recipe.regularizers.clip
        self.parameters.grad = clipped(gradient, clip) if clip > 0 else gradient
        return finite


@dataclass(frozen=True)
class _Evaluation:
    """What the images of a batch are worth where they are."""

    scores: Tensor
    """(B,), not finite where they are not."""
    gradient: Tensor
    """(B, C, H, W) of the scores at the images, without regularizers."""
    finite: Tensor
    """(B,) bool: where score and gradient are."""


def opacity(attribution: Tensor) -> Tensor:
    """Accumulated gradients (B, H, W) as opacity (B, H, W) uint8.

    After the attribution-based transparency of Fel et al. 2023, MACO: an image matters where the
    score's gradient at the image, absolute, averaged over colours and summed over the ascent, is
    large. The strongest percent of the pixels of each image are fully opaque.
    """
    flat = attribution.flatten(1)
    rank = math.ceil(0.99 * flat.shape[1])
    full = flat.kthvalue(rank, dim=1).values.clamp_min(1e-30)
    return (attribution / full.view(-1, 1, 1)).clamp_(0.0, 1.0).mul_(255.0).round_().to(torch.uint8)
