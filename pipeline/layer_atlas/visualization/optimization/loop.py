"""The optimization loop: gradient ascent of many images for many targets in one batch.

Samples never mix: scores are (B,) and their sum is maximized, so the gradient of one sample does
not depend on the number of others, and optimizers work per row. No step waits for the device: its
inputs and outputs stay there.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from layer_atlas.config.inputs import Find, nowhere
from layer_atlas.config.recipe import Growth, Recipe, snapshot_steps, trace_steps
from layer_atlas.models.forwards import Forward
from layer_atlas.models.pixels import resized, to_bytes
from layer_atlas.visualization import rng
from layer_atlas.visualization.gradients import LeakyGradient, PolyphaseStem
from layer_atlas.visualization.objectives import Objective
from layer_atlas.visualization.optimization.cuda_graphs import Graphs, are_graphs_on, capture
from layer_atlas.visualization.optimization.optimizers import make_batch_optimizer
from layer_atlas.visualization.optimization.regularizers import (
    FeatureStatistics,
    blur,
    blur_width,
    clipped,
    regularized_gradient,
)
from layer_atlas.visualization.parameterizations import make_parameterization
from layer_atlas.visualization.parameterizations.base import Parameterization
from layer_atlas.visualization.transforms import apply_views, draw_views


@dataclass(frozen=True)
class OptimizedBatch:
    """The result of the loop for a batch of B samples."""

    images: Tensor
    """(B, C, H, W) float32 in [0, 1]."""
    values: Tensor
    """The values of these images, before colours and sigmoid."""
    finite: Tensor
    """(B,) bool: False where a score or a gradient was not finite at any step."""
    trace: Tensor
    """(B, T) float32: scores of the transformed views at recorded steps, without regularizers."""
    alpha: Tensor | None = None
    """(B, H, W) uint8, opacity by accumulated gradients; None unless the recipe requests it."""
    snapshot: Tensor | None = None
    """(B, N, H, W, C) uint8: intermediate images; None unless the recipe requests them."""


@dataclass(frozen=True)
class Jobs:
    """The inputs that differ between batches, for B jobs or for their samples."""

    keys: Tensor
    """(B, 2) int64, random keys."""
    targets: Tensor
    """(B,) int64, the target of each image."""
    dataset_images: Tensor | None = None
    """(B, C, H, W) in [0, 1], the initial images of `init=dataset`."""
    values: Tensor | None = None
    """(B, C, H, W), initial values before colours and sigmoid; they override `init`."""
    references: tuple[Tensor, ...] = ()
    """(B, ...) each, what the objective compares with."""

    def select(self, indices: Tensor) -> "Jobs":
        """Return the jobs at some indices (M,), in that order."""
        rows = {field.name: getattr(self, field.name) for field in fields(self)}
        references = tuple(row[indices] for row in rows.pop("references"))
        selected = {k: row[indices] for k, row in rows.items() if row is not None}
        return replace(self, **selected, references=references)

    def with_variants(self, variants: int) -> "Jobs":
        """Return a sample for each variant of each job, job by job: (B * V, ...)."""
        if variants == 1:
            return self
        samples = self.select(torch.arange(len(self.keys)).repeat_interleave(variants))
        # Variant 0 keeps the job's own key, so that it equals the image of a recipe with one
        # variant.
        keys = [rng.derived(self.keys, rng.VARIANT, number) for number in range(variants)]
        return replace(samples, keys=torch.stack(keys, dim=1).flatten(0, 1))


class OptimizationLoop(Protocol):
    """Optimizes images for one layer, a batch of samples at a time."""

    def optimize(self, jobs: Jobs, on_step: Callable[[int], None]) -> OptimizedBatch:
        """Optimize an image for the target of each sample.

        Args:
            jobs: the samples.
            on_step: called with the number of each step once it is launched.
        Raises:
            ValueError: `init=dataset` without dataset images.
        """
        ...


Start = Callable[[Recipe, Jobs], Parameterization]
"""Function of a recipe and jobs that returns their initial images."""


def initial_images(
    recipe: Recipe, jobs: Jobs, colours: int = 3, find: Find = nowhere
) -> Parameterization:
    """Return the initial images of some samples.

    Args:
        recipe: parameterization, initial state and mask.
        jobs: the samples.
        colours: number of colours of the images.
        find: resolves the files that the recipe refers to.
    Raises:
        ValueError: `init=dataset` without dataset images.
    """
    images = make_parameterization(recipe, colours, jobs.keys, jobs.dataset_images, find)
    if jobs.values is not None:
        images.encode(jobs.values)
    return images


@dataclass(frozen=True)
class Scores:
    """The scores of images, and what the optimization maximizes."""

    forward: Forward
    """The network up to the layers; it must treat every sample independently."""
    objective: Objective
    """Scores of the activations."""
    prior: FeatureStatistics | None = None
    """Prior of feature statistics; the forward returns its layers after the others."""

    def __call__(
        self, images: Tensor, targets: Tensor, references: Sequence[Tensor] = ()
    ) -> tuple[Tensor, Tensor]:
        """Return the scores (B,) and surrogates (B,) of views (B, C, H, W)."""
        activations = self.forward(images)
        if self.prior is None:
            return self.objective.surrogate((*activations, *references), targets)
        read = activations[: -self.prior.n_layers]
        scores, surrogate = self.objective.surrogate((*read, *references), targets)
        features = activations[-self.prior.n_layers :]
        return scores, self.prior.regularized(surrogate, read, features)


class GradientAscent:
    """Optimizes images for one layer by gradient ascent, a batch of samples at a time.

    Batches of the same size share tensors and, on a GPU, the CUDA graphs of their steps.

    Args:
        scores: what is maximized.
        recipe: the recipe.
        start: builds the initial images; `initial_images` with its further arguments bound.
        steps: those of the recipe's steps that are taken; None: all.
    """

    def __init__(
        self,
        scores: Scores,
        recipe: Recipe,
        start: Start = initial_images,
        steps: range | None = None,
    ) -> None:
        self.scores, self.recipe, self.start = scores, recipe, start
        self.steps = range(recipe.optimizer.steps) if steps is None else steps
        self._batch: _Batch | None = None

    def optimize(
        self, jobs: Jobs, on_step: Callable[[int], None] = lambda step: None
    ) -> OptimizedBatch:
        """Optimize an image for the target of each sample; see `OptimizationLoop`."""
        batch = self._start(jobs)
        snapshots_at = snapshot_steps(self.recipe)
        frames = [batch.frame()] if snapshots_at and self.steps.start == 0 else []
        for step in self.steps:
            batch.step(step)
            on_step(step)
            if step + 1 in snapshots_at:
                frames.append(batch.frame())
        return replace(batch.result(), snapshot=torch.stack(frames, dim=1) if frames else None)

    def forward(self, jobs: Jobs) -> None:
        """Run the forward half of a step: all that autograd saves of a batch, it saves there."""
        self._start(jobs).forward()

    def _start(self, jobs: Jobs) -> "_Batch":
        if self._batch is not None and len(self._batch.targets) == len(jobs.targets):
            self._batch.restart(jobs)
        else:
            self._batch = None  # freed before the new batch is allocated
            self._batch = _Batch(self.scores, self.recipe, self.start, jobs, self.steps)
        return self._batch


class _Batch:
    """The tensors of a batch during its optimization."""

    def __init__(
        self, scores: Scores, recipe: Recipe, start: Start, jobs: Jobs, steps: range
    ) -> None:
        self.scores, self.recipe, self.steps = scores, recipe, steps
        keys = jobs.keys
        # Clones, because `restart` writes into them.
        self.targets = jobs.targets.clone()
        self.references = tuple(map(torch.clone, jobs.references))
        self.start, self.images = start, start(recipe, jobs)
        (self.parameters,) = self.images.parameters()
        self.optimizer_step = make_batch_optimizer(self.parameters, recipe.optimizer)
        self.views = self._draw(keys)
        self.view = torch.empty_like(self.views[0])
        self.blur = torch.zeros((), device=keys.device)
        self.attribution = torch.zeros((len(keys), *recipe.image_size), device=keys.device)
        self.closed = torch.zeros(len(keys), device=keys.device)
        self.finite = torch.ones(len(keys), dtype=torch.bool, device=keys.device)
        self.trace = torch.empty(len(self.views), len(keys), device=keys.device)
        self.graphs = self._captured(jobs) if self._is_worth_capturing(keys.device) else None

    def restart(self, jobs: Jobs) -> None:
        """Load other jobs into the same tensors: CUDA graphs refer to memory addresses."""
        self.targets.copy_(jobs.targets)
        for reference, new in zip(self.references, jobs.references, strict=True):
            reference.copy_(new)
        self.views.copy_(self._draw(jobs.keys))
        fresh = self.start(self.recipe, jobs)
        with torch.no_grad():
            for mine, new in zip(self.images.parameters(), fresh.parameters(), strict=True):
                mine.copy_(new)
        self.optimizer_step.restart()
        self.attribution.zero_()
        self.finite.fill_(True)

    def step(self, number: int) -> None:
        """Run one optimization step for all samples."""
        place = number - self.steps.start
        self._load(place)
        # An image that was just enlarged may have lost its response.
        leaky = self.recipe.optimizer.leaks(place)
        self.trace[place] = self.graphs.replay(leaky) if self.graphs else self._update(leaky)

    def forward(self) -> None:
        """Run the forward half of the first step."""
        self._load(0)
        self._scores(self.images(), self.recipe.optimizer.leaks(0))

    def result(self) -> OptimizedBatch:
        """Return the current images and the records of the optimization."""
        recorded = [n for n in trace_steps(self.recipe.optimizer.steps) if n in self.steps]
        trace = self.trace[[n - self.steps.start for n in recorded]].mT.contiguous()
        alpha = opacity(self.attribution) if self.recipe.parameterization.alpha else None
        with torch.no_grad():
            values = self.images.values().clone()
            return OptimizedBatch(self.images(), values, self.finite.clone(), trace, alpha)

    @torch.no_grad()
    def frame(self) -> Tensor:
        """Return the current images: (B, H, W, C) uint8."""
        return to_bytes(self.images())

    def _load(self, place: int) -> None:
        """Load what differs between steps into fixed tensors, which the graphs read."""
        number = self.steps.start + place
        self.view.copy_(self.views[place])
        self.blur.fill_(blur_width(self.recipe.regularizers, number, self.recipe.optimizer.steps))
        self.optimizer_step.begin(number)

    def _is_worth_capturing(self, device: torch.device) -> bool:
        # Capturing runs the step four times.
        enough = len(self.steps) > 4 and not self.optimizer_step.waits
        return device.type == "cuda" and enough and are_graphs_on()

    def _captured(self, jobs: Jobs) -> Graphs | None:
        """Capture the step as CUDA graphs, with and without the leak where there are such steps."""
        leaks = self.recipe.optimizer.leaks
        kinds = sorted({leaks(place) for place in range(len(self.steps))}, reverse=True)
        self.view.copy_(self.views[0])
        for leaky in kinds:
            self._update(leaky)  # warm-up: libraries initialise themselves here
        graphs = capture(self._update, kinds)
        self.restart(jobs)  # undoes the warm-up steps
        return graphs

    def _draw(self, keys: Tensor) -> Tensor:
        recipe = self.recipe
        views = draw_views(recipe.transforms, keys, recipe.optimizer.steps, recipe.image_size)
        return views[self.steps.start : self.steps.stop]

    def _update(self, leaky: bool) -> Tensor:
        """Run one step along the gradient; return the scores (B,) before it."""
        current = self._evaluate(leaky)
        if self.recipe.parameterization.alpha:
            self.attribution += current.gradient.abs().mean(dim=1).nan_to_num_(0.0, 0.0, 0.0)
        self.finite &= current.finite
        self.optimizer_step.step(current.surrogate, lambda: self._evaluate(leaky).surrogate)
        self.images.constrain_()
        if self.recipe.regularizers.blur > 0:
            blur(self.images, self.blur, self.recipe.image_size)
        return current.scores

    def _evaluate(self, leaky: bool) -> "_Evaluation":
        """Evaluate the current images and set the gradient of their parameters."""
        rendered = self.images()
        # The graph is cut at the image: regularizers and attribution need its gradient there.
        leaf = rendered.detach().requires_grad_()
        scores, surrogate = self._scores(leaf, leaky)
        (gradient,) = torch.autograd.grad(surrogate.sum(), leaf)
        regularized = regularized_gradient(self.recipe.regularizers, leaf.detach(), gradient)
        finite = self._set_gradient(rendered, regularized, surrogate)
        return _Evaluation(scores.detach(), surrogate.detach(), gradient, finite)

    def _scores(self, images: Tensor, leaky: bool) -> tuple[Tensor, Tensor]:
        """Return the scores (B,) and surrogates (B,) of the transformed images at this step."""
        with ExitStack() as gradients:
            gradients.enter_context(PolyphaseStem())
            if leaky:
                slope = self.recipe.optimizer.leaky_slope
                gradients.enter_context(LeakyGradient(slope, self.closed))
            views = apply_views(self.recipe.transforms, images, self.view)
            scores, surrogate = self.scores(views, self.targets, self.references)
            # A score of exactly 0 comes from closed ReLUs; others have a gradient of their own.
            self.closed.copy_(scores.detach() == 0.0)
            return scores, surrogate

    def _set_gradient(self, rendered: Tensor, at_image: Tensor, scores: Tensor) -> Tensor:
        """Set the parameters' gradient, zero where it is not finite; return where it is: (B,)."""
        scalar = _WithGradient.apply(rendered, at_image)
        (gradient,) = torch.autograd.grad(scalar, self.parameters)
        # The sum is not finite if any number is not; unlike `all` it reads the gradient once.
        finite = torch.isfinite(gradient.sum(dim=1).add_(scores.detach()))
        gradient = gradient.masked_fill_(~finite[:, None], 0.0)
        clip = self.recipe.regularizers.clip
        self.parameters.grad = clipped(gradient, clip) if clip > 0 else gradient
        return finite


class _WithGradient(torch.autograd.Function):
    """A scalar whose gradient at the images is a given one.

    `torch.autograd.grad` takes a gradient to start from as well, but imports sympy to compare its
    shape: 0.9 s before the first step.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, gradient: Tensor) -> Tensor:
        ctx.gradient = gradient  # not an input that is saved: it is needed once, and has no graph
        return images.new_empty(())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.gradient, None


@dataclass(frozen=True)
class _Evaluation:
    """Scores and gradients of the current images of a batch."""

    scores: Tensor
    """(B,), possibly not finite."""
    surrogate: Tensor
    """(B,), the value that the optimization maximizes."""
    gradient: Tensor
    """(B, C, H, W), gradient of the surrogate at the images, without regularizers."""
    finite: Tensor
    """(B,) bool: whether score and gradient are finite."""


def opacity(attribution: Tensor) -> Tensor:
    """Convert accumulated gradients (B, H, W) to opacity (B, H, W) uint8.

    After the attribution-based transparency of Fel et al. 2023, MACO: a pixel is important where
    the score's gradient at the image, absolute, averaged over colours and summed over the
    optimization, is large. The strongest percent of the pixels of each image are fully opaque.
    """
    flat = attribution.flatten(1)
    rank = math.ceil(0.99 * flat.shape[1])
    full = flat.kthvalue(rank, dim=1).values.clamp_min(1e-30)
    return (attribution / full.view(-1, 1, 1)).clamp_(0.0, 1.0).mul_(255.0).round_().to(torch.uint8)


# --- several sizes --------------------------------------------------------------------------------


def make_loop(scores: Scores, recipe: Recipe, start: Start = initial_images) -> OptimizationLoop:
    """Build the optimization loop of a recipe; see `GradientAscent` for the arguments."""
    if recipe.octaves is None:
        # The schedule of a size is that of all steps, of which it takes its own.
        whole = replace(recipe.optimizer, steps=recipe.total_steps)
        loops = [
            GradientAscent(
                scores,
                replace(recipe, image_size=size, optimizer=whole, growth=Growth()),
                start,
                steps,
            )
            for size, steps in recipe.stages
        ]
        return loops[0] if len(loops) == 1 else GrowingAscent(recipe, loops, start)
    sizes = recipe.octaves.sizes(recipe.image_size)
    octaves = [replace(recipe, image_size=size, octaves=None) for size in sizes]
    loops = [GradientAscent(scores, octave, start) for octave in octaves]
    return OctaveAscent(recipe, loops, start)


class SizeBySize(ABC):
    """Optimizes images at several sizes.

    Args:
        recipe: the recipe.
        loops: the loop of each size, the smallest first.
        start: builds the initial images, in their final size.
    """

    def __init__(self, recipe: Recipe, loops: Sequence[GradientAscent], start: Start) -> None:
        self.recipe, self.loops, self.start = recipe, loops, start

    def optimize(
        self, jobs: Jobs, on_step: Callable[[int], None] = lambda step: None
    ) -> OptimizedBatch:
        """Optimize as `GradientAscent.optimize` does; all records have the final image size."""
        values = self.start(self.recipe, jobs).values().detach()
        return _joined(self._at_each_size(values, jobs, on_step), self.recipe.image_size)

    @abstractmethod
    def _at_each_size(
        self, values: Tensor, jobs: Jobs, on_step: Callable[[int], None]
    ) -> list[OptimizedBatch]:
        """Optimize at each size, from initial values (B, C, H, W) of the final size."""


class GrowingAscent(SizeBySize):
    """Optimizes images that grow: coarse to fine.

    A deep layer sees the whole of a small image, so that it becomes one object; each larger size
    adds finer details to it. A step at half the side costs a quarter. Unlike with octaves, step
    sizes and random views go on as if all steps had one size, and nothing of a size is repeated.
    """

    def _at_each_size(
        self, values: Tensor, jobs: Jobs, on_step: Callable[[int], None]
    ) -> list[OptimizedBatch]:
        results: list[OptimizedBatch] = []
        for loop in self.loops:
            smaller = replace(jobs, values=resized(values, loop.recipe.image_size))
            results.append(loop.optimize(smaller, on_step))
            values = results[-1].values
        return results


class OctaveAscent(SizeBySize):
    """Optimizes images octave by octave, so that they get details of every scale.

    Mordvintsev et al. 2015, "Inceptionism": at each size the optimization starts from the initial
    image plus the details that the smaller sizes added to it.
    """

    def _at_each_size(
        self, values: Tensor, jobs: Jobs, on_step: Callable[[int], None]
    ) -> list[OptimizedBatch]:
        added: Tensor | None = None
        results: list[OptimizedBatch] = []
        for number, loop in enumerate(self.loops):
            size = loop.recipe.image_size
            base = resized(values, size)
            start = base if added is None else base + resized(added, size)
            # Own keys per octave: the same views at every size would repeat their artefacts.
            keys = rng.derived(jobs.keys, rng.OCTAVE, number)
            previous_steps = number * self.recipe.optimizer.steps
            optimized = loop.optimize(
                replace(jobs, keys=keys, values=start), _offset_steps(on_step, previous_steps)
            )
            # Only the difference is enlarged: enlarging the whole image would blur the initial one.
            added = optimized.values - base
            results.append(_without_start(optimized) if results else optimized)
        return results


def _without_start(optimized: OptimizedBatch) -> OptimizedBatch:
    """Drop the first intermediate image: it equals the last one of the octave before."""
    frames = optimized.snapshot
    return optimized if frames is None else replace(optimized, snapshot=frames[:, 1:])


def _joined(results: Sequence[OptimizedBatch], size: tuple[int, int]) -> OptimizedBatch:
    """Combine the last size's images with the records of all sizes."""
    trace = torch.cat([optimized.trace for optimized in results], dim=1)
    finite = torch.stack([optimized.finite for optimized in results]).all(dim=0)
    frames = [_enlarged(one.snapshot, size) for one in results if one.snapshot is not None]
    snapshot = torch.cat(frames, dim=1) if frames else None
    return replace(results[-1], trace=trace, finite=finite, snapshot=snapshot)


def _offset_steps(on_step: Callable[[int], None], previous_steps: int) -> Callable[[int], None]:
    return lambda step: on_step(previous_steps + step)


def _enlarged(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images (B, N, h, w, C) uint8: (B, N, H, W, C) uint8."""
    planes = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
    grown = resized(planes, size).clamp(0, 255).round().to(torch.uint8)
    return grown.permute(0, 2, 3, 1).reshape(*frames.shape[:2], *size, -1)
