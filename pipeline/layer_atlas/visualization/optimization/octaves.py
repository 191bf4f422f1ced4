"""Octaves: one image optimized at growing sizes, so that it gets details of every scale.

Mordvintsev et al. 2015, "Inceptionism": at each size the optimization starts from the initial image
plus the details that the smaller sizes added to it.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from layer_atlas.config.recipe import Octaves, Recipe
from layer_atlas.models.forwards import Forward
from layer_atlas.models.pixels import resized
from layer_atlas.visualization import rng
from layer_atlas.visualization.objectives import Objective
from layer_atlas.visualization.optimization.loop import (
    GradientAscent,
    Jobs,
    OptimizationLoop,
    OptimizedBatch,
    Start,
    initial_images,
)
from layer_atlas.visualization.optimization.regularizers import FeatureStatistics


def make_loop(
    forward: Forward,
    objective: Objective,
    recipe: Recipe,
    start: Start = initial_images,
    prior: FeatureStatistics | None = None,
) -> OptimizationLoop:
    """Build the optimization loop of a recipe; see `GradientAscent` for the arguments."""
    if recipe.octaves is None:
        return GradientAscent(forward, objective, recipe, start, prior)
    return OctaveAscent(forward, objective, recipe, recipe.octaves, start, prior)


def octave_sizes(octaves: Octaves, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Return height and width of each octave, the smallest first.

    >>> octave_sizes(Octaves(count=3, scale=2.0), (64, 100))
    [(16, 25), (32, 50), (64, 100)]
    """
    powers = [octaves.scale**k for k in reversed(range(octaves.count))]
    return [(round(size[0] / power), round(size[1] / power)) for power in powers]


class OctaveAscent:
    """Optimizes images octave by octave."""

    def __init__(
        self,
        forward: Forward,
        objective: Objective,
        recipe: Recipe,
        octaves: Octaves,
        start: Start = initial_images,
        prior: FeatureStatistics | None = None,
    ) -> None:
        self.recipe, self.start = recipe, start
        self.sizes = octave_sizes(octaves, recipe.image_size)
        recipes = [replace(recipe, image_size=size, octaves=None) for size in self.sizes]
        self.loops = [
            GradientAscent(forward, objective, per_octave, start, prior) for per_octave in recipes
        ]

    def optimize(
        self, jobs: Jobs, on_step: Callable[[int], None] = lambda step: None
    ) -> OptimizedBatch:
        """Optimize as `GradientAscent.optimize` does; all records have the final image size."""
        initial = self.start(self.recipe, jobs).values().detach()
        added: Tensor | None = None
        results: list[OptimizedBatch] = []
        for number, loop in enumerate(self.loops):
            base = resized(initial, self.sizes[number])
            start = base if added is None else base + resized(added, self.sizes[number])
            # Own keys per octave: the same views at every size would repeat their artefacts.
            keys = rng.derived(jobs.keys, rng.OCTAVE, number)
            previous_steps = number * self.recipe.optimizer.steps
            optimized = loop.optimize(
                replace(jobs, keys=keys, values=start), _offset_steps(on_step, previous_steps)
            )
            # Only the difference is enlarged: enlarging the whole image would blur the initial one.
            added = optimized.values - base
            results.append(optimized)
        return self._joined(results)

    def _joined(self, results: list[OptimizedBatch]) -> OptimizedBatch:
        """Combine the last octave's images with the records of all octaves."""
        trace = torch.cat([optimized.trace for optimized in results], dim=1)
        finite = torch.stack([optimized.finite for optimized in results]).all(dim=0)
        return replace(results[-1], trace=trace, finite=finite, snapshot=self._snapshots(results))

    def _snapshots(self, results: list[OptimizedBatch]) -> Tensor | None:
        frames: list[Tensor] = []
        for optimized in results:
            if optimized.snapshot is None:
                return None
            # The first frame of an octave equals the last one of the octave before.
            snapshot = optimized.snapshot[:, 1 if frames else 0 :]
            frames.append(_enlarged(snapshot, self.recipe.image_size))
        return torch.cat(frames, dim=1)


def _offset_steps(on_step: Callable[[int], None], previous_steps: int) -> Callable[[int], None]:
    return lambda step: on_step(previous_steps + step)


def _enlarged(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images (B, N, h, w, C) uint8: (B, N, H, W, C) uint8."""
    planes = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
    grown = resized(planes, size).clamp(0, 255).round().to(torch.uint8)
    return grown.permute(0, 2, 3, 1).reshape(*frames.shape[:2], *size, -1)
