"""Model introspection: shapes, axes, channels, calls and FLOPs of every layer.

One forward pass observes the layers. A second pass on two larger images distinguishes the axes of
batch, channels and positions. Prefix tokens of vision transformers (class token, registers) have no
position and are counted by their parameters.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from layer_atlas.models.activations import OUTPUT, main_tensor
from layer_atlas.models.containment import restored
from layer_atlas.plan.jobs import LayerInfo

Shape = tuple[int, ...]

_TALLER, _WIDER = 64, 128
"""Pixels added to height and width for the second pass: multiples of any usual stride."""

_LAST = frozenset({"Linear", "MultiheadAttention", "RNNBase"})
_FIRST = frozenset({"_ConvNd", "_BatchNorm", "GroupNorm", "_InstanceNorm"})
_NORMS = frozenset({"LayerNorm", "RMSNorm"})
"""Norms over the last axis as channels, unless the second pass disproves it."""


@dataclass(frozen=True)
class SecondRun:
    """Output shapes for other images than those of the first pass."""

    larger: dict[nn.Module, Shape]
    """Shapes for two larger images; only for modules that the pass reached."""
    twice: dict[nn.Module, Shape]
    """Shapes for two images of the same size; filled only when the larger images failed."""

    def batch_axis(self, module: nn.Module, shape: Shape) -> int | None:
        """Return the batch axis of an output for one image; `None` if it has none."""
        second_shape = self.larger.get(module) or self.twice.get(module)
        if second_shape is None or len(second_shape) != len(shape):
            return 0 if shape[:1] == (1,) else None
        grown = [
            axis
            for axis, pair in enumerate(zip(shape, second_shape, strict=True))
            if pair == (1, 2)
        ]
        return grown[0] if grown else None

    def unchanged(self, module: nn.Module, shape: Shape) -> set[int]:
        """Return the axes that do not grow with the image; all axes if that is unknown."""
        second_shape = self.larger.get(module)
        if second_shape is None or len(second_shape) != len(shape):
            return set(range(len(shape)))
        return {axis for axis, (n, m) in enumerate(zip(shape, second_shape, strict=True)) if n == m}


def second_run(network: nn.Module, example: Tensor) -> SecondRun:
    """Run a network on two larger images, or on two of the same size if it rejects larger ones.

    Args:
        network: a network in eval mode; it is restored afterwards.
        example: normalised input (1, C, H, W).
    """
    _, colours, height, width = example.shape
    # Height and width grow by different amounts, so that a transposed map is recognised.
    larger = torch.zeros(2, colours, height + _TALLER, width + _WIDER).normal_(
        generator=torch.Generator().manual_seed(0)
    )
    shapes, complete = _output_shapes(network, larger)
    if complete:
        return SecondRun(shapes, {})
    return SecondRun(shapes, _output_shapes(network, example.repeat(2, 1, 1, 1))[0])


@torch.no_grad()
def _output_shapes(network: nn.Module, inputs: Tensor) -> tuple[dict[nn.Module, Shape], bool]:
    """Return the output shape of each module's first call, and whether the pass completed."""
    shapes: dict[nn.Module, Shape] = {}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        tensor = main_tensor(output)
        if tensor is not None:
            shapes.setdefault(module, tuple(tensor.shape))

    with restored(network):
        handles = [module.register_forward_hook(note) for module in network.modules()]
        try:
            network(inputs)
        except Exception:  # noqa: BLE001 - many networks reject images of another size
            return shapes, False
        finally:
            for handle in handles:
                handle.remove()
    return shapes, True


@dataclass
class ChannelAxes:
    """Infers the channel axis module by module, in the order of the forward pass."""

    second: SecondRun
    _views: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    """By memory address: a tensor whose channel axis is known, and that axis."""
    _by_shape: dict[Shape, set[int]] = field(default_factory=dict)

    def find(
        self, module: nn.Module, source: Tensor | None, output: Tensor, batch_axis: int
    ) -> int:
        """Return the channel axis of a module's output.

        Args:
            module: the module.
            source: first tensor of its input.
            output: its output for a batch of one image.
            batch_axis: the axis of the images.
        """
        shape = tuple(output.shape)
        kinds = {base.__name__ for base in type(module).__mro__}
        candidates = self.second.unchanged(module, shape) - {batch_axis}
        axis = self._of_kind(kinds, output, candidates)
        if axis is None and len(candidates) == 1:
            axis = min(candidates)
        if axis is None:
            axis = self._inherited(source, output, candidates or set(range(output.ndim)))
        # Keeping the tensor keeps its address from being reused by another one.
        self._views[output.data_ptr()] = (output, axis)
        self._by_shape.setdefault(shape, set()).add(axis)
        return axis

    def _of_kind(self, kinds: set[str], output: Tensor, candidates: set[int]) -> int | None:
        last = output.ndim - 1
        if kinds & _FIRST:
            return 1
        if kinds & _LAST or output.ndim == 2:
            return last
        if kinds & _NORMS and (last in candidates or len(candidates) != 1):
            # LayerNorm2d of ConvNeXt is a LayerNorm that works on channels-first maps.
            return 1 if "LayerNorm2d" in kinds else last
        return None

    def _inherited(self, source: Tensor | None, output: Tensor, candidates: set[int]) -> int:
        """Infer the axis from the memory of output or input, from the shape, or by convention."""
        axes = [self._of_view(output)]
        if source is not None and source.shape == output.shape:
            axes.append(self._of_view(source))
        known = self._by_shape.get(tuple(output.shape), set())
        axes += [*known] if len(known) == 1 else []
        conventional = output.ndim - 1 if output.ndim == 3 else 1
        return next((axis for axis in axes if axis in candidates), conventional)

    def _of_view(self, tensor: Tensor) -> int | None:
        """Return the channel axis of a view: that with the stride and length of the original's."""
        known = self._views.get(tensor.data_ptr())
        if known is None:
            return None
        original, axis = known
        step, count = original.stride(axis), original.shape[axis]
        pairs = enumerate(zip(tensor.stride(), tensor.shape, strict=True))
        matches = [i for i, pair in pairs if pair == (step, count)]
        return matches[0] if len(matches) == 1 else None


def describe_layers(
    network: nn.Module, example: Tensor, keep_prefix_tokens: bool = False
) -> list[LayerInfo]:
    """Describe every module that a forward pass calls, in the order of `named_modules()`.

    The network's own output comes last. The network is restored afterwards.

    Args:
        network: a network in eval mode.
        example: normalised input (1, C, H, W).
        keep_prefix_tokens: whether non-spatial tokens stay part of activations.
    """
    prefix = 0 if keep_prefix_tokens else prefix_tokens(network)
    observer = _Observer(network, prefix, second_run(network, example))
    with restored(network), observer.hooked():
        # With a gradient requested, attention runs as separate operations whose FLOPs are counted.
        # The second clone is no leaf, because a network may write to its input.
        network(example.clone().requires_grad_().clone())
    return observer.layers()


class _FlopCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the floating-point operations of a forward pass, by torch's formulas."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else torch imports its compiler at the first operation, to keep it out of this mode, which
        # takes as long as torch itself. `FlopCounterMode` does the same.
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count it; one without a formula is counted by its parts."""
        kwargs = kwargs or {}
        formula = flop_registry.get(getattr(func, "_overloadpacket", func))
        if formula is None and isinstance(func, torch._ops.OpOverload):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        if formula is not None:
            self.total += formula(*args, **kwargs, out_val=result)
        return result


class _Observer:
    """Records shape, axes, calls and FLOPs of every module during one forward pass."""

    def __init__(self, network: nn.Module, prefix: int, second: SecondRun) -> None:
        self.names = {module: name for name, module in network.named_modules() if name}
        if OUTPUT not in self.names.values():
            self.names[network] = OUTPUT
        self.prefix, self.positions = prefix, set[int]()
        self.second, self.axes = second, ChannelAxes(second)
        self.counter = _FlopCounter()
        self.flops_at_entry: dict[nn.Module, int] = {}
        self.records: dict[nn.Module, dict[str, Any]] = {}

    @contextmanager
    def hooked(self) -> Iterator[None]:
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
        self.flops_at_entry[module] = self.counter.total

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if module in self.records:
            self.records[module]["calls"] += 1
            return
        tensor = main_tensor(output)
        if tensor is None or tensor.ndim < 2:
            return  # an output of fewer than two axes has no channels
        batch_axis = self.second.batch_axis(module, tuple(tensor.shape))
        if batch_axis is None:
            return  # the batch is merged with another axis, as in window attention
        total = self.counter.total
        axis = self.axes.find(module, main_tensor(args), tensor, batch_axis)
        shape = tuple(tensor.movedim(batch_axis, 0).shape[1:])
        channel_axis = axis if axis > batch_axis else axis + 1
        self.records[module] = {
            "shape": shape,
            "channel_axis": channel_axis,
            "batch_axis": batch_axis,
            "prefix_tokens": self._prefix(shape, channel_axis),
            "calls": 1,
            "flops": total - self.flops_at_entry[module],
            "flops_before": total,
        }

    def _prefix(self, shape: tuple[int, ...], channel_axis: int) -> int:
        """Return the number of non-spatial tokens in an output (T, C).

        It is the excess over a number of positions seen before, such as that of the patch map.
        """
        length = 1
        for axis, side in enumerate(shape, 1):
            length *= 1 if axis == channel_axis else side
        longer = length not in self.positions and length - self.prefix in self.positions
        prefix = self.prefix if len(shape) == 2 and channel_axis == 2 and longer else 0
        self.positions.add(length - prefix)
        return prefix

    def layers(self) -> list[LayerInfo]:
        total = max(self.counter.total, 1)
        return [
            LayerInfo(
                name=self.names[module],
                module_type=type(module).__name__,
                kinds=tuple(base.__name__ for base in type(module).__mro__[:-2]),
                n_channels=record["shape"][record["channel_axis"] - 1],
                flops_share=record["flops"] / total,
                **record,
            )
            for module, record in ((m, self.records[m]) for m in self.names if m in self.records)
        ]


_TOKENS = frozenset(
    {
        "class_token",
        "cls_token",
        "class_embedding",
        "dist_token",
        "distillation_token",
        "reg_token",
        "register_tokens",
    }
)
"""Parameter names that ViTs use for the tokens that precede the patch tokens of an image."""


def prefix_tokens(network: nn.Module) -> int:
    """Count the tokens that a network prepends to the patch tokens: class token, registers.

    The count is the one that timm's networks report (`num_prefix_tokens`). Without a report it is
    the number of tokens in their parameters of shape (1, T, C), (T, C) or (C,).
    """
    for module in network.modules():
        reported = getattr(module, "num_prefix_tokens", None)
        if isinstance(reported, int):
            return reported
    return sum(
        math.prod(tensor.shape[:-1])
        for name, tensor in network.named_parameters()
        if name.rpartition(".")[2] in _TOKENS
    )
