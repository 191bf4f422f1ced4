"""The loop, alone: gradient ascent of many images for many channels in one batch.

Nothing here mixes samples: scores are (B,), the sum of scores is ascended, so the gradient of one
sample does not depend on how many others there are, and optimizers keep to the rows of samples.
Nothing here waits for the device: what a step reads and writes stays there.
"""

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from layer_atlas.config.inputs import Find, nowhere
from layer_atlas.config.recipe import Recipe, snapshot_steps, trace_steps
from layer_atlas.models.colours import to_bytes
from layer_atlas.models.forwards import Forward
from layer_atlas.visualization import rng
from layer_atlas.visualization.gradients import LeakyGradient, PolyphaseStem
from layer_atlas.visualization.objectives import Objective
from layer_atlas.visualization.optimization.cuda_graphs import Graphs, capture
from layer_atlas.visualization.optimization.optimizers import make_batch_optimizer
from layer_atlas.visualization.optimization.regularizers import (
    blur,
    blur_width,
    clipped,
    pulled_back,
)
from layer_atlas.visualization.parameterizations import make_parameterization
from layer_atlas.visualization.parameterizations.base import Parameterization
from layer_atlas.visualization.transforms import draw_views, see


@dataclass(frozen=True)
class OptimizedBatch:
    """What the loop hands back for a batch of B samples."""

    images: Tensor
    """(B, C, H, W) float32 in [0, 1]."""
    values: Tensor
    """The same before colours and sigmoid."""
    finite: Tensor
    """(B,) bool: False where a score or a gradient was not finite at some step."""
    trace: Tensor
    """(B, T) float32: scores of the transformed views during ascent, without regularizers."""
    alpha: Tensor | None = None
    """(B, H, W) uint8, opacity: where the score's gradient fell; None unless the recipe wants it.
    """
    snapshot: Tensor | None = None
    """(B, N, H, W, C) uint8: the images on the way; None unless the recipe wants them."""


@dataclass(frozen=True)
class Jobs:
    """What differs between batches, of B jobs or of the samples that they consist of."""

    keys: Tensor
    """(B, 2) int64, random keys."""
    targets: Tensor
    """(B,) int64, what each image is for."""
    dataset_images: Tensor | None = None
    """(B, C, H, W) in [0, 1], which `init=dataset` starts from."""
    values: Tensor | None = None
    """(B, C, H, W), images before colours and sigmoid to start from, whatever the recipe says."""

    def some(self, positions: Tensor) -> "Jobs":
        """The jobs at some positions (M,), in that order."""
        rows = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{k: row[positions] for k, row in rows.items() if row is not None})

    def with_variants(self, variants: int) -> "Jobs":
        """A sample for each variant of each job, one job after the other: (B * V, ...)."""
        if variants == 1:
            return self
        samples = self.some(torch.arange(len(self.keys)).repeat_interleave(variants))
        keys = [rng.derived(self.keys, rng.VARIANT, number) for number in range(variants)]
        return replace(samples, keys=torch.stack(keys, dim=1).flatten(0, 1))


class OptimizationLoop(Protocol):
    """Finds images for one layer, a batch of samples at a time."""

    def optimize(self, jobs: Jobs, on_step: Callable[[int], None]) -> OptimizedBatch:
        """Find for each sample the image that its target responds to most.

        Args:
            jobs: the samples.
            on_step: told the number of each step, once it is under way.
        Raises:
            ValueError: `init=dataset` without photographs.
        """
        ...


Start = Callable[[Recipe, Jobs], Parameterization]
"""The images of some samples as the ascent by a recipe begins."""


def started(recipe: Recipe, jobs: Jobs, colours: int = 3, find: Find = nowhere) -> Parameterization:
    """The images of some samples as the ascent begins; raises ValueError as `ascend` does.

    Args:
        recipe: how to begin.
        jobs: the samples.
        colours: of the images.
        find: the files that the recipe refers to.
    """
    images = make_parameterization(recipe, colours, jobs.keys, jobs.dataset_images, find)
    if jobs.values is not None:
        images.encode(jobs.values)
    return images


class GradientAscent:
    """Finds images for one layer, a batch of samples at a time.

    Batches of the same size share tensors, and on a GPU the graphs of their steps.

    Args:
        forward: the network up to the layers; must treat every sample for itself.
        objective: scores of the activations.
        recipe: how to do it.
        start: how to begin; `started`, told what it must know besides.
    """

    def __init__(
        self, forward: Forward, objective: Objective, recipe: Recipe, start: Start = started
    ) -> None:
        self.forward, self.objective, self.recipe, self.start = forward, objective, recipe, start
        self._batch: _Batch | None = None

    def optimize(
        self, jobs: Jobs, on_step: Callable[[int], None] = lambda step: None
    ) -> OptimizedBatch:
        """Find for each sample the image that excites its target most; see `OptimizationLoop`."""
        batch = self._start(jobs)
        kept = snapshot_steps(self.recipe)
        frames = [batch.frame()] if kept else []
        for step in range(self.recipe.optimizer.steps):
            batch.step(step)
            on_step(step)
            if step + 1 in kept:
                frames.append(batch.frame())
        return replace(batch.result(), snapshot=torch.stack(frames, dim=1) if frames else None)

    def _start(self, jobs: Jobs) -> "_Batch":
        if self._batch is not None and len(self._batch.targets) == len(jobs.targets):
            self._batch.restart(jobs)
        else:
            self._batch = None  # its memory is needed
            self._batch = _Batch(self.forward, self.objective, self.recipe, self.start, jobs)
        return self._batch


class _Batch:
    """The tensors of a batch on its way up."""

    def __init__(
        self,
        forward: Forward,
        objective: Objective,
        recipe: Recipe,
        start: Start,
        jobs: Jobs,
    ) -> None:
        self.forward, self.objective, self.recipe = forward, objective, recipe
        keys = jobs.keys
        self.targets = jobs.targets.clone()
        self.start, self.images = start, start(recipe, jobs)
        (self.parameters,) = self.images.parameters()
        self.optimizer_step = make_batch_optimizer(self.parameters, recipe.optimizer)
        self.views = self._draw(keys)
        self.view = torch.empty_like(self.views[0])
        self.blur = torch.zeros((), device=keys.device)
        self.attribution = torch.zeros((len(keys), *recipe.image_size), device=keys.device)
        self.finite = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
        self.trace = torch.empty(len(self.views), len(keys), device=keys.device)
        self.graphs = (
            self._captured(jobs) if keys.is_cuda and not self.optimizer_step.waits else None
        )

    def restart(self, jobs: Jobs) -> None:
        """Put other jobs in the place of these: graphs know tensors by where they lie."""
        self.targets.copy_(jobs.targets)
        self.views.copy_(self._draw(jobs.keys))
        fresh = self.start(self.recipe, jobs)
        with torch.no_grad():
            for mine, new in zip(self.images.parameters(), fresh.parameters(), strict=True):
                mine.copy_(new)
        self.optimizer_step.restart()
        self.attribution.zero_()
        self.finite.fill_(True)

    def step(self, number: int) -> None:
        """One step of ascent for all samples."""
        settings = self.recipe.optimizer
        self.view.copy_(self.views[number])
        self.blur.fill_(blur_width(self.recipe.regularizers, number, settings.steps))
        self.optimizer_step.begin(number)
        leaky = settings.leaks(number)
        self.trace[number] = self.graphs.replay(leaky) if self.graphs else self._move(leaky)

    def result(self) -> OptimizedBatch:
        """The images as they are now."""
        recorded = trace_steps(self.recipe.optimizer.steps)
        trace = self.trace[recorded].mT.contiguous()
        alpha = opacity(self.attribution) if self.recipe.parameterization.alpha else None
        with torch.no_grad():
            values = self.images.values().clone()
            return OptimizedBatch(self.images(), values, self.finite.clone(), trace, alpha)

    @torch.no_grad()
    def frame(self) -> Tensor:
        """The images as they are now: (B, H, W, C) uint8."""
        return to_bytes(self.images())

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
        self.optimizer_step.step(here.surrogate, lambda: self._evaluate(leaky).surrogate)
        self.images.constrain_()
        if self.recipe.regularizers.blur > 0:
            blur(self.images, self.blur, self.recipe.image_size)
        return here.scores

    def _evaluate(self, leaky: bool) -> "_Evaluation":
        """What the images are worth as they are; sets the gradient of their parameters."""
        rendered = self.images()
        seen = rendered.detach().requires_grad_()
        scores, surrogate = self._scores(seen, leaky)
        (gradient,) = torch.autograd.grad(surrogate.sum(), seen)
        followed = pulled_back(self.recipe.regularizers, seen.detach(), gradient)
        finite = self._set_gradient(rendered, followed, surrogate)
        return _Evaluation(scores.detach(), surrogate.detach(), gradient, finite)

    def _scores(self, images: Tensor, leaky: bool) -> tuple[Tensor, Tensor]:
        """Scores (B,) of the images as they are seen at this step, and what is climbed (B,)."""
        with ExitStack() as gradients:
            gradients.enter_context(PolyphaseStem())
            if leaky:
                gradients.enter_context(LeakyGradient(self.recipe.optimizer.leaky_slope))
            activations = self.forward(see(self.recipe.transforms, images, self.view))
            return self.objective.surrogate(activations, self.targets)

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
    surrogate: Tensor
    """(B,), what the ascent follows."""
    gradient: Tensor
    """(B, C, H, W) of what is climbed at the images, without regularizers."""
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
