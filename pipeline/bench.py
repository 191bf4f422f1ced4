"""The workbench: a network on a device, cut at a layer, and batches of jobs made on it.

The place where networks, objectives, the loop and the measurements meet. It knows nothing of
shards, files or processes.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline import rng
from pipeline.batches import CPU_BATCH_MULTIPLE, filled_up
from pipeline.fields import receptive_fields
from pipeline.jobs import STATUS, LayerInfo
from pipeline.layers import truncate_for_speed
from pipeline.memory import bytes_per_sample, samples_that_fit
from pipeline.models import DTYPES, Network
from pipeline.objectives import make_objective
from pipeline.observe import Answer, Observer, normalised
from pipeline.optimize import Climber, Jobs
from pipeline.recipe import Recipe, trace_steps
from pipeline.resampling import Resize
from pipeline.statistics import from_bytes, measure, to_bytes

Observe = Callable[[Tensor], dict[str, Answer]]
"""Views (B, H, W, 3) uint8 to what layers answer, by their names."""

CPU_BATCH = 32
GPU_BATCH = 512
"""More samples than this at once are no faster on any GPU."""


class Workbench:
    """A network on a device, in the precision of the ascent and in fp32 for measurement."""

    def __init__(self, network: Network, recipe: Recipe, device: torch.device) -> None:
        _make_arithmetic_explicit()
        self.network, self.recipe, self.device = network, recipe, device
        self.exact = _on_device(copy.deepcopy(network.module), torch.float32, device)
        self._mean = torch.tensor(network.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(network.std, device=device).view(1, -1, 1, 1)
        self._resize = _resize(recipe, device)

    @cached_property
    def fast(self) -> nn.Module:
        """The network in the precision of the ascent; photographs do not need it."""
        dtype = DTYPES[self.recipe.precision]
        if dtype == torch.float32:
            return self.exact
        return _on_device(copy.deepcopy(self.network.module), dtype, self.device)

    def layer(self, info: LayerInfo) -> "LayerBench":
        """The same network, cut at a layer."""
        return LayerBench(self, info)

    def responses(self, module: nn.Module, info: LayerInfo) -> Callable[[Tensor], Tensor]:
        """Images (B, 3, H, W) in [0, 1] to the layer's activations (B, K, L)."""
        dtype = next((p.dtype for p in module.parameters()), torch.float32)
        forward = truncate_for_speed(module, info, self._example().to(self.device, dtype))
        return lambda images: forward(self._inputs(images, dtype))

    def observer(self, infos: Sequence[LayerInfo]) -> Observe:
        """Views (B, H, W, 3) uint8 to the answers of several layers, in fp32."""
        observe = Observer(self.exact, infos)
        if self._resize is None:
            return lambda views: observe(normalised(views.to(self.device), self.network))
        return lambda views: observe(self._inputs(from_bytes(views.to(self.device)), torch.float32))

    def receptive_fields(self, infos: Sequence[LayerInfo]) -> dict[str, Tensor]:
        """What each position of some layers sees: boxes (L, 4) in pixels of the image."""
        # Not on a GPU: some of its kernels work on tiles, and what is no number spreads there.
        fields = receptive_fields(self.network.module, infos, self._example())
        if self._resize is None:
            return fields
        return {name: self._resize.sources(boxes) for name, boxes in fields.items()}

    def _example(self) -> Tensor:
        return self.network.example(self.recipe.network_size or self.recipe.image_size)

    def _inputs(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Images (B, C, H, W) in [0, 1] as the network takes them."""
        seen = images if self._resize is None else self._resize(images)
        normalised: Tensor = _Normalised.apply(seen, self._mean, self._std, dtype)
        return normalised


class LayerBench:
    """Makes images for channels of one layer, a batch at a time."""

    def __init__(self, bench: Workbench, info: LayerInfo) -> None:
        self.recipe, self.device = bench.recipe, bench.device
        self.objective = make_objective(bench.recipe.objective)
        self.fast = bench.responses(bench.fast, info)
        self.exact = self.fast if bench.fast is bench.exact else bench.responses(bench.exact, info)
        self.climber = Climber(self.fast, self.objective, self.recipe)

    def make(
        self,
        job_keys: Sequence[str],
        channels: Sequence[int],
        on_step: Callable[[int], None] = lambda step: None,
        photographs: Tensor | None = None,
    ) -> dict[str, NDArray[Any]]:
        """Optimise and measure a batch of jobs of this layer; what comes out dead, once more.

        Args:
            job_keys: of the n jobs.
            channels: their targets.
            on_step: told the number of each step, once it is under way.
            photographs: (n, 3, H, W) in [0, 1], which `init=dataset` starts from.
        Returns: the arrays of `ShardResult`, one row per job.
        """
        settings = self.recipe.optimizer
        keys, target = rng.keys(job_keys, self.device), torch.tensor(channels, device=self.device)
        jobs = Jobs(keys, target, None if photographs is None else photographs.to(self.device))
        rows = self._attempt(self.climber, jobs, on_step)
        rows["start"] = torch.zeros_like(rows["status"])
        for start in range(1, settings.starts):
            (dead,) = torch.where(rows["status"] == STATUS["dead"])
            if not len(dead):
                break
            self._revive(
                rows, jobs.some(dead), dead, start, lambda step: on_step(settings.steps - 1)
            )
        arrays: dict[str, NDArray[Any]] = {name: row.cpu().numpy() for name, row in rows.items()}
        arrays["trace_step"] = torch.tensor(trace_steps(settings.steps)).numpy()
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
        again = replace(jobs, keys=rng.restarted(jobs.keys, start))
        made = self._attempt(Climber(self.fast, self.objective, leaky), again, on_step)
        lives = made["status"] == STATUS["ok"]
        for name, row in made.items():
            rows[name][dead[lives]] = row[lives]
        rows["start"][dead[lives]] = start

    def _attempt(
        self, climber: Climber, jobs: Jobs, on_step: Callable[[int], None]
    ) -> dict[str, Tensor]:
        """Optimise and measure jobs from one start."""
        n = len(jobs.channels)
        filled = jobs.some(filled_up(n, self.device))
        ascent = climber.ascend(filled.keys, filled.channels, on_step, filled.photographs)
        pixels = to_bytes(ascent.images)
        measured = measure(self.exact, self.objective, pixels, filled.channels)
        # A channel at its ceiling answers the same to every view, but it did not from the start.
        moved = ascent.trace.amax(dim=1) != ascent.trace.amin(dim=1)
        dead = measured["status"] == STATUS["dead"]
        measured["status"].masked_fill_(dead & moved, STATUS["ok"])
        finite = ascent.finite & torch.isfinite(measured["activation"])
        measured["status"].masked_fill_(~finite, STATUS["diverged"])
        rows = {"channel": filled.channels, "image": pixels, "trace": ascent.trace, **measured}
        if ascent.alpha is not None:
            rows["alpha"] = ascent.alpha
        return {name: row[:n] for name, row in rows.items()}

    def measure(self, pixels: NDArray[Any], channels: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Measure stored images (n, H, W, 3) uint8 of some channels again."""
        n = len(channels)
        order = filled_up(n, self.device)
        target = torch.tensor(channels, device=self.device)[order]
        images = torch.from_numpy(pixels).to(self.device)[order]
        measured = measure(self.exact, self.objective, images, target)
        return {name: value[:n].cpu().numpy() for name, value in measured.items()}

    def auto_batch(self) -> int:
        """A batch size that fits the device, from the memory that small batches really took."""
        largest = GPU_BATCH if self.device.type == "cuda" else CPU_BATCH
        fit = samples_that_fit(bytes_per_sample(self._try_out, self.device), self.device)
        if fit >= largest:
            return largest
        return max(fit - fit % CPU_BATCH_MULTIPLE, 1)

    def _try_out(self, batch: int) -> None:
        """One step of ascent, for nothing; the measurement keeps less, as it has no way back."""
        steps = replace(self.recipe.optimizer, steps=1)
        climber = Climber(self.fast, self.objective, replace(self.recipe, optimizer=steps))
        keys = rng.keys(["0" * 64] * batch, self.device)
        channels = torch.zeros(batch, dtype=torch.int64, device=self.device)
        size = self.recipe.image_size
        climber.ascend(
            keys, channels, photographs=torch.zeros(batch, 3, size, size).to(self.device)
        )


class _Normalised(torch.autograd.Function):
    """(images - mean) / std in the network's dtype and in channels-last layout.

    Layout and dtype change one after the other, and arithmetic is done in the layout of the
    images, there and back: each of these is several times faster on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(std)
        normalised = (images - mean).div_(std).to(dtype)
        return normalised.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (std,) = ctx.saved_tensors
        return grads[0].contiguous().float() / std, None, None, None


def _resize(recipe: Recipe, device: torch.device) -> Resize | None:
    """What a network that takes one size alone needs before it."""
    if recipe.network_size is None:
        return None
    size = (recipe.image_size, recipe.image_size)
    return Resize(size, (recipe.network_size, recipe.network_size), device)


def _on_device(module: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    return module.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _make_arithmetic_explicit() -> None:
    """fp32 means fp32, and the same kernels every time, whatever the library's defaults."""
    # Attention without gradients would else be of other rounding than with them, and slower.
    torch.backends.mha.set_fastpath_enabled(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
