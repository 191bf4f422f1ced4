"""Weights between the channels of two layers: the linear part of the network between them.

They are the expanded weights of Voss et al. 2021 ("Visualizing Weights", Distill): the derivative
of a channel's response at the central position by the responses of an earlier layer, where every
activation function counts as the identity and max pooling as average pooling. For layers with one
convolution between them this is its kernel.

The derivative is taken by autograd on the untouched network. The nodes of its graph, rather than
the types of modules, show what lies between two layers, so that functions count as modules do. A
pair of layers with anything else between them (attention, gates, norms that depend on the image)
has no linear part that is the same for all images: it gets no weights, but a reason.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layer_atlas.models.activations import (
    StopForward,
    channels_first,
    check_called,
    main_tensor,
    module_of,
)
from layer_atlas.models.containment import attached, contained
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.store.connections import LARGEST_GRID, Connections, no_connections

Node = Any
"""A node of autograd's graph: the operation that an output comes from."""

_MIXING = {
    "Convolution": (0, 1),
    "Mm": (0, 1),
    "Bmm": (0, 1),
    "Mv": (0, 1),
    "Addmm": (1, 2),
    "Baddbmm": (1, 2),
}
"""Operations that combine channels, with the places of their factors among the inputs."""

_PRODUCTS = {**_MIXING, "Mul": (0, 1), "Addcmul": (1, 2)}
"""Operations that are linear while one of their factors is a constant."""

_WORDS = {
    "NativeLayerNorm": "a layer norm",
    "NativeGroupNorm": "a group norm",
    "Softmax": "a softmax",
    "ScaledDotProductFlashAttentionForCpu": "attention",
    "ScaledDotProductFlashAttention": "attention",
    "ScaledDotProductEfficientAttention": "attention",
    "torch::autograd::CopySlices": "an assignment to a part of the responses",
}
"""Operations that are not linear, in words; others go by their own names."""

_ACTIVATIONS = frozenset(
    {
        *("Relu", "Hardtanh", "LeakyRelu", "PreluKernel", "RreluWithNoise", "Threshold", "Clamp"),
        *("ClampMin", "ClampMax", "Elu", "Celu", "Gelu", "Silu", "Mish", "Hardswish", "Softplus"),
        *("Sigmoid", "Hardsigmoid", "LogSigmoid", "Tanh", "Hardshrink", "Softshrink"),
    }
)
"""Activation functions, which count as the identity."""

_LINEAR = frozenset(
    {
        # sums and constants
        *("Add", "Sub", "Rsub", "Neg", "Sum", "Mean", "Cumsum", "NativeBatchNorm"),
        *("CudnnBatchNorm", "MiopenBatchNorm"),
        # pooling and resizing
        *("AvgPool1D", "AvgPool2D", "AvgPool3D", "AdaptiveAvgPool2D", "AdaptiveAvgPool3D"),
        *("MkldnnAdaptiveAvgPool2D", "UpsampleNearest2D", "UpsampleNearestExact2D"),
        *("UpsampleBilinear2D", "UpsampleBicubic2D", "UpsampleBilinear2DAa"),
        # rearranging
        *("View", "UnsafeView", "ReshapeAlias", "Permute", "Transpose", "T", "Expand", "Squeeze"),
        *("Unsqueeze", "Alias", "Clone", "ToCopy", "Contiguous", "Flip", "Roll", "Repeat"),
        *("Slice", "Select", "Narrow", "Index", "IndexSelect", "Split", "SplitWithSizes"),
        *("UnsafeSplit", "Unbind", "Cat", "Stack", "PixelShuffle", "PixelUnshuffle"),
        *("ChannelShuffle", "NativeChannelShuffle", "ConstantPadNd", "ReflectionPad2D"),
        *("ReplicationPad2D", "Im2Col", "MaskedFill", "Tril", "Triu"),
        "torch::autograd::CopyBackwards",
    }
)
"""Operations whose own derivative does not depend on the image."""

_AT_ONCE, _VALUES_AT_ONCE = 64, 2**23
"""Channels whose incoming channels are ranked at a time, and the values of their kernels."""

_KERNEL_VALUES = 2**25
"""Most values of the kernels of a layer; for very wide layers their grids are smaller."""


@dataclass(frozen=True)
class Sources:
    """The layers that a layer reads, by paths on which none of the others lies."""

    linear: tuple[LayerInfo, ...]
    """Those with weights."""
    refused: dict[LayerInfo, str]
    """Those without, each with the operation that is not linear."""


def sources_of(
    network: nn.Module, target: LayerInfo, candidates: Sequence[LayerInfo], example: Tensor
) -> Sources:
    """Find the layers that a layer reads directly, and which of them it reads linearly.

    A layer from which only activation functions, norms and the like lead to the target is passed
    over: its weights would be those of each channel to itself.

    Args:
        network: a network in eval mode; it is restored afterwards.
        target: the layer.
        candidates: layers that may lie before it.
        example: normalized input (1, C, H, W).
    """
    marks: dict[Node, LayerInfo] = {}

    def mark(info: LayerInfo, output: Tensor) -> Tensor:
        marked = output.clone()
        marks[marked.grad_fn] = info
        return marked

    # The second clone is no leaf, because a network may write to its input.
    inputs = example.clone().requires_grad_().clone()
    output = _run(network, target, candidates, inputs, mark)
    nodes = _consumers_first(output.grad_fn)
    # Whether a convolution or the like lies on a path between a node and the target.
    is_mixed: dict[Node, bool] = {nodes[0]: False} if nodes else {}
    found: dict[Node, LayerInfo] = {}
    for node in nodes:
        if node not in is_mixed:
            continue
        if node in marks and is_mixed[node]:
            found[node] = marks[node]
            continue
        mixed = is_mixed[node] or _name(node) in _MIXING
        for earlier in _earlier(node):
            is_mixed[earlier] = is_mixed.get(earlier, False) or mixed
    refused: dict[LayerInfo, str] = {}
    leads_to: dict[Node, frozenset[LayerInfo]] = {}
    for node in reversed([node for node in nodes if node in is_mixed]):
        if node in found:
            leads_to[node] = frozenset({found[node]})
            continue
        known = (leads_to.get(earlier, frozenset()) for earlier in _earlier(node))
        leads_to[node] = frozenset[LayerInfo]().union(*known)
        if leads_to[node] and (reason := _nonlinearity(node)):
            refused |= dict.fromkeys(leads_to[node] - refused.keys(), reason)
    linear = set(found.values()) - refused.keys()
    return Sources(tuple(info for info in candidates if info in linear), refused)


def connections(
    network: nn.Module,
    target: LayerInfo,
    candidates: Sequence[LayerInfo],
    example: Tensor,
    channels: Sequence[int],
    most: int,
) -> Connections:
    """Compute the strongest incoming channels of some channels of a layer.

    Args:
        network: a network in eval mode.
        target: the layer.
        candidates: layers that may lie before it.
        example: normalized input (1, C, H, W).
        channels: of the target.
        most: largest number of incoming channels with positive, and with negative weights.
    """
    sources = sources_of(network, target, candidates, example)
    refused = {info.name: reason for info, reason in sources.refused.items()}
    if not sources.linear:
        return no_connections(len(channels), most, refused)
    path = _LinearPath(network, target, sources, example)
    side = math.isqrt(_KERNEL_VALUES // (2 * most * len(channels)))
    stride = math.ceil(max(path.sides) / max(1, min(LARGEST_GRID, side)))
    # Fewer where there are many positions: the kernels of all sources are in memory.
    inputs = sum(info.n_channels for info in sources.linear) * math.prod(path.sides)
    size = max(1, min(_AT_ONCE, _VALUES_AT_ONCE // inputs))
    parts = (channels[start : start + size] for start in range(0, len(channels), size))
    found = [_strongest(path.kernels(part, stride), most) for part in parts]
    arrays = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    names = tuple(info.name for info in sources.linear)
    return Connections(names, **arrays, stride=stride, refused=refused)


# --- the derivative ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Window:
    """The positions of a map that the central position of the target reads."""

    size: tuple[int, int]
    """Height and width of the map."""
    top: int
    left: int
    height: int
    width: int

    def cut(self, maps: Tensor) -> Tensor:
        """Return the window of maps (..., L): (..., h, w)."""
        whole = maps.reshape(*maps.shape[:-1], *self.size)
        rows = whole.narrow(-2, self.top, self.height)
        return rows.narrow(-1, self.left, self.width)


class _LinearPath:
    """The linear part of a network from some layers to another, ready for backward passes."""

    def __init__(
        self, network: nn.Module, target: LayerInfo, sources: Sources, example: Tensor
    ) -> None:
        self.sources, self.leaves = sources.linear, dict[LayerInfo, Tensor]()

        def cut(info: LayerInfo, output: Tensor) -> Tensor:
            leaf = output.detach()
            if info not in sources.linear:
                return leaf  # what passes through it is no direct path
            # The clone is no leaf, because a network may write to it.
            self.leaves[info] = leaf.requires_grad_()
            return leaf.clone()

        ends = [*sources.linear, *sources.refused]
        output = _run(network, target, ends, example.clone(), cut)
        with torch.enable_grad():
            self.output = channels_first(output, target)
        for node in _consumers_first(self.output.grad_fn):
            _linearize(node)
        height, width = target.map_size
        # Where strides leave a choice, the later position reads no border.
        self.centre = height // 2 * width + width // 2
        self.windows = self._windows()
        self.sides = (
            max(window.height for window in self.windows),
            max(window.width for window in self.windows),
        )

    def gradients(self, weights: Tensor) -> list[Tensor]:
        """Return the gradient (C, L) of each source, of a weighted sum of channels (K,)."""
        seed = torch.zeros_like(self.output)
        seed[0, :, self.centre] = weights
        leaves = [self.leaves[info] for info in self.sources]
        found = torch.autograd.grad(self.output, leaves, seed, retain_graph=True)
        return [channels_first(g, info)[0] for g, info in zip(found, self.sources, strict=True)]

    def _windows(self) -> list[_Window]:
        """Find the positions of each source that the target reads at its central position."""
        # Random weights, so that kernels of different channels do not cancel.
        generator = torch.Generator().manual_seed(0)
        weights = torch.randn(self.output.shape[1], generator=generator).to(self.output)
        found = zip(self.gradients(weights), self.sources, strict=True)
        return [_window(gradient, info.map_size) for gradient, info in found]

    def kernels(self, channels: Sequence[int], stride: int) -> list[Tensor]:
        """Return the kernels (n, C, h, w) of channels of each source, all of one height and width.

        Args:
            channels: of the target.
            stride: positions along each axis that are added up.
        """
        cut: list[list[Tensor]] = [[] for _ in self.windows]
        for channel in channels:
            weights = torch.zeros(self.output.shape[1], device=self.output.device)
            weights[channel] = 1
            gradients = self.gradients(weights)
            for kept, gradient, window in zip(cut, gradients, self.windows, strict=True):
                kept.append(window.cut(gradient).float().cpu())
        return [_summed(_centred(torch.stack(kept), self.sides), stride) for kept in cut]


def _window(gradient: Tensor, size: tuple[int, int]) -> _Window:
    if math.prod(size) != gradient.shape[-1]:
        size = 1, gradient.shape[-1]
    is_read = gradient.ne(0).any(dim=0).reshape(size)
    rows, columns = (is_read.any(dim=axis).nonzero().flatten().tolist() for axis in (1, 0))
    if not rows:
        return _Window(size, 0, 0, 1, 1)
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    return _Window(size, rows[0], columns[0], height, width)


def _centred(kernel: Tensor, sides: Sequence[int]) -> Tensor:
    """Pad kernels (n, C, h, w) with zeros to a height and width."""
    (top, bottom), (left, right) = (
        ((side - own) // 2, side - own - (side - own) // 2)
        for side, own in zip(sides, kernel.shape[2:], strict=True)
    )
    return nn.functional.pad(kernel, (left, right, top, bottom))


def _summed(kernel: Tensor, stride: int) -> Tensor:
    """Add up squares of neighbouring positions of kernels (n, C, h, w)."""
    if stride == 1:
        return kernel
    rows, columns = (math.ceil(side / stride) for side in kernel.shape[2:])
    whole = _centred(kernel, (rows * stride, columns * stride))
    return whole.reshape(*kernel.shape[:2], rows, stride, columns, stride).sum(dim=(3, 5))


def _strongest(kernels: Sequence[Tensor], most: int) -> dict[str, NDArray[Any]]:
    """Choose the strongest of kernels (n, C, h, w) of several sources, for each of n channels.

    Returns: the arrays of `Connections`.
    """
    counts = [kernel.shape[1] for kernel in kernels]
    source = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    channel = torch.cat([torch.arange(count) for count in counts])
    every = torch.cat(list(kernels), dim=1)
    # In double: the order of the terms must not decide which of two equal channels comes first.
    weight = every.sum(dim=(2, 3), dtype=torch.float64)
    norm = every.abs().sum(dim=(2, 3), dtype=torch.float64)
    total = norm.sum(dim=1, keepdim=True).clamp_min(1e-300)
    chosen = [_ranked(norm * sign.double(), most) for sign in (weight >= 0, weight < 0)]
    index = torch.cat(chosen, dim=1)
    is_empty, at = index < 0, index.clamp_min(0)

    def picked(values: Tensor, empty: float) -> Tensor:
        return values.masked_fill(is_empty, empty)

    kernel = every.gather(1, at[..., None, None].expand(-1, -1, *every.shape[2:]))
    return {
        "source": picked(source[at], -1).int().numpy(),
        "channel": picked(channel[at], -1).int().numpy(),
        "weight": picked(weight.gather(1, at), 0.0).float().numpy(),
        "share": picked((norm / total).gather(1, at), 0.0).float().numpy(),
        "kernel": kernel.masked_fill(is_empty[..., None, None], 0.0).numpy(),
    }


def _ranked(strength: Tensor, most: int) -> Tensor:
    """Return the indices (n, most) of the largest strengths (n, C) above 0; -1 where none is left.

    Of equal ones the first comes first.
    """
    order = strength.argsort(dim=1, descending=True, stable=True)[:, :most]
    order = order.masked_fill(strength.gather(1, order) <= 0, -1)
    return nn.functional.pad(order, (0, most - order.shape[1]), value=-1)


# --- nodes of the graph --------------------------------------------------------------------------


def _name(node: Node) -> str:
    """Name of the operation of a node: `Convolution` of `ConvolutionBackward0`."""
    return re.sub(r"Backward\d*$", "", node.name())


def _earlier(node: Node) -> list[Node]:
    return [earlier for earlier, _ in node.next_functions if earlier is not None]


def _consumers_first(end: Node) -> list[Node]:
    """List the nodes that a node depends on, and itself, each before those that it reads."""
    done: dict[Node, None] = {}
    waiting = [(end, False)] if end is not None else []
    while waiting:  # no recursion: graphs are thousands of nodes deep
        node, is_finished = waiting.pop()
        if is_finished:
            done[node] = None
        elif node not in done:
            waiting.append((node, True))
            waiting += [(earlier, False) for earlier in _earlier(node) if earlier not in done]
    return list(reversed(done))


def _nonlinearity(node: Node) -> str:
    """Name the operation of a node that is not linear in the responses before it; else empty."""
    name, inputs = _name(node), [earlier is not None for earlier, _ in node.next_functions]
    if name in _PRODUCTS:
        first, second = _PRODUCTS[name]
        both = len(inputs) > second and inputs[first] and inputs[second]
        return "a product of two responses" if both else ""
    if name == "Div":
        return "a division by responses" if any(inputs[1:]) else ""
    if name.endswith("BatchNorm"):
        return "a norm over the batch" if node._saved_training else ""
    if name == "MaxPool2DWithIndices" and any(step != 1 for step in node._saved_dilation):
        return "dilated max pooling"
    is_known = name in _LINEAR or name in _ACTIVATIONS or name in _POOLS
    return "" if is_known else _WORDS.get(name, name)


def _linearize(node: Node) -> None:
    """Have the backward pass of a node be that of its linear part."""
    name = _name(node)
    if name in _ACTIVATIONS:
        node.register_hook(lambda inputs, outputs: (outputs[0], *(None for _ in inputs[1:])))
    elif name in _POOLS:
        node.register_hook(lambda inputs, outputs: (_POOLS[name](node, outputs[0]),))


def _average_pool(node: Node, gradient: Tensor) -> Tensor:
    """The backward pass of average pooling with the windows of a max pooling."""
    kernel = node._saved_kernel_size
    stride, padding, ceil = node._saved_stride, node._saved_padding, node._saved_ceil_mode
    whole = node._saved_self
    pooled: Tensor = torch.ops.aten.avg_pool2d_backward(
        gradient, whole, kernel, stride or kernel, padding, ceil, True, None
    )
    return pooled


def _adaptive_average_pool(node: Node, gradient: Tensor) -> Tensor:
    pooled: Tensor = torch.ops.aten._adaptive_avg_pool2d_backward(gradient, node._saved_self)
    return pooled


_POOLS: Mapping[str, Callable[[Node, Tensor], Tensor]] = {
    "MaxPool2DWithIndices": _average_pool,
    "AdaptiveMaxPool2D": _adaptive_average_pool,
}
"""Max poolings, with the backward pass of the average pooling that they count as."""


# --- running the network -------------------------------------------------------------------------


def _run(
    network: nn.Module,
    target: LayerInfo,
    candidates: Sequence[LayerInfo],
    inputs: Tensor,
    replace: Callable[[LayerInfo, Tensor], Tensor],
) -> Tensor:
    """Run a network up to the first output of a layer, with the first outputs of others replaced.

    Raises:
        RuntimeError: this pass did not call the layer.
    """
    found: list[Tensor] = []
    seen: set[str] = set()

    def hook(info: LayerInfo) -> Callable[..., Any]:
        def change(module: nn.Module, args: Any, output: Any) -> Any:
            # A layer that returns several tensors is no source, though it may be a target.
            if info.name in seen or not isinstance(output, Tensor):
                return output
            seen.add(info.name)
            return replace(info, output)

        return change

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        tensor = main_tensor(output)
        if tensor is not None:
            found.append(tensor)
            raise StopForward

    others = {info.name: hook(info) for info in candidates if info.name != target.name}
    hooks = (
        module_of(network, name).register_forward_hook(called)
        for name, called in {**others, target.name: stop}.items()
    )
    with suppress(StopForward), attached(hooks), contained(), torch.enable_grad():
        network(inputs)
    check_called([target], [target.name] if found else [])
    return found[0]
