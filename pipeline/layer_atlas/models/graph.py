"""A network as a graph: traced once, cut at any of its layers, and simplified.

The tracer records the output node of each module, so that a cut at a layer ends exactly there.

Two rewrites save work in eval mode. A batch norm is an affine map with fixed coefficients, so it
can be folded into the convolution before it. ReLU commutes with max pooling and concatenation, so
it can run after them, on fewer elements or fewer tensors.

A rewrite checks its preconditions and skips anything that it does not recognise. The network itself
never changes: graphs share its modules, so a rewrite works on its own graph and on copies of the
modules that it changes.
"""

import math
import operator
import sys
from collections import Counter
from collections.abc import Callable, Sequence, Set
from copy import copy, deepcopy
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from layer_atlas.models.activations import main_part, module_of
from layer_atlas.models.containment import restored
from layer_atlas.models.inputs import feed, inputs_of


class Trace:
    """The graph of a network in eval mode; it shares the network's modules."""

    def __init__(
        self, network: nn.Module, graph: fx.GraphModule, outputs: dict[nn.Module, fx.Node]
    ) -> None:
        self.network, self.graph, self._outputs = network, graph, outputs

    def cut(self, names: Sequence[str]) -> fx.GraphModule | None:
        """Return a graph that computes only the outputs of some layers and returns them as a tuple.

        Returns: `None` if one of the layers is hidden inside a node.
        """
        ends = [self._outputs.get(module_of(self.network, name)) for name in names]
        if None in ends:
            return None
        copies: dict[fx.Node, fx.Node] = {}
        nodes = fx.Graph(owning_module=self.graph)
        nodes.graph_copy(self.graph.graph, copies)
        outputs = [copies[end] for end in ends if end is not None]
        nodes.output(tuple(outputs))
        # Assertions on later layers count as impure and would keep these layers in the graph.
        nodes.eliminate_dead_code(lambda n: n.is_impure() and n.target is not torch._assert)
        cut = fx.GraphModule(self.graph, nodes)
        _protect(cut, outputs)
        # Its arguments are those of the network's forward pass.
        feed(cut, inputs_of(self.network))
        return cut


def _protect(graph: fx.GraphModule, outputs: Sequence[fx.Node]) -> None:
    """Let no in-place activation overwrite an output of the graph that it reads."""
    for output in dict.fromkeys(outputs):
        for user in list(output.users):
            module = _module(user)
            if module is not None and getattr(module, "inplace", False):
                # A copy of the module: the network itself stays as it is.
                apart = copy(module)
                apart.inplace = False  # type: ignore[assignment]
                user.target = f"apart_{user.name}"
                graph.add_submodule(user.target, apart)
            elif user.kwargs.get("inplace"):
                user.kwargs = {**user.kwargs, "inplace": False}
            elif _is_relu(user):  # the functions and methods whose name ends in an underscore
                user.op, user.target = "call_function", torch.relu
    graph.recompile()


def trace(network: nn.Module) -> Trace | None:
    """Trace a network without changing it; return `None` where its forward cannot be traced."""
    tracer = _Tracer()
    with restored(network):
        try:
            graph = fx.GraphModule(network, tracer.trace(network))
        except Exception:  # noqa: BLE001 - whatever stops the tracer, hooks still work
            return None
    (end,) = (node for node in graph.graph.nodes if node.op == "output")
    output = main_part(end.args, fx.Node)
    if output is not None:
        tracer.outputs[network] = output
    return Trace(network, graph, tracer.outputs)


class _Tracer(fx.Tracer):
    """Traces into every module that is not a single operation of torch.nn or torchvision.ops."""

    def __init__(self) -> None:
        # A network that calls torchvision's operations has imported them, which takes seconds.
        ops = sys.modules.get("torchvision.ops")
        super().__init__(autowrap_modules=(math, *([ops] if ops else [])))
        self.outputs: dict[nn.Module, fx.Node] = {}
        """Output node of each module's first call."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module becomes a single node."""
        # Blocks of torchvision.ops, such as Conv2dNormActivation, contain layers of their own.
        operation = type(m).__module__.startswith("torchvision.ops") and not any(m.children())
        return operation or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Trace a call and record its output node."""
        output = super().call_module(m, forward, args, kwargs)
        proxy = main_part(output, fx.Proxy)
        if proxy is not None:
            # The first call, as with hooks: a shared module is called several times.
            self.outputs.setdefault(m, proxy.node)
        return output


_Functions = frozenset[Callable[..., Any]]

_RELUS: _Functions = frozenset({F.relu, F.relu_, torch.relu, torch.relu_})
_RELU_METHODS = frozenset({"relu", "relu_"})
_MAX_POOLS: _Functions = frozenset({F.max_pool2d, torch.max_pool2d})
_MAX_POOL_ARGUMENTS = (
    "input",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "ceil_mode",
    "return_indices",
)
_CATS: _Functions = frozenset({torch.cat, torch.concat, torch.concatenate})

# Operations that only read their inputs and return fresh memory, without views or aliases.
_MAKER_MODULES = frozenset({nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d})
_MAKERS: _Functions = _CATS | _MAX_POOLS | {F.conv2d, F.avg_pool2d, operator.add}


def simplify(graph: fx.GraphModule) -> fx.GraphModule:
    """Return a faster graph that computes the same as `graph`, which is not modified.

    Values agree up to rounding where a batch norm was folded, and bit for bit elsewhere. So do
    gradients, with one exception: with `LeakyGradient`, the gradient that leaks through a max-pool
    window whose inputs are all closed goes to the largest of them instead of the first.

    Args:
        graph: a traced network, frozen and in eval mode.
    """
    nodes = fx.Graph()
    nodes.output(nodes.graph_copy(graph.graph, {}))
    work = fx.GraphModule(graph, nodes)
    _fold_batch_norms(work)
    _lower_relus(work)
    work.graph.lint()
    # A new GraphModule holds only the modules that the graph still uses. Deleting the others could
    # delete submodules of modules that are shared with the network.
    simplified = fx.GraphModule(work, work.graph)
    feed(simplified, inputs_of(graph))
    return simplified


# --- batch norm ----------------------------------------------------------------------------------


def _fold_batch_norms(work: fx.GraphModule) -> None:
    """Replace each convolution that is followed by a batch norm by one that does both."""
    calls = Counter(_module(node) for node in work.graph.nodes if node.op == "call_module")
    for node in list(work.graph.nodes):
        source, norm = _source(node), _module(node)
        if source is None or type(norm) is not nn.BatchNorm2d:
            continue
        conv = _module(source)
        if type(conv) is not nn.Conv2d or not _fits(conv, norm):
            continue
        # A convolution that has just been folded and meets a second norm has a call count of 0.
        if len(source.users) == 1 and calls[conv] <= 1 and calls[norm] <= 1:
            # A new name: the old one may lie inside a module that is shared with the network.
            source.target = f"folded_{source.name}"
            work.add_submodule(source.target, _folded(conv, norm))
            node.replace_all_uses_with(source)
            work.graph.erase_node(node)


def _fits(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    """Return whether the norm is a fixed affine map with one pair of coefficients per channel."""
    return (
        not (conv.training or norm.training)
        and norm.running_mean is not None
        and norm.running_var is not None
        and norm.num_features == conv.out_channels
    )


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> nn.Conv2d:
    """Fold a norm into a convolution in at least fp32, rounding once at the end."""
    dtype = conv.weight.dtype
    wide = torch.promote_types(dtype, torch.float32)
    return fuse_conv_bn_eval(deepcopy(conv).to(wide), deepcopy(norm).to(wide)).to(dtype)


# --- ReLU ----------------------------------------------------------------------------------------


def _lower_relus(work: fx.GraphModule) -> None:
    """Move ReLUs from before max pools and concatenations to after them."""
    for node in list(work.graph.nodes):
        relus = _inputs_to_swap(node)
        if relus and all(_can_wait(relu) for relu in relus) and _is_only_read(node):
            _swap(node, relus)


def _inputs_to_swap(node: fx.Node) -> list[fx.Node]:
    """Return the inputs of a max pool or a concatenation, without duplicates; else nothing."""
    inputs: Any = ()
    if _is_max_pool(node):
        inputs = (_source(node),)
    elif _calls(node, _CATS, set()):
        inputs = node.args[0] if node.args else node.kwargs.get("tensors")
    if not isinstance(inputs, list | tuple) or not all(isinstance(x, fx.Node) for x in inputs):
        return []
    return list(dict.fromkeys(inputs))


def _can_wait(relu: fx.Node) -> bool:
    """Return whether a node is a ReLU whose effect is seen only by its single user.

    Its input must be fresh memory with no other user. Otherwise other readers of the memory would
    miss an in-place ReLU, and another operation could overwrite the memory before the ReLU runs.
    """
    source = _source(relu)
    return (
        _is_relu(relu)
        and len(relu.users) == 1
        and source is not None
        and len(source.users) == 1
        and _is_maker(source)
    )


def _is_only_read(node: fx.Node) -> bool:
    """Return whether no user overwrites the output, which the ReLU saves for its gradient."""
    return all(user.op == "output" or _is_maker(user) for user in node.users)


def _swap(node: fx.Node, relus: list[fx.Node]) -> None:
    """Rewrite node(relu(x), ...) to relu(node(x, ...))."""
    for relu in relus:
        source = _source(relu)
        assert source is not None
        relu.replace_all_uses_with(source)
        node.graph.erase_node(relu)
    with node.graph.inserting_after(node):
        # In place is safe: the output is fresh, and neither operation saves it for its gradient.
        lowered = node.graph.call_function(torch.relu_, (node,))
    node.replace_all_uses_with(lowered, delete_user_cb=lambda user: user is not lowered)


# --- kinds of nodes ------------------------------------------------------------------------------


def _is_relu(node: fx.Node) -> bool:
    as_method = node.op == "call_method" and node.target in _RELU_METHODS
    return as_method or _calls(node, _RELUS, {nn.ReLU})


def _is_maker(node: fx.Node) -> bool:
    return _calls(node, _MAKERS, _MAKER_MODULES)


def _is_max_pool(node: fx.Node) -> bool:
    """Return whether a node is a max pool whose every window holds at least one element."""
    if not _calls(node, _MAX_POOLS, {nn.MaxPool2d}):
        return False
    module = _module(node)
    settings = dict(zip(_MAX_POOL_ARGUMENTS, node.args, strict=False)) | node.kwargs
    if module is not None:
        settings = vars(module)
    # A dilated window can lie entirely in the padding: the ReLU would turn its -inf into 0.
    return settings.get("dilation", 1) in (1, (1, 1)) and not settings.get("return_indices")


def _calls(node: fx.Node, functions: Set[Callable[..., Any]], kinds: Set[type]) -> bool:
    """Return whether a node calls one of these functions or a module of exactly these classes."""
    if node.op == "call_function":
        return node.target in functions and "out" not in node.kwargs
    # Exactly: a subclass may override the forward.
    return type(_module(node)) in kinds


def _module(node: fx.Node) -> nn.Module | None:
    """Return the module that a node calls, or None if hooks change its behaviour."""
    graph = node.graph.owning_module
    if node.op != "call_module" or graph is None:
        return None
    module = graph.get_submodule(str(node.target))
    return None if module._forward_hooks or module._forward_pre_hooks else module


def _source(node: fx.Node) -> fx.Node | None:
    """Return the first input of a node if it is a node as well."""
    first = node.args[0] if node.args else node.kwargs.get("input")
    return first if isinstance(first, fx.Node) else None
