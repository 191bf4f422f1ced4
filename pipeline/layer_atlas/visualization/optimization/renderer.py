"""The renderer: networks on a device, cut at a layer, and batches of jobs optimized for it.

It combines networks, objectives, the loop and the statistics. It does not depend on shards, files
or processes.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from layer_atlas.config.inputs import Find, nowhere
from layer_atlas.config.recipe import Growth, Recipe, recorded_steps, snapshot_steps
from layer_atlas.config.records import plain
from layer_atlas.models.activations import CPU_BATCH_MULTIPLE, filled_up
from layer_atlas.models.device_model import DeviceModel
from layer_atlas.models.forwards import Path
from layer_atlas.models.inspections import Inspection
from layer_atlas.models.load import Network
from layer_atlas.models.pixels import to_bytes
from layer_atlas.plan.jobs import STATUS, LayerInfo
from layer_atlas.plan.plan import GPU_BATCH, LayerRef, most_jobs, power_of_two
from layer_atlas.visualization import rng
from layer_atlas.visualization.objectives import ObjectiveContext, make_objective
from layer_atlas.visualization.optimization.image_statistics import (
    measure,
    status_of,
    status_of_jobs,
)
from layer_atlas.visualization.optimization.loop import (
    GradientAscent,
    Jobs,
    OptimizationLoop,
    Scores,
    initial_images,
    make_loop,
)
from layer_atlas.visualization.optimization.memory import (
    bytes_per_sample,
    if_it_fits,
    samples_that_fit,
)
from layer_atlas.visualization.optimization.regularizers import FeatureStatistics

CPU_BATCH = 32
"""Largest batch in samples; larger ones are no faster on any CPU."""


class Renderer:
    """Networks on a device, and the recipe of the images.

    Args:
        network: the network whose layers are visualized.
        recipe: the recipe.
        device: the device.
        others: further networks by label, for objectives that read several.
        find: resolves the files that the recipe refers to.
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
        self.network = self._on_device(network)
        self.others = {label: self._on_device(other) for label, other in (others or {}).items()}

    def layer(
        self,
        info: LayerInfo,
        others: Sequence[LayerRef] = (),
        views: Callable[[], Tensor] | None = None,
    ) -> "LayerRenderer":
        """Return a renderer for a layer.

        Args:
            info: the layer.
            others: further layers that the objective reads.
            views: returns views (M, H, W, 3) uint8 of dataset images, for the prior of feature
                statistics of networks without batch norms.
        """
        return LayerRenderer(self, info, others, views)

    def _on_device(self, network: Network) -> DeviceModel:
        recipe = self.recipe
        return DeviceModel(network, recipe.precision, recipe.image_size, self.device)


class LayerRenderer:
    """Renders images for targets of one layer, a batch at a time."""

    def __init__(
        self,
        renderer: Renderer,
        info: LayerInfo,
        others: Sequence[LayerRef] = (),
        views: Callable[[], Tensor] | None = None,
    ) -> None:
        self.recipe, self.device = renderer.recipe, renderer.device
        self.gpu_multiple = 1
        """What batches of jobs are filled up to a multiple of on a GPU, whose kernels, and so the
        last bits, may depend on the size of a batch."""
        self.colours = len(renderer.network.network.mean)
        self.start = partial(initial_images, colours=self.colours, find=renderer.find)
        label = renderer.network.network.label
        layers = [(label, info), *((ref.model, ref.info) for ref in others)]
        weight = self.recipe.regularizers.feature_statistics
        norms = renderer.network.expected_features(info, views) if weight > 0 else []
        self.prior = FeatureStatistics(norms, weight) if norms else None
        exact = fast = _joint_path(renderer, layers, DeviceModel.exact_path)
        # In fp32 both paths are the same, and the search for the fastest one runs once.
        if self.recipe.precision != "fp32" or norms:
            read = [*layers, *((label, norm.info) for norm in norms)]
            fast = _joint_path(renderer, read, DeviceModel.fast_path)
        self.exact, self.fast, self.path = exact.forward, fast.forward, fast.name
        # Without the layers that the prior alone reads.
        own, is_lower = slice(len(layers)), self.recipe.precision != "fp32"
        self.robust = (lambda images: self.fast(images)[own]) if is_lower else None
        context = ObjectiveContext(
            layers=(info, *(ref.info for ref in others)),
            activations=self.exact,
            find=renderer.find,
            colours=self.colours,
            size=self.recipe.image_size,
            device=self.device,
        )
        self.objective = make_objective(self.recipe.objective, context)
        self.inspection = _inspection_of_memory(renderer, info, others, fast.name)
        self.loop = self._loop_for(self.recipe)

    def make(
        self,
        job_keys: Sequence[str],
        channels: Sequence[int],
        on_step: Callable[[int], None] = lambda step: None,
        dataset_images: Tensor | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Optimize and measure a batch of jobs of this layer; retry dead ones from another start.

        Args:
            job_keys: keys of the n jobs.
            channels: their targets.
            on_step: called with the number of each step once it is launched.
            dataset_images: (n, N, C, H, W) in [0, 1], the strongest ones of each target, if the
                recipe has images made from some.
        Returns: the arrays of `ShardResult`, one row per job.
        """
        recipe, last = self.recipe, self.recipe.total_steps - 1
        keys, target = rng.keys(job_keys, self.device), torch.tensor(channels, device=self.device)
        jobs = self._jobs(keys, target, dataset_images)
        rows = self._attempt(self.loop, jobs, on_step)
        rows["start"] = torch.zeros_like(rows["status"])
        for start in range(1, recipe.optimizer.starts):
            (dead,) = torch.where(rows["status"] == STATUS["dead"])
            if not len(dead):
                break
            self._revive(rows, jobs.select(dead), dead, start, lambda step: on_step(last))
        rows |= self.objective.records(jobs.references)
        arrays: dict[str, NDArray[Any]] = {name: row.cpu().numpy() for name, row in rows.items()}
        arrays["trace_step"] = torch.tensor(recorded_steps(recipe)).numpy()
        # Steps are the same for every job, so they are stored once, not per row.
        if recipe.snapshots:
            arrays["snapshot_step"] = torch.tensor(snapshot_steps(recipe)).numpy()
        return arrays

    def _jobs(self, keys: Tensor, targets: Tensor, dataset_images: Tensor | None) -> Jobs:
        # Of many images per job only what is compared with goes to the device.
        first = None if dataset_images is None else dataset_images[:, 0].to(self.device)
        references = self.objective.references(dataset_images, targets)
        return Jobs(keys, targets, dataset_images=first, references=references)

    def _revive(
        self,
        rows: dict[str, Tensor],
        jobs: Jobs,
        dead: Tensor,
        start: int,
        on_step: Callable[[int], None],
    ) -> None:
        """Optimize dead jobs again from another start; replace the rows of those that now respond.

        A channel that the leaky steps did not open gets leaky steps to the end.
        """
        settings = self.recipe.optimizer
        leaky = replace(self.recipe, optimizer=replace(settings, leaky_steps=settings.steps))
        again = replace(jobs, keys=rng.derived(jobs.keys, rng.START, start))
        # A loop of its own: the shared one keeps its tensors and graphs for the next batch.
        retried = self._attempt(self._loop_for(leaky), again, on_step)
        lives = retried["status"] == STATUS["ok"]
        for name, row in retried.items():
            rows[name][dead[lives]] = row[lives]
        rows["start"][dead[lives]] = start

    def _attempt(
        self, loop: OptimizationLoop, jobs: Jobs, on_step: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Optimize and measure jobs from one start."""
        n = len(jobs.targets)
        # CPU batches are padded, so that bits do not depend on the batch size.
        filled = jobs.select(filled_up(n, self.device, self.gpu_multiple))
        samples = filled.with_variants(self.recipe.variants)
        # Measured on the 8-bit pixels that are stored, not on the float image.
        optimized = loop.optimize(samples, on_step)
        pixels = to_bytes(optimized.images)
        measured = self._measured(pixels, samples.targets)
        status = status_of(optimized, measured)
        rows = {**measured, "image": pixels, "trace": optimized.trace}
        for name in ("alpha", "snapshot"):
            record = getattr(optimized, name)
            if record is not None:
                rows[name] = record
        rows = {name: self._of_jobs(row) for name, row in rows.items()}
        # Padding rows are removed last, after everything that reads whole jobs.
        rows["status"] = status_of_jobs(status, self.recipe.variants)
        rows["target"] = filled.targets
        return {name: row[:n] for name, row in rows.items()}

    def _of_jobs(self, rows: Tensor) -> Tensor:
        """Reshape rows (B, ...) of samples to jobs: (n, V, ...), without V if it is 1."""
        variants = self.recipe.variants
        return rows if variants == 1 else rows.reshape(-1, variants, *rows.shape[1:])

    def _loop_for(self, recipe: Recipe) -> OptimizationLoop:
        return make_loop(self._scores, recipe, self.start)

    @property
    def _scores(self) -> Scores:
        return Scores(self.fast, self.objective, self.prior)

    def measure(self, pixels: NDArray[Any], channels: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Measure stored images of some targets again: (n, H, W, C) uint8, or (n, V, H, W, C)."""
        n, variants = len(channels), self.recipe.variants
        order = filled_up(n, self.device)
        target = torch.tensor(channels, device=self.device)[order].repeat_interleave(variants)
        images = torch.from_numpy(pixels).to(self.device)[order]
        images = images if variants == 1 else images.flatten(0, 1)
        measured = self._measured(images, target)
        return {name: self._of_jobs(value)[:n].cpu().numpy() for name, value in measured.items()}

    def _measured(self, pixels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return measure(self.exact, self.objective, pixels, targets, self.robust)

    def auto_batch(self, planned: int = 0) -> int:
        """Return the number of jobs of a batch, by the memory that small batches take.

        On a GPU it is the planned number where that fits into the free memory, or else the largest
        divisor of it that does. On a CPU, where bits do not depend on it, it is what fits.

        Args:
            planned: number of jobs for a GPU, a power of two; 0: the largest.
        """
        is_gpu = self.device.type == "cuda"
        largest = most_jobs(self.recipe, self.colours, GPU_BATCH if is_gpu else CPU_BATCH)
        if is_gpu:
            largest = planned or power_of_two(largest)
        sample = if_it_fits(self._sample_bytes)
        if sample is None:  # if this is too much as well, the sweep halves the batch
            return min(CPU_BATCH_MULTIPLE, largest)
        if is_gpu:  # where the CUDA graphs of every size keep their memory
            sample *= self.recipe.growth.relative_memory(self.recipe.image_size)
        fit = samples_that_fit(sample, self.device)
        if fit >= largest:
            return largest
        # A multiple, because the loop pads every CPU batch to one.
        return power_of_two(fit) if is_gpu else max(fit - fit % CPU_BATCH_MULTIPLE, 1)

    def _sample_bytes(self) -> float:
        """Measure the peak memory of one more sample; on a CPU, where that never changes, once."""
        return self.inspection.answered(
            SampleMemory, lambda: SampleMemory(bytes_per_sample(self._try_out, self.device))
        ).bytes

    def _try_out(self, batch: int) -> None:
        """Take the memory of one optimization step and of one measurement in fp32.

        One step is not captured as CUDA graphs, whose memory is that of the step.
        """
        steps = replace(self.recipe.optimizer, steps=1)
        recipe = replace(self.recipe, optimizer=steps, octaves=None, growth=Growth(), snapshots=0)
        keys = rng.keys(["0" * 64] * batch, self.device)
        targets = torch.zeros(batch, dtype=torch.int64, device=self.device)
        count = max(recipe.dataset_images_used, 1)
        dataset_images = torch.zeros(batch, count, self.colours, *recipe.image_size)
        jobs = self._jobs(keys, targets, dataset_images).with_variants(recipe.variants)
        loop = GradientAscent(self._scores, recipe, self.start)
        if self.device.type == "cuda":
            optimized = loop.optimize(jobs)
            with torch.no_grad():
                self.exact(optimized.images)
        else:  # where what is saved for a backward pass counts alone
            loop.forward(jobs)


@dataclass(frozen=True)
class SampleMemory:
    """The peak memory of one more sample of a batch, as the cache of inspections keeps it."""

    bytes: float


def _inspection_of_memory(
    renderer: Renderer, info: LayerInfo, others: Sequence[LayerRef], path: str
) -> Inspection:
    """Word what a sample of a layer takes on a CPU, by all that it depends on."""
    question = {
        "asked": "memory",
        "recipe": plain(renderer.recipe),
        "layers": [plain(layer) for layer in (info, *others)],
        "path": path,
    }
    # Not where it depends on more: on other networks, on images, on the kernels of a GPU.
    depends = renderer.others or renderer.recipe.regularizers.dataset
    is_kept = renderer.device.type == "cpu" and not depends
    return Inspection(renderer.network.network, renderer.device, question if is_kept else None)


def _joint_path(
    renderer: Renderer,
    layers: Sequence[tuple[str, LayerInfo]],
    find_path: Callable[[DeviceModel, Sequence[LayerInfo]], Path],
) -> Path:
    """Build a path to the activations of layers of networks by label, one pass per network."""
    networks = {renderer.network.network.label: renderer.network, **renderer.others}
    paths = {
        model: find_path(networks[model], [layer for of, layer in layers if of == model])
        for model in dict.fromkeys(model for model, _ in layers)
    }
    own = paths[layers[0][0]]
    if len(paths) == 1:
        return own

    def forward_all(images: Tensor) -> tuple[Tensor, ...]:
        # Iterators, because several layers of one network come from a single pass, in order.
        outputs = {model: iter(path.forward(images)) for model, path in paths.items()}
        return tuple(next(outputs[model]) for model, _ in layers)

    return replace(own, forward=forward_all)
