"""The images that are judged: a recipe, on one layer of a network, for some targets and seeds."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from judges.composing import compose
from judges.networks import mean_responses
from layer_atlas.config.config import Config
from layer_atlas.errors import UserError
from layer_atlas.models.activations import OUTPUT
from layer_atlas.models.normalization import FEATURE_IMAGES
from layer_atlas.models.pixels import from_bytes
from layer_atlas.plan.jobs import LayerInfo, Series, joined
from layer_atlas.plan.plan import ModelPlan
from layer_atlas.plan.targets import TargetSpace
from layer_atlas.sweep.planning import InspectedModel, inspect_models, make_plan
from layer_atlas.sweep.planning.devices import WorkerDevice
from layer_atlas.visualization.optimization.image_statistics import measure
from layer_atlas.visualization.optimization.renderer import LayerRenderer, Renderer

BATCH = 32


@dataclass(frozen=True)
class PlannedRecipe:
    """A recipe of some layers of a network."""

    name: str
    model: InspectedModel
    plan: ModelPlan

    def info(self, layer: str) -> LayerInfo:
        """Return the facts about a layer."""
        return next(planned.info for planned in self.plan.layers if planned.info.name == layer)

    def space(self, layer: str) -> TargetSpace:
        """Return the targets of a layer."""
        planned = next(planned for planned in self.plan.layers if planned.info.name == layer)
        return planned.target_space

    @cached_property
    def renderer(self) -> Renderer:
        """The network on a device, and the recipe."""
        return Renderer(self.model.network, self.plan.recipe, torch.device("cpu"))


class Planner:
    """Plans recipes of one network, which is loaded and inspected once.

    Args:
        settings: overrides of all recipes: model, weights, image size.
        layers: names of the layers. At the network's output images are those of classes.
    """

    def __init__(self, settings: Sequence[str], layers: Sequence[str]) -> None:
        self.settings = settings
        self.channels = [layer for layer in layers if layer != OUTPUT]
        self.classes = [layer for layer in layers if layer == OUTPUT]
        self._inspected: dict[str, InspectedModel] = {}

    def plan(self, name: str, overrides: str) -> dict[str, PlannedRecipe]:
        """Plan a recipe.

        Args:
            name: its name in the table.
            overrides: its overrides, as one would type them.
        Returns: the recipe of each layer.
        Raises:
            UserError: a mistake in the overrides, or a layer that does not exist.
        """
        words = shlex.split(overrides)
        own_objective = any(word.startswith("objective=") for word in words)
        planned: dict[str, PlannedRecipe] = {}
        for layers, objective in ((self.channels, "channel"), (self.classes, "logit")):
            if layers:
                chosen = [] if own_objective else [f"objective={objective}"]
                quoted = ",".join(f'"{layer}"' for layer in layers)
                config = compose([*self.settings, f"layers=[{quoted}]", *chosen, *words])
                model = self._inspect(config)
                (plan,) = make_plan(config, [model], [WorkerDevice("cpu")]).models
                _check_targets(name, plan)
                planned |= dict.fromkeys(layers, PlannedRecipe(name, model, plan))
        return planned

    def _inspect(self, config: Config) -> InspectedModel:
        """Inspect the network, unless that was done with the same sizes and tokens."""
        sizes = (config.image_size, config.octaves, config.keep_prefix_tokens)
        if repr(sizes) not in self._inspected:
            (model,) = inspect_models(config)
            assert isinstance(model, InspectedModel)  # a single one is refused, never skipped
            self._inspected[repr(sizes)] = model
        return self._inspected[repr(sizes)]


def _check_targets(name: str, plan: ModelPlan) -> None:
    """Check that each image is for one channel, whose strongest photographs mean something."""
    if plan.colours != 3:
        raise UserError(
            f"model {plan.label!r} takes images of {plan.colours} colours, and photographs have 3; "
            "choose a network of RGB images."
        )
    objective = plan.recipe.objective
    of_channels = all(layer.target_space.sizes == (layer.info.n_channels,) for layer in plan.layers)
    if not of_channels or objective.variants > 1 or objective.way != "ascent":
        raise UserError(
            f"recipe {name!r} has objective={objective.name} with images that are not each for "
            "one channel; take objective=channel, or objective=logit at the layer output."
        )


class Maker:
    """Makes the images of a recipe on one layer.

    Args:
        recipe: the recipe.
        layer: name of the layer.
        photographs: (N, H, W, 3) uint8, for recipes about what is usual in photographs.
    """

    def __init__(self, recipe: PlannedRecipe, layer: str, photographs: Tensor) -> None:
        self.plan, self.info = recipe.plan, recipe.info(layer)
        others = next(x.others for x in self.plan.layers if x.info.name == layer)
        of_dataset = bool(self.plan.recipe.regularizers.dataset)
        views = (lambda: _evenly_spread(photographs)) if of_dataset else None
        self.renderer: LayerRenderer = recipe.renderer.layer(self.info, others, views)

    def responses(self, pixels: Tensor) -> NDArray[np.float32]:
        """Return the mean response (N, K) of each channel to photographs."""
        answers: NDArray[np.float32] = mean_responses(self.renderer.exact, pixels).numpy()
        return answers

    @property
    def n_photographs(self) -> int:
        """Number of its target's photographs that each image is made from."""
        return self.plan.recipe.dataset_images_used

    def make(
        self, targets: Sequence[int], seeds: Sequence[int], photographs: Tensor | None
    ) -> dict[str, NDArray[Any]]:
        """Make an image for every seed and target.

        Args:
            targets: n targets.
            seeds: S seeds.
            photographs: (n, N, H, W, 3) uint8, those that images are made from, if there are any.
        Returns: the arrays of `ShardResult`, with a row (S * n) per image, seed by seed; `seconds`
            is processor time per image, of the optimization alone.
        """
        jobs = [(row, target, seed) for seed in seeds for row, target in enumerate(targets)]
        blocks = (jobs[i : i + BATCH] for i in range(0, len(jobs), BATCH))
        return joined([self._make(block, photographs) for block in blocks])

    def measured(self, targets: Sequence[int], pixels: Tensor) -> dict[str, NDArray[Any]]:
        """Measure images that another tool made.

        Args:
            targets: n targets.
            pixels: (n, H, W, 3) uint8, an image for each.
        Returns: the same arrays; `seconds` are NaN.
        """
        layer, target = self.renderer, torch.tensor(targets)
        found = measure(layer.exact, layer.objective, pixels, target, layer.robust)
        arrays = {name: values.cpu().numpy() for name, values in found.items()}
        return {**arrays, "image": pixels.numpy(), "seconds": np.full(len(targets), np.nan)}

    def _make(
        self, jobs: Sequence[tuple[int, int, int]], photographs: Tensor | None
    ) -> dict[str, NDArray[Any]]:
        series = Series(self.plan.label, self.plan.network, self.info.name, 0, self.plan.recipe)
        keys = [replace(series, seed=seed).job_key(target) for _, target, seed in jobs]
        images = None
        if photographs is not None:
            shown = photographs[[row for row, _, _ in jobs]]
            images = from_bytes(shown.flatten(0, 1)).view(*shown.shape[:2], 3, *shown.shape[2:4])
        clock = _StepClock()
        made = self.renderer.make(keys, [target for _, target, _ in jobs], clock, images)
        steps = self.plan.recipe.total_steps
        return {**made, "seconds": np.full(len(jobs), clock.per_step * steps / len(jobs))}


def _evenly_spread(photographs: Tensor) -> Tensor:
    some = min(FEATURE_IMAGES, len(photographs))
    return photographs[[number * len(photographs) // some for number in range(some)]]


class _StepClock:
    """Measures processor time per step between the first step and the last."""

    def __init__(self) -> None:
        self.times: dict[int, float] = {}

    def __call__(self, step: int) -> None:
        # Steps of a second start have numbers that were there before.
        self.times.setdefault(step, time.process_time())

    @property
    def per_step(self) -> float:
        """Seconds; NaN for a single step, which has the costs of a beginning."""
        first, last = min(self.times), max(self.times)
        return (self.times[last] - self.times[first]) / (last - first) if last > first else np.nan
