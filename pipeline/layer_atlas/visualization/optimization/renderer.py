"""The workbench: networks on a device, cut at a layer, and batches of jobs made there.

The place where networks, objectives, the loop and the measurements meet. It knows nothing of
shards, files or processes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from layer_atlas.config.inputs import Find, nowhere
from layer_atlas.config.recipe import Recipe, recorded_steps, snapshot_steps
from layer_atlas.models.colours import to_bytes
from layer_atlas.models.device_model import DeviceModel
from layer_atlas.models.forwards import Path
from layer_atlas.models.load import Network
from layer_atlas.models.numerics import CPU_BATCH_MULTIPLE, filled_up
from layer_atlas.plan.jobs import STATUS, LayerInfo
from layer_atlas.plan.plan import LayerRef, jobs_at_once
from layer_atlas.visualization import rng
from layer_atlas.visualization.objectives import ObjectiveContext, make_objective
from layer_atlas.visualization.optimization.image_statistics import measure
from layer_atlas.visualization.optimization.loop import (
    Jobs,
    OptimizationLoop,
    OptimizedBatch,
    started,
)
from layer_atlas.visualization.optimization.memory import (
    bytes_per_sample,
    if_it_fits,
    samples_that_fit,
)
from layer_atlas.visualization.optimization.octaves import make_loop

CPU_BATCH = 32
GPU_BATCH = 512
"""More samples than this at once are no faster on any GPU."""


class Renderer:
    """Networks on a device, and the recipe that images are made by.

    Args:
        network: whose layers images are made for.
        recipe: how they are made.
        device: where.
        others: further networks, by their labels, for objectives that read several.
        find: the files that the recipe refers to.
    """

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        device: torch.device,
        others: Mapping[str, Network] | None = None,
        find: Find = nowhere,
    ) -> None:
        self.recipe, self.device, self.find = recipe, device, find
        self.network = self._installed(network)
        self.others = {label: self._installed(other) for label, other in (others or {}).items()}

    def layer(self, info: LayerInfo, others: Sequence[LayerRef] = ()) -> "LayerRenderer":
        """The networks, cut at a layer, and at further ones that the objective reads."""
        return LayerRenderer(self, info, others)

    def _installed(self, network: Network) -> DeviceModel:
        recipe = self.recipe
        return DeviceModel(network, recipe.precision, recipe.image_size, self.device)


class LayerRenderer:
    """Makes images for targets of one layer, a batch at a time."""

    def __init__(
        self, renderer: Renderer, info: LayerInfo, others: Sequence[LayerRef] = ()
    ) -> None:
        self.recipe, self.device = renderer.recipe, renderer.device
        self.colours = len(renderer.network.network.mean)
        self.start = partial(started, colours=self.colours, find=renderer.find)
        exact = fast = _together(renderer, info, others, DeviceModel.exact_path)
        if self.recipe.precision != "fp32":
            fast = _together(renderer, info, others, DeviceModel.fast_path)
        self.exact, self.fast, self.path = exact.forward, fast.forward, fast.name
        surroundings = ObjectiveContext(
            layers=(info, *(tap.info for tap in others)),
            activations=self.exact,
            find=renderer.find,
            colours=self.colours,
            size=self.recipe.image_size,
            device=self.device,
        )
        self.objective = make_objective(self.recipe.objective, surroundings)
        self.loop = self._loop_for(self.recipe)

    def make(
        self,
        job_keys: Sequence[str],
        channels: Sequence[int],
        on_step: Callable[[int], None] = lambda step: None,
        dataset_images: Tensor | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Optimise and measure a batch of jobs of this layer; what comes out dead, once more.

        Args:
            job_keys: of the n jobs.
            channels: their targets.
            on_step: told the number of each step, once it is under way.
            photographs: (n, C, H, W) in [0, 1], which `init=dataset` starts from.
        Returns: the arrays of `ShardResult`, one row per job.
        """
        recipe, last = self.recipe, self.recipe.total_steps - 1
        keys, target = rng.keys(job_keys, self.device), torch.tensor(channels, device=self.device)
        jobs = Jobs(
            keys, target, None if dataset_images is None else dataset_images.to(self.device)
        )
        rows = self._attempt(self.loop, jobs, on_step)
        rows["start"] = torch.zeros_like(rows["status"])
        for start in range(1, recipe.optimizer.starts):
            (dead,) = torch.where(rows["status"] == STATUS["dead"])
            if not len(dead):
                break
            self._revive(rows, jobs.some(dead), dead, start, lambda step: on_step(last))
        arrays: dict[str, NDArray[Any]] = {name: row.cpu().numpy() for name, row in rows.items()}
        arrays["trace_step"] = torch.tensor(recorded_steps(recipe)).numpy()
        if recipe.snapshots:
            arrays["snapshot_step"] = torch.tensor(snapshot_steps(recipe)).numpy()
        return arrays

    def _revive(
        self,
        rows: dict[str, Tensor],
        jobs: Jobs,
        dead: Tensor,
        start: int,
        on_step: Callable[[int], None],
    ) -> None:
        """Make dead jobs again from another start; those that live now take their rows' places.

        A channel whose leaky steps did not open it is given leaky steps to the end.
        """
        settings = self.recipe.optimizer
        leaky = replace(self.recipe, optimizer=replace(settings, leaky_steps=settings.steps))
        again = replace(jobs, keys=rng.derived(jobs.keys, rng.START, start))
        made = self._attempt(self._loop_for(leaky), again, on_step)
        lives = made["status"] == STATUS["ok"]
        for name, row in made.items():
            rows[name][dead[lives]] = row[lives]
        rows["start"][dead[lives]] = start

    def _attempt(
        self, loop: OptimizationLoop, jobs: Jobs, on_step: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Optimise and measure jobs from one start."""
        n = len(jobs.targets)
        filled = jobs.some(filled_up(n, self.device))
        samples = filled.with_variants(self.recipe.variants)
        optimized = loop.optimize(samples, on_step)
        pixels = to_bytes(optimized.images)
        measured = measure(self.exact, self.objective, pixels, samples.targets)
        status = _status(optimized, measured)
        rows = {**measured, "image": pixels, "trace": optimized.trace}
        for name in ("alpha", "snapshot"):
            found = getattr(optimized, name)
            if found is not None:
                rows[name] = found
        rows = {name: self._of_jobs(row) for name, row in rows.items()}
        rows["status"] = of_whole_jobs(status, self.recipe.variants)
        rows["channel"] = filled.targets
        return {name: row[:n] for name, row in rows.items()}

    def _of_jobs(self, rows: Tensor) -> Tensor:
        """Rows (B, ...) of samples as those of jobs: (n, V, ...), without V if it is 1."""
        variants = self.recipe.variants
        return rows if variants == 1 else rows.reshape(-1, variants, *rows.shape[1:])

    def _loop_for(self, recipe: Recipe) -> OptimizationLoop:
        return make_loop(self.fast, self.objective, recipe, self.start)

    def measure(self, pixels: NDArray[Any], channels: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Measure stored images of some targets again: (n, H, W, C) uint8, or (n, V, H, W, C)."""
        n, variants = len(channels), self.recipe.variants
        order = filled_up(n, self.device)
        target = torch.tensor(channels, device=self.device)[order].repeat_interleave(variants)
        images = torch.from_numpy(pixels).to(self.device)[order]
        images = images if variants == 1 else images.flatten(0, 1)
        measured = measure(self.exact, self.objective, images, target)
        return {name: self._of_jobs(value)[:n].cpu().numpy() for name, value in measured.items()}

    def auto_batch(self) -> int:
        """A number of jobs that fits the device, from the memory that small batches really took."""
        variants = self.recipe.variants
        largest = (GPU_BATCH if self.device.type == "cuda" else CPU_BATCH) // variants
        largest = min(largest, jobs_at_once(self.recipe, self.colours))
        sample = if_it_fits(lambda: bytes_per_sample(self._try_out, self.device))
        if sample is None:  # less, where even that does not fit, is found on the way
            return max(min(CPU_BATCH_MULTIPLE, largest), 1)
        fit = samples_that_fit(sample, self.device)
        if fit >= largest:
            return max(largest, 1)
        return max(fit - fit % CPU_BATCH_MULTIPLE, 1)

    def _try_out(self, batch: int) -> None:
        """One step of ascent, for nothing; the measurement keeps less, as it has no way back."""
        steps = replace(self.recipe.optimizer, steps=1)
        recipe = replace(self.recipe, optimizer=steps, octaves=None, snapshots=0)
        keys = rng.keys(["0" * 64] * batch, self.device)
        targets = torch.zeros(batch, dtype=torch.int64, device=self.device)
        dataset_images = torch.zeros(batch, self.colours, *recipe.image_size).to(self.device)
        self._loop_for(recipe).optimize(
            Jobs(keys, targets, dataset_images).with_variants(recipe.variants), lambda step: None
        )


def _status(optimized: OptimizedBatch, measured: dict[str, Tensor]) -> Tensor:
    """What became of each sample: (B,) uint8. Takes `status` out of what was measured."""
    status = measured.pop("status")
    # A channel at its ceiling answers the same to every view, but it did not from the start.
    moved = optimized.trace.amax(dim=1) != optimized.trace.amin(dim=1)
    status = status.masked_fill((status == STATUS["dead"]) & moved, STATUS["ok"])
    finite = optimized.finite & torch.isfinite(measured["activation"])
    return status.masked_fill(~finite, STATUS["diverged"])


def of_whole_jobs(status: Tensor, variants: int) -> Tensor:
    """The status of jobs (n,) from that of their images (n * V,).

    A job is `diverged` if any of its images is, and `dead` if all are.
    """
    each = status.view(-1, variants)
    whole = torch.where((each == STATUS["dead"]).all(dim=1), STATUS["dead"], STATUS["ok"])
    return whole.masked_fill((each == STATUS["diverged"]).any(dim=1), STATUS["diverged"]).to(status)


def _together(
    renderer: Renderer,
    info: LayerInfo,
    others: Sequence[LayerRef],
    path: Callable[[DeviceModel, Sequence[LayerInfo]], Path],
) -> Path:
    """Images to the activations of a layer and of further ones, each network once."""
    label = renderer.network.network.label
    layers = [(label, info), *((tap.model, tap.info) for tap in others)]
    networks = {label: renderer.network, **renderer.others}
    read = {
        model: path(networks[model], [layer for of, layer in layers if of == model])
        for model in dict.fromkeys(model for model, _ in layers)
    }
    own = read[label]
    if len(read) == 1:
        return own

    def all_of_them(images: Tensor) -> tuple[Tensor, ...]:
        found = {model: iter(one.forward(images)) for model, one in read.items()}
        return tuple(next(found[model]) for model, _ in layers)

    return replace(own, forward=all_of_them)
