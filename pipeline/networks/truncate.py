"""The network up to some layers: nothing but what they need, where it can be traced.

Activations leave as (B, C, L): samples, channels, positions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from pipeline.jobs import LayerInfo
from pipeline.networks.activations import channels_first, main_tensor
from pipeline.networks.capture import reduce_layers
from pipeline.networks.layers import module_of
from pipeline.networks.simplify import simplify

Forward = Callable[[Tensor], tuple[Tensor, ...]]
"""Inputs (B, C, H, W) to the activations (B, K, L) of some layers."""


def truncate(network: nn.Module, layers: Sequence[LayerInfo], example: Tensor) -> Forward:
    """The network up to the last of some layers: normalised inputs to the layers' activations.

    Where torchvision can trace the network the result is a graph that holds nothing but what the
    layers need. Otherwise the whole network runs and is left at the last of them. Both give the
    same bits: the graph is used only if it does so on `example`.

    Args:
        network: a network in eval mode.
        layers: as described for this network.
        example: normalised input (1, C, H, W) on the network's device and in its dtype.
    """
    whole = _StoppedForward(network, layers)
    graph = _traced(network, layers)
    if graph is None or not _same_output(graph, whole, example):
        return whole
    return graph


def truncate_for_speed(network: nn.Module, layers: Sequence[LayerInfo], example: Tensor) -> Forward:
    """The same, simplified where the network could be traced: other rounding, less work."""
    forward = truncate(network, layers, example)
    if not isinstance(forward, _TracedForward):
        return forward
    simple = _TracedForward(simplify(forward.graph), layers)
    return simple if _about_same_output(simple, forward, example) else forward


class _StoppedForward:
    """Runs the network and leaves it when all layers were called, by an exception of our own."""

    def __init__(self, network: nn.Module, layers: Sequence[LayerInfo]) -> None:
        self.network, self.layers = network, layers
        self.distinct = list({layer.name: layer for layer in layers}.values())

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        found = reduce_layers(self.network, self.distinct, x, lambda a: a)
        return tuple(found[layer.name] for layer in self.layers)


class _TracedForward:
    """Runs a graph that ends at the layers."""

    def __init__(self, graph: fx.GraphModule, layers: Sequence[LayerInfo]) -> None:
        self.graph, self.layers = graph, layers

    def __call__(self, x: Tensor) -> tuple[Tensor, ...]:
        found = self.graph(x)
        return tuple(channels_first(_tensor_of(found[i.name]), i) for i in self.layers)


def _tensor_of(output: Any) -> Tensor:
    """The tensor of a layer's output, which has one: else it would be no layer."""
    tensor = main_tensor(output)
    assert tensor is not None
    return tensor


def _traced(network: nn.Module, layers: Sequence[LayerInfo]) -> _TracedForward | None:
    from torchvision.models.feature_extraction import create_feature_extractor

    try:
        nodes = {_node_of(network, layer.name): layer.name for layer in layers}
        graph = create_feature_extractor(network, nodes, suppress_diff_warning=True)
    except Exception:  # noqa: BLE001 - whatever tracing trips over, the stopped forward works
        return None
    # What a network asserts of later layers would keep them in the graph.
    graph.graph.eliminate_dead_code(lambda n: n.is_impure() and n.target is not torch._assert)
    graph.recompile()
    return _TracedForward(graph.eval(), layers)


def _node_of(network: nn.Module, name: str) -> str:
    """What the tracer calls a layer; the network's own output is its last node."""
    from torchvision.models.feature_extraction import get_graph_node_names

    if module_of(network, name) is not network:
        return name
    return str(get_graph_node_names(network, suppress_diff_warning=True)[1][-1])


def _same_output(graph: Forward, whole: Forward, example: Tensor) -> bool:
    try:
        with torch.no_grad():
            pairs = zip(graph(example.clone()), whole(example.clone()), strict=True)
            return all(torch.equal(left, right) for left, right in pairs)
    except Exception:  # noqa: BLE001 - a graph that cannot run is a graph that is not used
        return False


def _about_same_output(simple: Forward, whole: Forward, example: Tensor) -> bool:
    """Whether two forwards differ by no more than the rounding of the example's dtype."""
    # Deep networks lose about half of the digits of a bf16 number, and a third of an fp32 one's.
    tolerance = torch.finfo(example.dtype).eps ** 0.5
    with torch.no_grad():
        pairs = list(zip(simple(example.clone()), whole(example.clone()), strict=True))
    return all(
        bool((left.float() - right.float()).norm() <= tolerance * right.float().norm())
        for left, right in pairs
    )
