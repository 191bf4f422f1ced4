"""What one forward pass tells of the layers of a network: shapes, channels, calls, FLOPs."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pipeline.jobs import LayerInfo
from pipeline.networks.activations import main_tensor, prefix_tokens
from pipeline.networks.layers import OUTPUT


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
