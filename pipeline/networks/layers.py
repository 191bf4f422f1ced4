"""Layers: found by globs, described by one dummy forward, captured by stopping the forward early.

Layers are the modules of a network, and its own output. Whoever hooks here, unhooks in `finally`.
Activations leave this module as (B, C, L): samples, channels, positions.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.errors import UserError, unknown
from pipeline.jobs import LayerInfo
from pipeline.networks.activations import channels_first, main_tensor, prefix_tokens
from pipeline.networks.simplify import simplify

T = TypeVar("T")

OUTPUT = "output"
"""The layer that is what the network returns, unless a module has this name."""


class StopForward(Exception):
    """Leaves a forward pass at the layer that was asked for; never leaves this module."""


def module_of(network: nn.Module, name: str) -> nn.Module:
    """The module of a layer, which for the network's own output is the network."""
    if name == OUTPUT and not isinstance(getattr(network, OUTPUT, None), nn.Module):
        return network
    return network.get_submodule(name)


# --- description ---------------------------------------------------------------------------------


def describe_layers(
    network: nn.Module, example: Tensor, class_token: bool = False
) -> list[LayerInfo]:
    """Describe every module that a forward pass calls, in the order of `named_modules()`.

    The network's own output comes last.

    Args:
        network: a network in eval mode.
        example: normalised input (1, C, H, W).
        class_token: whether tokens that are no positions belong to activations.
    """
    observer = _Observer(network, 0 if class_token else prefix_tokens(network))
    with observer.watching():
        # With a gradient asked for, attention runs step by step and its FLOPs are seen; a copy,
        # because a network may write over its input.
        network(example.clone().requires_grad_().clone())
    return observer.layers()


class _Observer:
    """Notes shape, channel axis, calls and FLOPs of every module during one forward pass."""

    def __init__(self, network: nn.Module, prefix: int) -> None:
        self.names = {module: name for name, module in network.named_modules() if name}
        if OUTPUT not in self.names.values():
            self.names[network] = OUTPUT
        self.prefix, self.positions = prefix, set[int]()
        self.counter = FlopCounterMode(display=False)
        self.started: dict[nn.Module, int] = {}
        self.seen: dict[nn.Module, dict[str, Any]] = {}
        self.axis_by_shape: dict[tuple[int, ...], int] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        handles = []
        for module in self.names:
            handles.append(module.register_forward_pre_hook(self._before))
            handles.append(module.register_forward_hook(self._after))
        try:
            with self.counter:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, module: nn.Module, args: Any) -> None:
        self.started[module] = self.counter.get_total_flops()

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if module in self.seen:
            self.seen[module]["calls"] += 1
            return
        tensor = main_tensor(output)
        if tensor is None or tensor.ndim < 2 or len(tensor) != 1:
            return  # no channels, or no batch in front: the example is a batch of one
        total = self.counter.get_total_flops()
        axis = self._channel_axis(module, args, tensor)
        self.axis_by_shape[tuple(tensor.shape)] = axis
        self.seen[module] = {
            "shape": tuple(tensor.shape[1:]),
            "channel_axis": axis,
            "prefix_tokens": self._prefix(tensor, axis),
            "calls": 1,
            "flops": total - self.started[module],
            "flops_before": total,
        }

    def _channel_axis(self, module: nn.Module, args: Any, output: Tensor) -> int:
        """Where the channels are: told by the kind of module, else inherited from its input."""
        last = output.ndim - 1
        kinds = {base.__name__ for base in type(module).__mro__}
        if kinds & {"Linear", "LayerNorm", "RMSNorm", "MultiheadAttention"} or output.ndim == 2:
            # LayerNorm2d of ConvNeXt is a LayerNorm that works on channels-first maps.
            return 1 if "LayerNorm2d" in kinds else last
        if kinds & {"_ConvNd", "_BatchNorm", "GroupNorm", "_InstanceNorm"}:
            return 1
        dims = getattr(module, "dims", None)
        source = main_tensor(args)
        if source is not None and kinds & {"Permute"} and dims is not None:
            return [dim % output.ndim for dim in dims].index(
                self.axis_by_shape.get(tuple(source.shape), 1)
            )
        known = self.axis_by_shape.get(tuple(output.shape))
        return known if known is not None else (last if output.ndim == 3 else 1)

    def _prefix(self, output: Tensor, channel_axis: int) -> int:
        """How many tokens of an output (1, T, C) are no positions.

        They are what it has more of than there were positions before: of the map of patches, say.
        """
        length = output.numel() // max(output.shape[channel_axis], 1)
        longer = length not in self.positions and length - self.prefix in self.positions
        prefix = self.prefix if output.ndim == 3 and channel_axis == 2 and longer else 0
        self.positions.add(length - prefix)
        return prefix

    def layers(self) -> list[LayerInfo]:
        total = max(self.counter.get_total_flops(), 1)
        return [
            LayerInfo(
                name=self.names[module],
                module_type=type(module).__name__,
                kinds=tuple(base.__name__ for base in type(module).__mro__[:-2]),
                n_channels=seen["shape"][seen["channel_axis"] - 1],
                flops_share=seen["flops"] / total,
                **seen,
            )
            for module, seen in ((m, self.seen[m]) for m in self.names if m in self.seen)
        ]


def match_layers(
    patterns: Sequence[str], layers: Sequence[LayerInfo], network: nn.Module, model: str
) -> list[LayerInfo]:
    """The layers that the patterns choose, in the network's order, each once.

    A pattern is a glob over layer names, optionally followed by `@` and a glob over module types:
    `features.*`, `*@Conv2d`, `layer3.*@ReLU`. A type matches a module's class and its bases. The
    network's own output is chosen by its name alone, `output`.

    Raises:
        UserError: a pattern that chooses nothing, or names a module that the forward never calls.
    """
    chosen: set[str] = set()
    for pattern in patterns:
        name_glob, _, kind_glob = pattern.partition("@")
        matches = {
            layer.name
            for layer in layers
            if fnmatchcase(layer.name, name_glob)
            and any(fnmatchcase(kind, kind_glob or "*") for kind in layer.kinds)
            and (pattern == OUTPUT or module_of(network, layer.name) is not network)
        }
        if not matches:
            raise _no_match(pattern, layers, network, model)
        chosen |= matches
    return [layer for layer in layers if layer.name in chosen]


def _no_match(
    pattern: str, layers: Sequence[LayerInfo], network: nn.Module, model: str
) -> UserError:
    name_glob, _, kind_glob = pattern.partition("@")
    if name_glob and name_glob in dict(network.named_modules()) and not kind_glob:
        return UserError(
            f"layer {pattern!r} of model {model!r} has no activations: a forward pass never calls "
            "it, or what it returns does not begin with a tensor that has images on its first axis "
            "and channels on another. `atlas layers` lists those that have."
        )
    remedy = "Patterns are globs over names, with @Type to filter by module type, as in *@Conv2d."
    if kind_glob:
        kinds = {k for x in layers if x.name != OUTPUT for k in x.kinds if k[0] != "_"}
        remedy += f" Types in this model: {', '.join(sorted(kinds))}."
    return unknown(f"layer of model {model!r}:", pattern, [layer.name for layer in layers], remedy)


# --- capture -------------------------------------------------------------------------------------


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


def reduce_layers(
    network: nn.Module,
    layers: Sequence[LayerInfo],
    inputs: Tensor,
    reduce: Callable[[Tensor], T],
) -> dict[str, T]:
    """Run the network once and reduce the first activation of some layers, each where it is made.

    Nothing is kept but what `reduce` returns, and nothing can have been written over before it
    looks. The forward pass is left behind the last of the layers.

    Args:
        network: a network in eval mode.
        layers: described for this network.
        inputs: normalised (B, C, H, W).
        reduce: an activation (B, K, L) to whatever is wanted of it.
    Returns: by name of the layer, without those that this pass did not call.
    """
    found: dict[str, T] = {}

    def note(info: LayerInfo) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensor = main_tensor(output)
            if info.name not in found and tensor is not None:
                found[info.name] = reduce(channels_first(tensor, info))
                if len(found) == len(layers):
                    raise StopForward

        return hook

    handles = [module_of(network, i.name).register_forward_hook(note(i)) for i in layers]
    try:
        network(inputs)
    except StopForward:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found


@contextmanager
def capture(names: Sequence[str], network: nn.Module, outputs: dict[str, Any]) -> Iterator[None]:
    """While active, note the output of the first call of some layers under their names."""

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            outputs.setdefault(name, output)

        return hook

    handles = [module_of(network, n).register_forward_hook(note(n)) for n in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
