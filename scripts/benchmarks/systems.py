"""The systems that are compared, each behind the same two calls, and the floor below all of them.

The contract of the family: `warm_up()` does once what only a first call has to do; `make(unit)`
makes the images of one full batch and reports how long that took. A unit is as many jobs as the
system takes at once, so that a time per channel never comes from a batch that is half empty.
"""

import copy
import inspect
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from layer_atlas.config.recipe import Recipe
from layer_atlas.models.activations import OUTPUT
from layer_atlas.models.architectures import IMAGENET_MEAN, IMAGENET_STD
from layer_atlas.models.forwards import Instance
from layer_atlas.models.load import DTYPES, Network, converted
from layer_atlas.models.pixels import to_bytes
from layer_atlas.plan.jobs import LayerInfo, Series
from layer_atlas.plan.plan import ModelPlan
from layer_atlas.visualization import rng
from layer_atlas.visualization.objectives.base import picked
from layer_atlas.visualization.optimization.cuda_graphs import capture
from layer_atlas.visualization.optimization.loop import Jobs
from layer_atlas.visualization.optimization.renderer import Renderer

T = TypeVar("T")

_FLOOR_SECONDS, _FLOOR_CALLS = 0.1, 5
"""The floor is called for this long each time it is measured, and no less often than that."""


@dataclass(frozen=True)
class Case:
    """What all systems get alike: a network, one of its layers, an image size, a device."""

    network: Network
    info: LayerInfo
    image_size: int
    device: torch.device


@dataclass(frozen=True)
class Unit:
    """The jobs of one full batch. The first `wanted` are asked for, the others fill it up."""

    jobs: tuple[tuple[int, int], ...]
    """(channel, seed) of each."""
    wanted: int

    @property
    def channels(self) -> list[int]:
        """The channel of each job."""
        return [channel for channel, _ in self.jobs]


@dataclass(frozen=True)
class Made:
    """What came of a unit, and what it took."""

    pixels: Tensor | None
    """(wanted, H, W, 3) uint8 on the CPU; None where a system makes no images."""
    timings: dict[str, float] = field(default_factory=dict)
    """By name: `seconds_per_channel` and whatever else was timed."""


class System(Protocol):
    """Something that is measured on one layer."""

    label: str
    batch: int
    steps: int

    def warm_up(self) -> None:
        """Do, uncounted, what the first call does once."""
        ...

    def make(self, unit: Unit) -> Made:
        """Do one unit of work and time it."""
        ...


def units(channels: Sequence[int], batch: int) -> list[Unit]:
    """Cut channels into full batches; the last is filled up with further seeds of the same."""
    blocks = [channels[i : i + batch] for i in range(0, len(channels), batch)]
    return [
        Unit(tuple((block[i % len(block)], i // len(block)) for i in range(batch)), len(block))
        for block in blocks
    ]


class Seconds(float):
    """Seconds of the clock, and of the processor: on a busy machine only the second compare."""

    cpu: float = 0.0


def timed(function: Callable[[], T], device: torch.device) -> tuple[T, Seconds]:
    """What a function returns, and the seconds until the device was done with it."""
    wait(device)
    started, cpu = time.perf_counter(), time.process_time()
    result = function()
    wait(device)
    seconds = Seconds(time.perf_counter() - started)
    seconds.cpu = time.process_time() - cpu
    return result, seconds


def wait(device: torch.device) -> None:
    """Wait until a GPU is done with what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# --- arithmetic ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Arithmetic:
    """PyTorch's global choices of kernels, which this project narrows for reproducible bits."""

    matmul: str
    tf32: bool
    benchmark: bool
    deterministic: bool

    @classmethod
    def now(cls) -> "_Arithmetic":
        cudnn = torch.backends.cudnn
        matmul = torch.get_float32_matmul_precision()
        return cls(matmul, cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic)

    def apply(self) -> None:
        torch.set_float32_matmul_precision(self.matmul)
        torch.backends.cudnn.allow_tf32 = self.tf32
        torch.backends.cudnn.benchmark = self.benchmark
        torch.backends.cudnn.deterministic = self.deterministic


_DEFAULTS = _Arithmetic.now()


@contextmanager
def pytorch_defaults() -> Iterator[None]:
    """Give other systems the kernels they would have in a process of their own."""
    before = _Arithmetic.now()
    _DEFAULTS.apply()
    try:
        yield
    finally:
        before.apply()


# --- floor ---------------------------------------------------------------------------------------


class Floor:
    """The bare network: forward to the layer and the gradient at its input, nothing else.

    In the dtype and layout that the ascent uses, with PyTorch's own choice of kernels, and on a GPU
    as a CUDA graph.
    """

    label = "floor"
    steps = 1

    def __init__(self, case: Case, recipe: Recipe, batch: int) -> None:
        self.device, self.batch = case.device, batch
        with pytorch_defaults():
            self._bare = _bare_step(case, recipe, batch)
            self.step = _replayed(self._bare) if case.device.type == "cuda" else self._bare
        self.calls = 1

    def warm_up(self) -> None:
        """Run it a few times, and learn how often it fits into the time for one measurement."""
        with pytorch_defaults():
            _, seconds = min((timed(self.step, self.device) for _ in range(3)), key=lambda t: t[1])
        self.calls = max(_FLOOR_CALLS, round(_FLOOR_SECONDS / seconds))

    def make(self, unit: Unit) -> Made:
        """Measure it."""
        return Made(None, {"ms_per_channel_step": self.milliseconds()})

    def milliseconds(self) -> float:
        """Per channel and step, now."""
        with pytorch_defaults():
            _, seconds = timed(self._calls, self.device)
        return seconds / self.calls / self.batch * 1000

    def _calls(self) -> None:
        for _ in range(self.calls):
            self.step()


def _bare_step(case: Case, recipe: Recipe, batch: int) -> Callable[[], Tensor]:
    dtype = DTYPES[recipe.precision]
    module = converted(case.network.fresh(), case.device, dtype, channels_last=True)
    size = (case.image_size, case.image_size)
    instance = Instance(module, dtype, torch.channels_last)
    make = next(make for name, make in instance.paths([case.info]) if "simplified" not in name)
    forward = make()
    inputs = torch.randn(batch, 3, *size, device=case.device)
    inputs = inputs.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    channels = torch.arange(batch, device=case.device) % case.info.n_channels

    def step() -> Tensor:
        scores = picked(forward(inputs)[0], channels).mean(dim=1)
        return torch.autograd.grad(scores.sum(), inputs)[0]

    return step


def _replayed(step: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """The step as a CUDA graph, or as it is where it cannot be captured."""
    step()
    graphs = capture(lambda flag: step(), [True])
    return step if graphs is None else lambda: graphs.replay(True)


# --- this project --------------------------------------------------------------------------------


class Ours:
    """This project under one quality preset."""

    def __init__(
        self, renderer: Renderer, plan: ModelPlan, case: Case, preset: str, batch: int
    ) -> None:
        self.label, self.batch = f"ours {preset}", batch
        self.plan, self.case = plan, case
        self.steps = plan.recipe.optimizer.steps
        self.renderer = renderer.layer(case.info)
        self.floor: Floor | None = None

    def warm_up(self) -> None:
        """Once all of it."""
        self.make(units([0], self.batch)[0])

    def make(self, unit: Unit) -> Made:
        """The ascent alone, between two looks at the floor, and again with statistics."""
        device = self.case.device
        keys = self._job_keys(unit)
        words, target = rng.keys(keys, device), torch.tensor(unit.channels, device=device)
        before = self.floor and self.floor.milliseconds()
        _, optimized = timed(lambda: to_bytes(self._ascend(words, target)), device)
        after = self.floor and self.floor.milliseconds()
        arrays, whole = timed(lambda: self.renderer.make(keys, unit.channels), device)
        timings = {
            "seconds_per_channel": optimized / self.batch,
            "cpu_seconds_per_channel": optimized.cpu / self.batch,
            "seconds_per_channel_with_statistics": whole / self.batch,
        }
        if before and after:
            step = optimized / self.batch / self.steps * 1000
            timings["step_over_floor"] = step / ((before + after) / 2)
        return Made(torch.from_numpy(arrays["image"][: unit.wanted]), timings)

    def _ascend(self, keys: Tensor, targets: Tensor) -> Tensor:
        return self.renderer.loop.optimize(Jobs(keys, targets), lambda step: None).images

    def _job_keys(self, unit: Unit) -> list[str]:
        plan, layer = self.plan, self.case.info.name
        return [
            Series(plan.label, plan.network, layer, seed, plan.recipe).job_key(channel)
            for channel, seed in unit.jobs
        ]


# --- other systems -------------------------------------------------------------------------------


class _FromImageNet(nn.Module):
    """A network behind inputs that are normalized as for ImageNet, as the others assume.

    Its output is that of a module, because the others find layers by names of modules.
    """

    def __init__(self, network: Network, module: nn.Module) -> None:
        super().__init__()
        self.network, self.output = module, nn.Identity()
        old, new = (torch.tensor(IMAGENET_MEAN), torch.tensor(network.mean))
        old_std, new_std = torch.tensor(IMAGENET_STD), torch.tensor(network.std)
        self.register_buffer("scale", (old_std / new_std).view(1, 3, 1, 1))
        self.register_buffer("shift", ((old - new) / new_std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Any:
        return self.output(self.network(images * self.scale + self.shift))


def _as_others_take_it(case: Case) -> tuple[nn.Module, str]:
    """A network of their own on the device, and the name of the layer in it."""
    module = copy.deepcopy(case.network.module).float().to(case.device)
    layer, same = case.info.name, (case.network.mean, case.network.std)
    if layer != OUTPUT and same == (IMAGENET_MEAN, IMAGENET_STD):
        return module, layer
    wrapped = _FromImageNet(case.network, module).to(case.device)
    return wrapped.eval(), layer if layer == OUTPUT else f"network.{layer}"


def _seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def _unhook(module: nn.Module) -> None:
    """Take off what lucent hangs on every module at every call and never takes off."""
    for part in module.modules():
        part._forward_hooks.clear()


class Lucent:
    """torch-lucent, one channel at a time, as its README calls it."""

    label = "lucent"
    batch = 1

    def __init__(self, case: Case) -> None:
        from lucent.optvis import param, render

        self.param, self.render, self.case = param, render, case
        self.module, layer = _as_others_take_it(case)
        self.layer = layer.replace(".", "_")
        thresholds = inspect.signature(render.render_vis).parameters["thresholds"].default
        self.steps = int(max(thresholds))

    def warm_up(self) -> None:
        """A few steps do all that happens once."""
        self._image(0, 2)

    def make(self, unit: Unit) -> Made:
        """One image at its defaults, of the wanted size."""
        return self._made(unit)

    def _made(self, unit: Unit, on_step: Callable[[], None] = lambda: None) -> Made:
        _seed_everything(unit.channels[0])
        image, seconds = timed(
            lambda: self._image(unit.channels[0], self.steps, on_step), self.case.device
        )
        pixels = to_bytes(torch.from_numpy(image).movedim(-1, 1))
        timings = {"seconds_per_channel": seconds, "cpu_seconds_per_channel": seconds.cpu}
        return Made(pixels, timings)

    def _image(self, channel: int, steps: int, on_step: Callable[[], None] = lambda: None) -> Any:
        _unhook(self.module)

        def start() -> tuple[Any, Callable[[], Tensor]]:
            parameters, image = self.param.image(self.case.image_size)
            return parameters, lambda: (on_step(), image())[1]

        with pytorch_defaults():
            return self.render.render_vis(
                self.module,
                f"{self.layer}:{channel}",
                param_f=start,
                thresholds=(steps,),
                progress=False,
                show_image=False,
            )[-1]


class LucentInTime(Lucent):
    """The same, stopped at the processor time that this project took per image.

    Args:
        case: what all systems get.
        seconds: returns those seconds, once they are known.
    """

    label = "lucent-in-time"

    def __init__(self, case: Case, seconds: Callable[[], float]) -> None:
        super().__init__(case)
        self.seconds = seconds

    def make(self, unit: Unit) -> Made:
        """The image after the last step that ends in time."""
        clock = _Interrupt(self.seconds())
        made = self._made(unit, clock)
        return Made(made.pixels, {**made.timings, "steps_in_time": max(clock.calls - 2, 1)})


class _Interrupt:
    """Interrupts lucent once as a user would by Ctrl+C; it then returns the image as it is."""

    def __init__(self, seconds: float) -> None:
        self.until, self.calls = time.process_time() + seconds, 0

    def __call__(self) -> None:
        if self.until and time.process_time() > self.until:
            self.until = 0.0
            raise KeyboardInterrupt
        # One call asks for the size, one for each step, one for the result.
        self.calls += 1


class TorchDreams:
    """torch-dreams in its batched mode."""

    def __init__(self, case: Case, batch: int) -> None:
        from torch_dreams import Dreamer

        self.label, self.batch, self.case = f"torch-dreams B={batch}", batch, case
        module, layer = _as_others_take_it(case)
        self.layer = module.get_submodule(layer)
        self.dreamer = Dreamer(module, device=str(case.device), quiet=True)
        self.steps = int(inspect.signature(self.dreamer.render).parameters["iters"].default)

    def warm_up(self) -> None:
        """A few steps do all that happens once."""
        self._images([0] * self.batch, 2)

    def make(self, unit: Unit) -> Made:
        """A batch of images at its defaults, of the wanted size."""
        _seed_everything(unit.channels[0])
        images, seconds = timed(lambda: self._images(unit.channels, self.steps), self.case.device)
        pixels = to_bytes(images[: unit.wanted]).cpu()
        cpu = {"cpu_seconds_per_channel": seconds.cpu / self.batch}
        return Made(pixels, {"seconds_per_channel": seconds / self.batch, **cpu})

    def _images(self, channels: list[int], steps: int) -> Tensor:
        from torch_dreams.batched_image_param import BatchedAutoImageParam
        from torch_dreams.batched_objective import BatchedObjective

        size, device = self.case.image_size, str(self.case.device)
        start = BatchedAutoImageParam(
            batch_size=self.batch, width=size, height=size, device=device, standard_deviation=0.01
        )
        with pytorch_defaults():
            found = self.dreamer.render(
                image_parameter=start,
                layers=[self.layer],
                iters=steps,
                custom_func=BatchedObjective([_minus_mean(channel) for channel in channels]),
            )
        return torch.stack([image.to_chw_tensor(device=device) for image in found])


def _minus_mean(channel: int) -> Callable[[list[Tensor]], Tensor]:
    return lambda outputs: -outputs[0][:, channel].mean()
