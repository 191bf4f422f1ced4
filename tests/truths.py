"""The truth about a network, to hold the package against: its own code, with a hook and no more.

The first half shares no code with the package. The second makes images as a sweep does, in this
process: survey, plan, workbench.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from toys import composed

from layer_atlas.config.config import Config, ModelConfig
from layer_atlas.errors import UserError
from layer_atlas.models.load import Network
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.plan.plan import LayerPlan, ModelPlan, SkippedModel
from layer_atlas.sweep.planning import inspect_models, make_plan
from layer_atlas.sweep.planning.devices import WorkerDevice
from layer_atlas.visualization.optimization.renderer import LayerRenderer, Renderer

Build = Callable[[], nn.Module]

TOLERANCE = 1e-3
"""Of a stored activation, relative to the layer's mean absolute activation."""


# --- without the package -------------------------------------------------------------------------


def built(build: Build) -> nn.Module:
    """A fresh module in eval mode and in fp32, with the random weights of seed 0."""
    with random_numbers(0):
        network = build()
    network.eval()
    if all(not tensor.is_complex() for tensor in network.parameters()):
        network.float()
    return network


@contextmanager
def random_numbers(seed: int) -> Iterator[None]:
    """Seed torch, Python and numpy for a while."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        yield
    random.setstate(python)
    np.random.set_state(numpy)


def first_tensor(output: Any) -> Tensor | None:
    """The main tensor of what a module returns."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, list | tuple):
        parts = list(output)
    else:
        named = output if isinstance(output, Mapping) else getattr(output, "__dict__", {})
        parts = [named.get("logits"), named.get("out"), *named.values()]
    found = (first_tensor(part) for part in parts if part is not None)
    return next((tensor for tensor in found if tensor is not None), None)


@torch.no_grad()
def hooked(network: nn.Module, layer: str, inputs: Tensor) -> Tensor:
    """What a layer returns at its first call, by one forward hook."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        tensor = first_tensor(output)
        assert tensor is not None
        kept.append(tensor.clone())

    module = network if layer == "output" else network.get_submodule(layer)
    handle = module.register_forward_hook(keep)
    try:
        network(inputs)
    finally:
        handle.remove()
    return kept[0]


def normalized(picture: NDArray[Any], mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """A picture (H, W, C) uint8 as an input (1, C, H, W)."""
    values = (picture / 255.0 - np.asarray(mean)) / np.asarray(std)
    return torch.from_numpy(values).permute(2, 0, 1)[None].float().contiguous()


# --- images, as a sweep makes them ---------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """Images of two channels of a layer, and what the package measured of them."""

    plan: ModelPlan
    network: Network
    workbench: Renderer
    renderer: LayerRenderer
    info: LayerInfo
    channels: list[int]
    rows: dict[str, NDArray[Any]]

    def difference(
        self, fresh: nn.Module | Build, axis: int | None = None, prefix: int = 0
    ) -> float:
        """Between the stored activations and those of a plain hook on a fresh module.

        Args:
            fresh: the module, or what builds it.
            axis: of the channels; default: what the package thinks.
            prefix: tokens that are no positions.
        Returns: the largest difference, relative to the layer's mean absolute activation.
        """
        network = fresh if isinstance(fresh, nn.Module) else built(fresh)
        info = self.info
        axis = info.channel_axis if axis is None else axis
        off, sizes = [], []
        for channel, picture, stored in zip(
            self.channels, self.rows["image"], self.rows["activation"], strict=True
        ):
            inputs = normalized(picture, self.network.mean, self.network.std)
            activation = hooked(network, info.name, inputs)
            units = activation.movedim(info.batch_axis, 0)[0]
            units = units.movedim(axis - 1, 0).reshape(units.shape[axis - 1], -1)[:, prefix:]
            off.append(abs(float(units[channel].mean()) - float(stored)))
            sizes.append(float(units.abs().mean()))
        return max(off) / (sum(sizes) / len(sizes) + 1e-12)


@cache
def _config(precision: str) -> Config:
    return composed(
        *("models=[{name: m, target: toys.none}]", "transforms=none", "channels=[0,1]"),
        *("optimizer.steps=3", "optimizer.leaky_steps=1", f"precision={precision}"),
    )


def planned(entry: ModelConfig, precision: str = "fp32") -> tuple[ModelPlan, Network]:
    """The plan of a sweep of one model, on a CPU, and the network that it is of."""
    config = replace(_config(precision), models=(entry,))
    (found,) = inspect_models(config)
    if isinstance(found, SkippedModel):
        raise UserError(found.why)
    (model,) = make_plan(config, [found], [WorkerDevice("cpu")]).models
    return model, found.network


def made(entry: ModelConfig, precision: str = "fp32") -> list[Made]:
    """Images of the first two channels of each chosen layer of a network."""
    model, network = planned(entry, precision)
    renderer = Renderer(network, model.recipe, torch.device("cpu"))
    return [_made(model, network, renderer, layer) for layer in model.layers]


def _made(model: ModelPlan, network: Network, workbench: Renderer, layer: LayerPlan) -> Made:
    channels, renderer = list(layer.targets), workbench.layer(layer.info)
    rows = renderer.make([key_of(channel) for channel in channels], channels)
    return Made(model, network, workbench, renderer, layer.info, channels, rows)


def key_of(channel: int) -> str:
    """A job key."""
    return f"{channel + 1:064x}"
