"""What a network's layers are: shapes, channels, calls, FLOPs, from running it on one image."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from layer_atlas.models.activations import main_tensor, prefix_tokens
from layer_atlas.models.axes import ChannelAxes, SecondRun, second_run
from layer_atlas.models.containment import restored
from layer_atlas.models.layers import OUTPUT
from layer_atlas.plan.jobs import LayerInfo


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
