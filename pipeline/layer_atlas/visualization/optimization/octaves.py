"""Octaves: the same image climbed at growing sizes, so that it gets details of all of them.

Mordvintsev et al. 2015, "Inceptionism": at each size the start is the picture that the ascent
starts from, plus what smaller sizes have added to it.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from layer_atlas.config.recipe import Octaves, Recipe
from layer_atlas.models.forwards import Forward
from layer_atlas.models.resample import resized
from layer_atlas.visualization import rng
from layer_atlas.visualization.objectives import Objective
from layer_atlas.visualization.optimization.loop import (
    GradientAscent,
    Jobs,
    OptimizationLoop,
    OptimizedBatch,
    Start,
    started,
)


def make_loop(
    forward: Forward, objective: Objective, recipe: Recipe, start: Start = started
) -> OptimizationLoop:
    """What makes images by a recipe; see `GradientAscent` for the arguments."""
    if recipe.octaves is None:
        return GradientAscent(forward, objective, recipe, start)
    return OctaveAscent(forward, objective, recipe, recipe.octaves, start)


def octave_sizes(octaves: Octaves, size: tuple[int, int]) -> list[tuple[int, int]]:
    """Height and width of each octave, the smallest first.

    >>> octave_sizes(Octaves(count=3, scale=2.0), (64, 100))
    [(16, 25), (32, 50), (64, 100)]
    """
    powers = [octaves.scale**k for k in reversed(range(octaves.count))]
    return [(round(size[0] / power), round(size[1] / power)) for power in powers]


class OctaveAscent:
    """Climbs size after size."""

    def __init__(
        self,
        forward: Forward,
        objective: Objective,
        recipe: Recipe,
        octaves: Octaves,
        start: Start = started,
    ) -> None:
        self.recipe, self.start = recipe, start
        self.sizes = octave_sizes(octaves, recipe.image_size)
        recipes = [replace(recipe, image_size=size, octaves=None) for size in self.sizes]
        self.loops = [GradientAscent(forward, objective, each, start) for each in recipes]

    def optimize(
        self, jobs: Jobs, on_step: Callable[[int], None] = lambda step: None
    ) -> OptimizedBatch:
        """As `GradientAscent.ascend` does; all that is kept on the way has the image's own size."""
        picture = self.start(self.recipe, jobs).values().detach()
        added: Tensor | None = None
        found: list[OptimizedBatch] = []
        for number, loop in enumerate(self.loops):
            base = resized(picture, self.sizes[number])
            start = base if added is None else base + resized(added, self.sizes[number])
            keys = rng.derived(jobs.keys, rng.OCTAVE, number)
            before = number * self.recipe.optimizer.steps
            optimized = loop.optimize(
                replace(jobs, keys=keys, values=start), _later(on_step, before)
            )
            added = optimized.values - base
            found.append(optimized)
        return self._joined(found)

    def _joined(self, found: list[OptimizedBatch]) -> OptimizedBatch:
        """The last octave, with what the others left on the way."""
        trace = torch.cat([optimized.trace for optimized in found], dim=1)
        finite = torch.stack([optimized.finite for optimized in found]).all(dim=0)
        return replace(found[-1], trace=trace, finite=finite, snapshot=self._snapshots(found))

    def _snapshots(self, found: list[OptimizedBatch]) -> Tensor | None:
        frames: list[Tensor] = []
        for optimized in found:
            if optimized.snapshot is None:
                return None
            # The start of an octave is the end of the one before.
            kept = optimized.snapshot[:, 1 if frames else 0 :]
            frames.append(_enlarged(kept, self.recipe.image_size))
        return torch.cat(frames, dim=1)


def _later(on_step: Callable[[int], None], before: int) -> Callable[[int], None]:
    return lambda step: on_step(before + step)


def _enlarged(frames: Tensor, size: tuple[int, int]) -> Tensor:
    """Pictures (B, N, h, w, C) uint8 at another size: (B, N, H, W, C) uint8."""
    planes = frames.flatten(0, 1).permute(0, 3, 1, 2).float()
    grown = resized(planes, size).clamp(0, 255).round().to(torch.uint8)
    return grown.permute(0, 2, 3, 1).reshape(*frames.shape[:2], *size, -1)
