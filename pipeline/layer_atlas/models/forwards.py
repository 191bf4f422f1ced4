"""Ways to compute the activations of some layers, and the choice of the fastest that is right.

The plain way is the network itself with hooks. The others are optimisations of it: a traced graph
that holds nothing but what the layers need, with batch norms folded, in channels-last layout, in
low precision. None is used unless it agrees with the plain way on images.

Activations leave as (B, C, L): samples, channels, positions.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from layer_atlas.models.activations import channels_first, main_tensor, reduce_layers
from layer_atlas.models.containment import contained
from layer_atlas.models.graph import Trace, simplify, trace
from layer_atlas.plan.jobs import LayerInfo

Forward = Callable[[Tensor], tuple[Tensor, ...]]
"""Inputs (B, C, H, W) to the activations (B, K, L) of some layers."""

Activations = Sequence[Tensor]
"""Of some layers, each (B, K, L)."""


@dataclass(frozen=True)
class Path:
    """A way to compute activations."""

    name: str
    """Such as `traced, simplified, channels_last`."""
    forward: Forward


@dataclass(frozen=True)
class Instance:
    """An instance of a network in a number format and a memory layout."""

    module: nn.Module
    dtype: torch.dtype
    layout: torch.memory_format

    @cached_property
    def trace(self) -> Trace | None:
        """The network as a graph, if it can be traced."""
        return trace(self.module)

    def paths(self, layers: Sequence[LayerInfo]) -> Iterator[tuple[str, Callable[[], Forward]]]:
        """The ways to some layers, by name and as what makes them; fastest first, hooks last."""
        layout = "channels_last" if self.layout is torch.channels_last else "contiguous"
        graph = self.trace and self.trace.cut([layer.name for layer in layers])
        if graph:
            simplified = f"traced, simplified, {layout}"
            yield simplified, lambda: GraphForward(simplify(graph), layers)
            yield f"traced, {layout}", lambda: GraphForward(graph, layers)
        hooked = HookedForward(self.module, layers)
        yield f"hooks, {layout}", lambda: hooked
        yield f"hooks, {layout}, copies kept for the gradient", lambda: CopyingForward(hooked)


class HookedForward:
    """Runs the network and leaves it when all layers were called, by an exception of our own."""

    def __init__(self, network: nn.Module, layers: Sequence[LayerInfo]) -> None:
        self.network, self.layers = network, layers
        self.distinct = list({layer.name: layer for layer in layers}.values())

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Activations of the layers.

        Raises:
            RuntimeError: the forward does not call one of them for these images.
        """
        # What follows a layer may write over its output, unless the forward is left right there.
        keep = Tensor.clone if len(self.distinct) > 1 else _as_it_is
        found = reduce_layers(self.network, self.distinct, x, keep)
        if silent := [layer.name for layer in self.distinct if layer.name not in found]:
            raise RuntimeError(f"layer {silent[0]!r} was not called for these images.")
        return tuple(found[layer.name] for layer in self.layers)


def _as_it_is(activation: Tensor) -> Tensor:
    return activation


class CopyingForward:
    """Keeps copies for the backward pass, of networks that write over what it needs."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Activations of the layers."""
        with torch.autograd.graph.saved_tensors_hooks(_copy, _as_it_is):
            return self.forward(x)


def _copy(tensor: Tensor) -> Tensor:
    return tensor if isinstance(tensor, nn.Parameter) else tensor.clone()


class GraphForward:
    """Runs a graph that ends at the layers."""

    def __init__(self, graph: fx.GraphModule, layers: Sequence[LayerInfo]) -> None:
        self.graph, self.layers = graph, layers

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Activations of the layers."""
        with contained():
            outputs = self.graph(x)
        pairs = zip(outputs, self.layers, strict=True)
        return tuple(channels_first(_tensor_of(output), layer) for output, layer in pairs)


def _tensor_of(output: Any) -> Tensor:
    """The tensor of a layer's output, which has one: else it would be no layer."""
    tensor = main_tensor(output)
    assert tensor is not None
    return tensor


# --- agreement -----------------------------------------------------------------------------------


class NoPathAgrees(Exception):
    """No way to compute some layers' activations agrees with the plain one."""


def fastest_that_agrees(
    paths: Iterable[tuple[str, Callable[[], Forward]]],
    images: Tensor,
    expected: Activations,
    gradient: Tensor,
    dtype: torch.dtype,
) -> Path:
    """The first path that gives the activations and the gradient of the untouched network.

    Args:
        paths: by name and as what makes them, fastest first.
        images: what they take (B, C, H, W).
        expected: the layers' activations for them, by plain hooks in fp32.
        gradient: `probe_gradient` by plain hooks.
        dtype: what the paths compute in, for what counts as rounding.
    Raises:
        NoPathAgrees: says what went wrong with the last one.
    """
    reason = "there is none"
    for name, make in paths:
        try:
            forward = make()
            off = _largest_disagreement(forward, images, expected)
            turned = _turned(probe_gradient(forward, images), gradient)
        except Exception as error:  # noqa: BLE001 - a path that cannot run is not used
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            continue
        if off > TOLERANCE[dtype]:
            reason = f"activations are off by {100 * off:.2g} %"
        elif turned > _TURN[dtype]:
            reason = f"gradients are off by {100 * turned:.2g} %"
        else:
            return Path(name, forward)
    raise NoPathAgrees(reason)


def agrees(forward: Forward, images: Tensor, expected: Activations, tolerance: float) -> bool:
    """Whether a forward gives the activations of the untouched network.

    Args: as above, and the largest disagreement that counts as rounding.
    """
    try:
        return _largest_disagreement(forward, images, expected) <= tolerance
    except Exception:  # noqa: BLE001 - a path that cannot run is not used
        return False


@torch.no_grad()
def _largest_disagreement(forward: Forward, images: Tensor, expected: Activations) -> float:
    """Of the activations of several layers."""
    pairs = zip(forward(images.clone()), expected, strict=True)
    return max(disagreement(activation, right) for activation, right in pairs)


@torch.enable_grad()
def probe_gradient(forward: Forward, images: Tensor) -> Tensor:
    """The gradient of images from their activations, each with a random weight of its own.

    Not from the mean: of what a layer norm returns that is a constant.
    """
    leaf = images.detach().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), device=images.device)
    for activation in forward(leaf.clone()):
        weights = torch.randn(activation.shape, generator=generator).to(images.device)
        total = total + (activation.float() * weights).mean()
    (gradient,) = torch.autograd.grad(total, leaf)
    return gradient


def _turned(gradient: Tensor, expected: Tensor) -> float:
    """How far a gradient is from the right one; nobody can say where that is not finite."""
    if not expected.isfinite().all():
        return 0.0
    off = float((gradient - expected).norm() / expected.norm().clamp_min(1e-30))
    return off if math.isfinite(off) else math.inf


TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest disagreement that counts as rounding, by number format. Deep networks lose about half of
the digits of a bf16 number."""

_TURN = {torch.float32: 0.05, torch.bfloat16: 0.9}
"""The same for gradients: rounding opens some ReLUs and closes others. What a graph must not lose
is a backward pass of the network's own, as of a rounding that lets gradients through."""


@torch.no_grad()
def disagreement(activation: Tensor, expected: Tensor) -> float:
    """How far activations (B, K, L) are from the right ones, relative to these.

    The larger one of two figures: the norm of the difference over that of the right activation,
    and, in fp32, the largest difference of a channel's mean over the mean absolute activation.
    Where the right activation is not finite, the same places must be.
    """
    if activation.shape != expected.shape:
        return float("inf")
    left, right = activation.double(), expected.double()
    finite = right.isfinite()
    if not torch.equal(finite, left.isfinite()):
        return float("inf")
    left, right = left.where(finite, 0.0), right.where(finite, 0.0)
    off = (left - right).norm() / right.norm().clamp_min(1e-30)
    if activation.dtype == torch.float32:
        means = (left.mean(dim=2) - right.mean(dim=2)).abs().amax()
        off = torch.maximum(off, means / right.abs().mean().clamp_min(1e-30))
    return float(off)
