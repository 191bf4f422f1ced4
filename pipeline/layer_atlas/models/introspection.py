"""Model introspection: shapes, axes, channels, calls and FLOPs of every layer.

One forward pass observes the layers. A second pass on two larger images distinguishes the axes of
batch, channels and positions. It also reveals the tokens of vision transformers without a position
(class token, registers): before the first attention they are the same for every image.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from layer_atlas.models.activations import OUTPUT, main_tensor
from layer_atlas.models.containment import attached, restored
from layer_atlas.plan.jobs import LayerInfo

Shape = tuple[int, ...]

_TALLER, _WIDER = 64, 128
"""Pixels added to height and width for the second pass: multiples of any usual stride."""

_LAST = frozenset({"Linear", "MultiheadAttention", "RNNBase"})
_FIRST = frozenset(
    {
        *("_ConvNd", "_BatchNorm", "GroupNorm", "_InstanceNorm"),
        *("_AvgPoolNd", "_MaxPoolNd", "_LPPoolNd", "_AdaptiveAvgPoolNd", "_AdaptiveMaxPoolNd"),
    }
)
_NORMS = frozenset({"LayerNorm", "RMSNorm"})
"""Norms over the channels, which are last in most of them."""

Tokens = tuple[int, int]
"""Number of non-spatial tokens before and after the others."""


@dataclass(frozen=True)
class SecondRun:
    """Output shapes for other images than those of the first pass."""

    larger: dict[nn.Module, Shape]
    """Shapes for two larger images; only for modules that the pass reached."""
    twice: dict[nn.Module, Shape]
    """Shapes for two images of the same size; filled only when the larger images failed."""
    fixed: dict[nn.Module, Tokens]
    """Tokens at both ends that are the same for two images, of modules where the others differ."""

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
        example: normalized input (1, C, H, W).
    """
    _, colours, height, width = example.shape
    # Height and width grow by different amounts, so that a transposed map is recognised.
    larger = torch.zeros(2, colours, height + _TALLER, width + _WIDER).normal_(
        generator=torch.Generator().manual_seed(0)
    )
    found = SecondRun({}, {}, {})
    if not _observe(network, larger, found, found.larger):
        _observe(network, torch.cat([example, example.flip(3)]), found, found.twice)
    return found


@torch.no_grad()
def _observe(
    network: nn.Module, inputs: Tensor, found: SecondRun, shapes: dict[nn.Module, Shape]
) -> bool:
    """Record the first output of each module, and return whether the pass completed.

    Args:
        network: a network in eval mode; it is restored afterwards.
        inputs: two different images (2, C, H, W).
        found: receives the fixed tokens.
        shapes: receives their shapes.
    """

    def note(module: nn.Module, args: Any, output: Any) -> None:
        tensor = main_tensor(output)
        if tensor is None or module in shapes:
            return
        shapes[module] = tuple(tensor.shape)
        if any(tokens := _fixed_tokens(tensor)):
            found.fixed[module] = tokens

    hooks = (module.register_forward_hook(note) for module in network.modules())
    with restored(network), attached(hooks):
        try:
            network(inputs)
        except Exception:  # noqa: BLE001 - many networks reject images of another size
            return False
    return True


def _fixed_tokens(tokens: Tensor) -> Tokens:
    """Count the tokens (2, T, C) or (T, 2, C) at both ends that are the same for two images."""
    if tokens.ndim != 3 or 2 not in tokens.shape[:2]:
        return 0, 0
    first, second = tokens.unbind(0 if tokens.shape[0] == 2 else 1)
    # Up to rounding: rows of a batch may be computed by different kernels.
    differ = ~torch.isclose(first, second, rtol=1e-5, atol=1e-6).all(dim=1)
    places = differ.nonzero().flatten().tolist()
    return (places[0], len(differ) - 1 - places[-1]) if places else (0, 0)


@dataclass
class ChannelAxes:
    """Infers the channel axis module by module, in the order of the forward pass."""

    second: SecondRun
    _views: dict[int, tuple[Tensor, int]] = field(default_factory=dict)
    """By memory address: a tensor whose channel axis is known, and that axis."""
    _by_shape: dict[Shape, set[int]] = field(default_factory=dict)

    def find(
        self, module: nn.Module, source: Tensor | None, output: Tensor, batch_axis: int
    ) -> int | None:
        """Return the channel axis of a module's output; `None` if it has none, as a map of depth.

        Args:
            module: the module.
            source: first tensor of its input.
            output: its output for a batch of one image.
            batch_axis: the axis of the images.
        """
        shape = tuple(output.shape)
        kinds = {base.__name__ for base in type(module).__mro__}
        candidates = self.second.unchanged(module, shape) - {batch_axis}
        if output.ndim > 2 and (not candidates or self._lost_its_channels(output)):
            return None
        axis = self._of_kind(kinds, module, output, candidates)
        if axis is None and len(candidates) == 1:
            axis = min(candidates)
        if axis is None:
            axis = self._inherited(source, output, candidates)
        # Keeping the tensor keeps its address from being reused by another one.
        self._views[output.data_ptr()] = (output, axis)
        self._by_shape.setdefault(shape, set()).add(axis)
        return axis

    def _of_kind(
        self, kinds: set[str], module: nn.Module, output: Tensor, candidates: set[int]
    ) -> int | None:
        last = output.ndim - 1
        if kinds & _FIRST:
            return 1
        if kinds & _LAST or output.ndim == 2:
            return last
        if kinds & _NORMS and len(candidates) != 1:
            # LayerNorm2d of ConvNeXt is a LayerNorm that works on channels-first maps.
            usual = 1 if "LayerNorm2d" in kinds else last
            return _normalized_axis(module, output, candidates, usual)
        return None

    def _inherited(self, source: Tensor | None, output: Tensor, candidates: set[int]) -> int:
        """Infer the axis from the memory of output or input, from the shape, or by convention."""
        axes = [self._of_view(output)]
        if source is not None and source.ndim == output.ndim:
            axis = self._of_view(source)
            # Other axes may have changed, as in what resizes maps.
            if axis is not None and source.shape[axis] == output.shape[axis]:
                axes.append(axis)
        known = self._by_shape.get(tuple(output.shape), set())
        axes += [*known] if len(known) == 1 else []
        conventional = output.ndim - 1 if output.ndim == 3 else 1
        return next((axis for axis in axes if axis in candidates), conventional)

    def _lost_its_channels(self, output: Tensor) -> bool:
        """Return whether an output is a view of a tensor with one channel, without its axis."""
        original, axis = self._views.get(output.data_ptr(), (output, 0))
        shape = original.shape
        return shape[axis] == 1 and output.shape == shape[:axis] + shape[axis + 1 :]

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


def _normalized_axis(
    module: nn.Module, output: Tensor, candidates: set[int], usual: int
) -> int | None:
    """Return the axis that a norm scales to the same size everywhere, which is that of channels.

    Args:
        module: a norm with a weight per channel, or without weights.
        output: its output.
        candidates: the axes in question.
        usual: the axis of most norms of this kind, where the output does not show it.
    """
    weight, bias = getattr(module, "weight", None), getattr(module, "bias", None)
    if not isinstance(weight, Tensor) or weight.ndim != 1:
        weight, bias = torch.ones(()), None
    axes = [a for a in candidates if weight.ndim == 0 or output.shape[a] == len(weight)]

    def unevenness(axis: int) -> float:
        plain = output.movedim(axis, -1) - (bias if isinstance(bias, Tensor) else 0.0)
        sizes = (plain / weight).square().mean(dim=-1)
        return float(sizes.std() / sizes.mean()) if sizes.numel() > 1 else math.inf

    if len(axes) < 2:
        return axes[0] if axes else usual
    best = min(axes, key=unevenness)
    return best if unevenness(best) < _EVEN else usual


_EVEN = 0.05
"""Largest relative deviation of the sizes of normalized vectors; a norm's epsilon causes some."""


def describe_layers(
    network: nn.Module, example: Tensor, keep_prefix_tokens: bool = False
) -> list[LayerInfo]:
    """Describe every module that a forward pass calls, in the order of `named_modules()`.

    The network's own output comes last. The network is restored afterwards.

    Args:
        network: a network in eval mode.
        example: normalized input (1, C, H, W).
        keep_prefix_tokens: whether non-spatial tokens stay part of activations.
    """
    observer = _Observer(network, not keep_prefix_tokens, second_run(network, example))
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
        # Imported here: it imports triton, which workers do without.
        from torch.utils.flop_counter import flop_registry

        self._formulas = flop_registry
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
        formula = self._formulas.get(getattr(func, "_overloadpacket", func))
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

    def __init__(self, network: nn.Module, exclude: bool, second: SecondRun) -> None:
        self.names = {module: name for name, module in network.named_modules() if name}
        if OUTPUT not in self.names.values():
            self.names[network] = OUTPUT
        self.exclude, self.prefix = exclude, prefix_tokens(network)
        self.positions = set[int]()
        self.tokens: dict[int, Tokens] = {}
        self.second, self.axes = second, ChannelAxes(second)
        self.counter = _FlopCounter()
        self.flops_at_entry: dict[nn.Module, int] = {}
        self.records: dict[nn.Module, dict[str, Any]] = {}

    @contextmanager
    def hooked(self) -> Iterator[None]:
        handles = []
        for module in self.names:
            handles.append(module.register_forward_pre_hook(self._before))
            handles.append(module.register_forward_hook(self._after, with_kwargs=True))
        with attached(handles), self.counter:
            yield

    def _before(self, module: nn.Module, args: Any) -> None:
        self.flops_at_entry[module] = self.counter.total

    def _after(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
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
        axis = self.axes.find(module, main_tensor((args, kwargs)), tensor, batch_axis)
        if axis is None:
            return
        shape = tuple(tensor.movedim(batch_axis, 0).shape[1:])
        channel_axis = axis if axis > batch_axis else axis + 1
        before, after = self._non_spatial(module, shape, channel_axis)
        self.records[module] = {
            "shape": shape,
            "channel_axis": channel_axis,
            "batch_axis": batch_axis,
            "prefix_tokens": before,
            "suffix_tokens": after,
            "calls": 1,
            "flops": total - self.flops_at_entry[module],
            "flops_before": total,
        }

    def _non_spatial(self, module: nn.Module, shape: Shape, channel_axis: int) -> Tokens:
        """Return the number of non-spatial tokens before and after the others in an output (T, C).

        They are the excess over a number of positions seen before, such as that of the patch map.
        Which they are shows before the first attention; later layers of as many tokens have them
        at the same ends.
        """
        length = math.prod(shape) // shape[channel_axis - 1]
        tokens = 0, 0
        if self.exclude and length not in self.positions and (len(shape), channel_axis) == (2, 2):
            known = self.second.fixed.get(module), self.tokens.get(length), (self.prefix, 0)
            for before, after in filter(None, known):
                rest = length - before - after
                if rest in self.tokens:  # more of them have come to those that were there
                    before, after = before + self.tokens[rest][0], after + self.tokens[rest][1]
                elif rest not in self.positions:
                    continue
                tokens = self.tokens[length] = (before, after)
                break
        self.positions.add(length - sum(tokens))
        return tokens

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
    """Count the tokens that a network says to prepend to the patch tokens: class token, registers.

    It is needed where no module shows them before the first attention. timm's networks report the
    count (`num_prefix_tokens`). Without a report it is the number of tokens in the parameters that
    hold them, of shape (1, T, C), (T, C) or (C,).
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
