"""Model introspection: shapes, axes, channels, calls and FLOPs of every layer.

One forward pass observes the layers; a second one, on two larger images, tells the axes of batch,
channels and positions apart.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from layer_atlas.models.activations import main_tensor, prefix_tokens
from layer_atlas.models.containment import restored
from layer_atlas.models.layers import OUTPUT
from layer_atlas.plan.jobs import LayerInfo

Shape = tuple[int, ...]

_TALLER, _WIDER = 64, 128
"""Pixels by which the images of the second run are larger: multiples of any usual stride."""

_LAST = frozenset({"Linear", "MultiheadAttention", "RNNBase"})
_FIRST = frozenset({"_ConvNd", "_BatchNorm", "GroupNorm", "_InstanceNorm"})
_NORMS = frozenset({"LayerNorm", "RMSNorm"})
"""Norms over channels that are last, unless the second run proves otherwise."""


@dataclass(frozen=True)
class SecondRun:
    """Shapes of outputs for other images than those of the first run."""

    larger: dict[nn.Module, Shape]
    """Of two larger images; only of modules that the network came to."""
    twice: dict[nn.Module, Shape]
    """Of two images of the same size; only where there is no other."""

    def batch_axis(self, module: nn.Module, shape: Shape) -> int | None:
        """The axis of the images in an output for one image; `None` if it has none."""
        other = self.larger.get(module) or self.twice.get(module)
        if other is None or len(other) != len(shape):
            return 0 if shape[:1] == (1,) else None
        grown = [axis for axis, pair in enumerate(zip(shape, other, strict=True)) if pair == (1, 2)]
        return grown[0] if grown else None

    def unchanged(self, module: nn.Module, shape: Shape) -> set[int]:
        """The axes of an output that do not grow with the image; all of them if that is unknown."""
        other = self.larger.get(module)
        if other is None or len(other) != len(shape):
            return set(range(len(shape)))
        return {axis for axis, (n, m) in enumerate(zip(shape, other, strict=True)) if n == m}


def second_run(network: nn.Module, example: Tensor) -> SecondRun:
    """Run a network on two larger images, and, if it takes none, on two of the same size.

    Args:
        network: a network in eval mode; it is left as it was.
        example: normalised input (1, C, H, W).
    """
    _, colours, height, width = example.shape
    larger = torch.zeros(2, colours, height + _TALLER, width + _WIDER).normal_(
        generator=torch.Generator().manual_seed(0)
    )
    shapes, complete = _output_shapes(network, larger)
    if complete:
        return SecondRun(shapes, {})
    return SecondRun(shapes, _output_shapes(network, example.repeat(2, 1, 1, 1))[0])


@torch.no_grad()
def _output_shapes(network: nn.Module, inputs: Tensor) -> tuple[dict[nn.Module, Shape], bool]:
    """What the first call of each module returns, and whether the network got through."""
    shapes: dict[nn.Module, Shape] = {}

    def note(module: nn.Module, args: Any, output: Any) -> None:
        tensor = main_tensor(output)
        if tensor is not None:
            shapes.setdefault(module, tuple(tensor.shape))

    with restored(network):
        handles = [module.register_forward_hook(note) for module in network.modules()]
        try:
            network(inputs)
        except Exception:  # noqa: BLE001 - not every network takes images of every size
            return shapes, False
        finally:
            for handle in handles:
                handle.remove()
    return shapes, True


@dataclass
class ChannelAxes:
    """Finds the axis of the channels, module by module, in the order of the forward pass."""

    second: SecondRun
    _views: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    """By address in memory: a tensor whose channel axis is known, and that axis."""
    _by_shape: dict[Shape, set[int]] = field(default_factory=dict)

    def find(
        self, module: nn.Module, source: Tensor | None, output: Tensor, batch_axis: int
    ) -> int:
        """The axis of the channels of a module's output.

        Args:
            module: whose output it is.
            source: the first tensor of its input.
            output: for a batch of one image.
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
        """From the tensor that the output or the input is a view of, from its shape, by habit."""
        axes = [self._of_view(output)]
        if source is not None and source.shape == output.shape:
            axes.append(self._of_view(source))
        known = self._by_shape.get(tuple(output.shape), set())
        axes += [*known] if len(known) == 1 else []
        habit = output.ndim - 1 if output.ndim == 3 else 1
        return next((axis for axis in axes if axis in candidates), habit)

    def _of_view(self, tensor: Tensor) -> int | None:
        """The channel axis of a view of a tensor whose own is known: that of the same stride."""
        known = self._views.get(tensor.data_ptr())
        if known is None:
            return None
        original, axis = known
        step, count = original.stride(axis), original.shape[axis]
        pairs = enumerate(zip(tensor.stride(), tensor.shape, strict=True))
        found = [i for i, pair in pairs if pair == (step, count)]
        return found[0] if len(found) == 1 else None


def describe_layers(
    network: nn.Module, example: Tensor, keep_prefix_tokens: bool = False
) -> list[LayerInfo]:
    """Describe every module that a forward pass calls, in the order of `named_modules()`.

    The network's own output comes last. The network is left as it was.

    Args:
        network: a network in eval mode.
        example: normalised input (1, C, H, W).
        keep_prefix_tokens: whether tokens that are no positions belong to activations.
    """
    prefix = 0 if keep_prefix_tokens else prefix_tokens(network)
    observer = _Observer(network, prefix, second_run(network, example))
    with restored(network), observer.watching():
        # With a gradient asked for, attention runs step by step and its FLOPs are seen; a copy,
        # because a network may write over its input.
        network(example.clone().requires_grad_().clone())
    return observer.layers()


class _Observer:
    """Notes shape, axes, calls and FLOPs of every module during one forward pass."""

    def __init__(self, network: nn.Module, prefix: int, second: SecondRun) -> None:
        self.names = {module: name for name, module in network.named_modules() if name}
        if OUTPUT not in self.names.values():
            self.names[network] = OUTPUT
        self.prefix, self.positions = prefix, set[int]()
        self.second, self.axes = second, ChannelAxes(second)
        self.counter = FlopCounterMode(display=False)
        self.started: dict[nn.Module, int] = {}
        self.seen: dict[nn.Module, dict[str, Any]] = {}

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
        if tensor is None or tensor.ndim < 2:
            return  # no channels
        batch_axis = self.second.batch_axis(module, tuple(tensor.shape))
        if batch_axis is None:
            return  # images are not kept apart, as in windows of attention
        total = self.counter.get_total_flops()
        axis = self.axes.find(module, main_tensor(args), tensor, batch_axis)
        shape = tuple(tensor.movedim(batch_axis, 0).shape[1:])
        channel_axis = axis if axis > batch_axis else axis + 1
        self.seen[module] = {
            "shape": shape,
            "channel_axis": channel_axis,
            "batch_axis": batch_axis,
            "prefix_tokens": self._prefix(shape, channel_axis),
            "calls": 1,
            "flops": total - self.started[module],
            "flops_before": total,
        }

    def _prefix(self, shape: tuple[int, ...], channel_axis: int) -> int:
        """How many tokens of an output (T, C) are no positions.

        They are what it has more of than there were positions before: of the map of patches, say.
        """
        length = 1
        for axis, side in enumerate(shape, 1):
            length *= 1 if axis == channel_axis else side
        longer = length not in self.positions and length - self.prefix in self.positions
        prefix = self.prefix if len(shape) == 2 and channel_axis == 2 and longer else 0
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
