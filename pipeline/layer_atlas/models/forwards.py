"""Ways to compute the activations of layers, and the choice of the fastest correct one.

The plain way is the network itself with hooks. The others are optimizations of it: a traced graph
that contains only what the layers need, with batch norms folded, in channels-last layout, in low
precision. None is used unless it agrees with the plain way on probe images.

Activations have the shape (B, C, L): samples, channels, positions.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn

from layer_atlas.errors import kind_and_reason
from layer_atlas.models.activations import (
    channels_first,
    check_called,
    main_tensor,
    reduce_layers,
)
from layer_atlas.models.containment import contained
from layer_atlas.models.graph import Trace, simplify, trace
from layer_atlas.plan.jobs import LayerInfo

Forward = Callable[[Tensor], tuple[Tensor, ...]]
"""Function of inputs (B, C, H, W) that returns the activations (B, K, L) of layers."""

Activations = Sequence[Tensor]
"""Activations of layers, each (B, K, L)."""


@dataclass(frozen=True)
class Instance:
    """An instance of a network in a number format and a memory layout."""

    module: nn.Module
    dtype: torch.dtype
    layout: torch.memory_format

    @cached_property
    def trace(self) -> Trace | None:
        """The network as a graph, or None where it cannot be traced."""
        return trace(self.module)

    def paths(self, layers: Sequence[LayerInfo]) -> Iterator[tuple[str, Callable[[], Forward]]]:
        """Yield the ways to compute some layers as (name, factory), fastest first, hooks last."""
        layout = "channels_last" if self.layout is torch.channels_last else "contiguous"
        graph = self.trace and self.trace.cut([layer.name for layer in layers])
        if graph:
            # Lazily, because simplifying copies weights and most searches end at the first path.
            simplified = f"traced, simplified, {layout}"
            yield simplified, lambda: GraphForward(simplify(graph), layers)
            yield f"traced, {layout}", lambda: GraphForward(graph, layers)
        hooked = HookedForward(self.module, layers)
        yield f"hooks, {layout}", lambda: hooked
        yield f"hooks, {layout}, copies kept for the gradient", lambda: CopyingForward(hooked)


class HookedForward:
    """Runs the network with hooks and leaves it by an exception once all layers were called."""

    def __init__(self, network: nn.Module, layers: Sequence[LayerInfo]) -> None:
        self.network, self.layers = network, layers
        self.distinct = list({layer.name: layer for layer in layers}.values())

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the activations of the layers.

        Raises:
            RuntimeError: the forward does not call one of them for these images.
        """
        # The operation after a layer may overwrite its output, unless the forward ends right there.
        keep = Tensor.clone if len(self.distinct) > 1 else _identity
        activations = reduce_layers(self.network, self.distinct, x, keep)
        check_called(self.distinct, activations)
        return tuple(activations[layer.name] for layer in self.layers)


def _identity(activation: Tensor) -> Tensor:
    return activation


class CopyingForward:
    """Keeps copies for the backward pass, for networks that overwrite tensors it needs."""

    def __init__(self, forward: Forward) -> None:
        self.forward = forward

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the activations of the layers."""
        with torch.autograd.graph.saved_tensors_hooks(_copy, _identity):
            return self.forward(x)


def _copy(tensor: Tensor) -> Tensor:
    # Frozen parameters are never written to, and copying them would double the memory.
    return tensor if isinstance(tensor, nn.Parameter) else tensor.clone()


class GraphForward:
    """Runs a graph that ends at the layers."""

    def __init__(self, graph: fx.GraphModule, layers: Sequence[LayerInfo]) -> None:
        self.graph, self.layers = graph, layers

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the activations of the layers."""
        with contained():
            outputs = self.graph(x)
        pairs = zip(outputs, self.layers, strict=True)
        return tuple(channels_first(_tensor_of(output), layer) for output, layer in pairs)


def _tensor_of(output: Any) -> Tensor:
    """Return the tensor of a layer's output; an output without a tensor would not be a layer."""
    tensor = main_tensor(output)
    assert tensor is not None
    return tensor


# --- agreement -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Path:
    """A named way to compute activations."""

    name: str
    """Name in reports, such as `traced, simplified, channels_last`."""
    forward: Forward


NamedPath = tuple[str, Callable[[], Forward]]
"""The name of a path, and its factory."""


@dataclass(frozen=True)
class ChosenPath:
    """The path that was chosen for some layers, as the cache of inspections keeps it."""

    name: str


class NoPathAgrees(Exception):
    """No way to compute the activations of some layers agrees with the plain one."""


def fastest_that_agrees(
    paths: Iterable[NamedPath],
    images: Tensor,
    expected: Activations,
    gradient: Tensor,
    dtype: torch.dtype,
) -> Path:
    """Return the first path that reproduces the activations and gradient of the untouched network.

    Args:
        paths: the paths to try, fastest first.
        images: probe images (B, C, H, W).
        expected: the layers' activations for them, by plain hooks in fp32.
        gradient: `probe_gradient` by plain hooks.
        dtype: number format of the paths, which decides what counts as rounding.
    Raises:
        NoPathAgrees: reports why the last path was rejected.
    """
    reason = "there is none"
    for name, make in paths:
        try:
            forward = make()
            error_norm = _largest_disagreement(forward, images, expected)
            gradient_error = _gradient_error(probe_gradient(forward, images), gradient)
        except Exception as error:  # noqa: BLE001 - a path that cannot run is not used
            reason = kind_and_reason(error)
            continue
        if error_norm > TOLERANCE[dtype]:
            reason = f"activations are off by {100 * error_norm:.2g} %"
        elif gradient_error > _GRADIENT_TOLERANCE[dtype]:
            reason = f"gradients are off by {100 * gradient_error:.2g} %"
        else:
            return Path(name, forward)
    raise NoPathAgrees(reason)


def path_of_name(paths: Iterable[NamedPath], name: str) -> Path | None:
    """Return the path of a name; `None` if there is none, or it cannot be built."""
    make = next((make for own, make in paths if own == name), None)
    try:
        return Path(name, make()) if make else None
    except Exception:  # noqa: BLE001 - a path that cannot be built is not used
        return None


def agrees(forward: Forward, images: Tensor, expected: Activations, tolerance: float) -> bool:
    """Return whether a forward reproduces the activations of the untouched network.

    Args: as above; `tolerance` is the largest disagreement that counts as rounding.
    """
    try:
        return _largest_disagreement(forward, images, expected) <= tolerance
    except Exception:  # noqa: BLE001 - a path that cannot run is not used
        return False


@torch.no_grad()
def _largest_disagreement(forward: Forward, images: Tensor, expected: Activations) -> float:
    """Return the largest disagreement over the activations of several layers."""
    # A clone, because a path may write to its input and the next one is compared on the same
    # images.
    pairs = zip(forward(images.clone()), expected, strict=True)
    return max(disagreement(activation, right) for activation, right in pairs)


@torch.enable_grad()
def probe_gradient(forward: Forward, images: Tensor) -> Tensor:
    """Compute the gradient of images from their activations under fixed random weights.

    The plain mean would not do: the mean of a layer norm's output is constant.
    """
    leaf = images.detach().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), device=images.device)
    for activation in forward(leaf.clone()):
        # Drawn on the CPU: the CPU's and the GPU's generators give different numbers.
        weights = torch.randn(activation.shape, generator=generator).to(images.device)
        total = total + (activation.float() * weights).mean()
    (gradient,) = torch.autograd.grad(total, leaf)
    return gradient


def _gradient_error(gradient: Tensor, expected: Tensor) -> float:
    """Return the relative error of a gradient; 0 where the expected one is not finite."""
    if not expected.isfinite().all():
        return 0.0
    error_norm = float((gradient - expected).norm() / expected.norm().clamp_min(1e-30))
    return error_norm if math.isfinite(error_norm) else math.inf


TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest disagreement that counts as rounding, by number format.

Deep networks lose about half of the digits of a bf16 number.
"""

_GRADIENT_TOLERANCE = {torch.float32: 0.05, torch.bfloat16: 0.9}
"""Largest relative gradient error that counts as rounding, which opens and closes some ReLUs.

The check detects the loss of a custom backward pass, such as that of a rounding operation that
passes gradients through.
"""


@torch.no_grad()
def disagreement(activation: Tensor, expected: Tensor) -> float:
    """Return the relative disagreement of activations (B, K, L) with the expected ones.

    The result is the larger of two figures: the norm of the difference over that of the expected
    activation, and, in fp32, the largest difference of a channel's mean over the mean absolute
    activation. Non-finite values must be at the same positions in both.
    """
    if activation.shape != expected.shape:
        return float("inf")
    # In double: sums over millions of fp32 numbers would add rounding of their own.
    left, right = activation.double(), expected.double()
    finite = right.isfinite()
    if not torch.equal(finite, left.isfinite()):
        return float("inf")
    left, right = left.where(finite, 0.0), right.where(finite, 0.0)
    error_norm = (left - right).norm() / right.norm().clamp_min(1e-30)
    if activation.dtype == torch.float32:
        means = (left.mean(dim=2) - right.mean(dim=2)).abs().amax()
        error_norm = torch.maximum(error_norm, means / right.abs().mean().clamp_min(1e-30))
    return float(error_norm)
