"""A network as a graph: traced once, then cut at any of its layers.

The tracer notes what each module returns, so that a cut at a layer ends at exactly that.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx, nn

from layer_atlas.models.activations import main_part
from layer_atlas.models.containment import restored
from layer_atlas.models.layers import module_of


class Trace:
    """The graph of a network in eval mode; it shares the network's modules."""

    def __init__(
        self, network: nn.Module, graph: fx.GraphModule, outputs: dict[nn.Module, fx.Node]
    ) -> None:
        self.network, self.graph, self._outputs = network, graph, outputs

    def cut(self, names: Sequence[str]) -> fx.GraphModule | None:
        """A graph that returns the outputs of some layers, as a tuple, and computes nothing else.

        Returns: `None` if one of the layers is hidden inside of a node.
        """
        ends = [self._outputs.get(module_of(self.network, name)) for name in names]
        if None in ends:
            return None
        copies: dict[fx.Node, fx.Node] = {}
        nodes = fx.Graph(owning_module=self.graph)
        nodes.graph_copy(self.graph.graph, copies)
        nodes.output(tuple(copies[end] for end in ends if end is not None))
        # What a network asserts of later layers would keep them in the graph.
        nodes.eliminate_dead_code(lambda n: n.is_impure() and n.target is not torch._assert)
        return fx.GraphModule(self.graph, nodes)


def trace(network: nn.Module) -> Trace | None:
    """Trace a network, which is left as it was; `None` where its forward cannot be followed."""
    tracer = _Tracer()
    with restored(network):
        try:
            graph = fx.GraphModule(network, tracer.trace(network))
        except Exception:  # noqa: BLE001 - whatever a tracer trips over, hooks still work
            return None
    (end,) = (node for node in graph.graph.nodes if node.op == "output")
    output = main_part(end.args, fx.Node)
    if output is not None:
        tracer.outputs[network] = output
    return Trace(network, graph, tracer.outputs)


class _Tracer(fx.Tracer):
    """Follows whatever is not one operation of torch.nn or torchvision.ops."""

    def __init__(self) -> None:
        import torchvision.ops

        super().__init__(autowrap_modules=(math, torchvision.ops))
        self.outputs: dict[nn.Module, fx.Node] = {}
        """What the first call of each module returned."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is a node, rather than the nodes that it consists of."""
        # Blocks of torchvision.ops, such as Conv2dNormActivation, consist of layers to be seen.
        operation = type(m).__module__.startswith("torchvision.ops") and not any(m.children())
        return operation or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Trace a call, and note its output."""
        output = super().call_module(m, forward, args, kwargs)
        proxy = main_part(output, fx.Proxy)
        if proxy is not None:
            self.outputs.setdefault(m, proxy.node)
        return output
