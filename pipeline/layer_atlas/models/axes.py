"""Axes of an activation: which one counts the images, which one the channels.

Shapes alone do not say: a map may be as high and wide as it has channels, and tokens may come
before the batch. So the network is run a second time, on more and larger images where it takes
them: the axis of the batch grows from 1 to 2, those of positions grow with the image, and the
channels stay. What remains open is settled by the kind of module and by the memory that a tensor
is a view of.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from layer_atlas.models.activations import main_tensor
from layer_atlas.models.containment import restored

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
