"""Modified gradients: the forward pass is unchanged to the bit, the backward pass is replaced.

Torch function modes intercept the calls during the optimization. A network is neither changed nor
searched, and modules, functions, methods and in-place variants are all covered.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

# --- a leak through ReLU -------------------------------------------------------------------------


class LeakyGradient(TorchFunctionMode):
    """While active, gradients leak through every closed ReLU that is called.

    In the backward pass, the closed side of a ReLU passes a small fraction of the gradient. Without
    it, a channel whose every unit starts below zero gets no gradient and its image stays grey
    (lucid redirects such gradients for the same reason). ReLU6, hard tanh, hard sigmoid and hard
    swish are flat on that side too, and leak alike. Their flat upper sides do not leak: a unit
    there is open.

    Args:
        slope: fraction of the gradient that leaks.
        closed: (B,) float32, 1 for samples whose gradients leak and 0 for others. It is read in the
            backward pass, so that it may be filled once the scores are known.
    """

    _RELUS: frozenset[Callable[..., Any]] = frozenset(
        {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu_}
    )

    _IN_PLACE: frozenset[Callable[..., Any]] = frozenset({torch.relu_, Tensor.relu_, F.relu_})

    _FLAT_BELOW: Mapping[Callable[..., Any], float] = {
        F.relu6: 0.0,
        F.hardtanh: -1.0,
        F.hardsigmoid: -3.0,
        F.hardswish: -3.0,
    }
    """Input below which a function is flat, unless it has an argument `min_val`."""

    def __init__(self, slope: float, closed: Tensor) -> None:
        super().__init__()
        self.leak = _Leak(slope, closed)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace activations by their leaky counterparts; run everything else unchanged."""
        # Modules such as nn.ReLU need no entry: their forward calls the function.
        if func in self._RELUS:
            named = dict(zip(("input", "inplace"), args, strict=False)) | (kwargs or {})
            in_place = func in self._IN_PLACE or bool(named.get("inplace"))
            return _LeakyReLU.apply(named["input"], self.leak, in_place)
        if func in self._FLAT_BELOW:
            return self._leaking(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))

    def _leaking(self, func: Any, args: Any, kwargs: Any) -> Tensor:
        """Call a function of `_FLAT_BELOW`, with a leak where it is flat."""
        call = signature(func).bind(*args, **kwargs)
        call.apply_defaults()
        named = call.arguments
        x, in_place = named["input"], named.pop("inplace")
        # A copy, because the backward pass needs the input that the function would overwrite.
        named["input"] = x.clone() if in_place else x
        edge = named.get("min_val", self._FLAT_BELOW[func])
        leaking: Tensor = _LeakBelow.apply(named["input"], func(**named), edge, self.leak)
        return x.copy_(leaking) if in_place else leaking


@dataclass(frozen=True)
class _Leak:
    """The slope of each sample, 0 for those that do not leak."""

    slope: float
    closed: Tensor

    def per_sample(self, activation: Tensor) -> Tensor:
        """Return slopes that broadcast to an activation (B, ...), in its number format."""
        rows = len(activation)
        closed = self.closed
        if rows != len(closed):
            # Windows of an image are rows of their own; where rows are something else, all leak.
            whole = rows % len(closed) == 0
            closed = closed.repeat_interleave(rows // len(closed)) if whole else closed.amax()[None]
        slopes = (closed * self.slope).to(activation.dtype)
        return slopes.view(-1, *(1,) * (activation.ndim - 1))


class _LeakBelow(torch.autograd.Function):
    """The output y of an activation of x; backward, a leak to x where it is at or below an edge."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, edge: float, leak: _Leak) -> Tensor:
        ctx.save_for_backward(x <= edge)
        ctx.leak = leak
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        (closed,) = ctx.saved_tensors
        return grads[0] * closed * ctx.leak.per_sample(grads[0]), grads[0], None, None


class _LeakyReLU(torch.autograd.Function):
    """ReLU forward, leaky ReLU backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, leak: _Leak, in_place: bool) -> Tensor:
        if in_place:
            ctx.mark_dirty(x)
        y = torch.relu_(x) if in_place else torch.relu(x)
        # The output suffices for the mask, and unlike the input it survives an in-place ReLU.
        ctx.save_for_backward(y)
        ctx.leak = leak
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        return torch.where(y > 0, grads[0], grads[0] * ctx.leak.per_sample(y)), None, None


# --- the way back to the image -------------------------------------------------------------------


class PolyphaseStem(TorchFunctionMode):
    """While active, strided convolutions of an image compute their input gradient faster.

    The input gradient of a convolution with stride s is a convolution with holes and three output
    channels. Libraries handle this case badly: it is the most expensive operation of a small
    network. In polyphase form (sorted by position modulo s) it is one dense convolution with s * s
    times as many channels: 1.3 to 4 times faster on a CPU.
    """

    _LARGEST_IMAGE_CHANNELS = 4

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace such convolutions by their polyphase form; run everything else unchanged."""
        if func is torch.conv2d:  # F.conv2d is the same object
            names = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
            named = dict(zip(names, args, strict=False)) | (kwargs or {})
            if self._is_strided_stem(**named):
                stride, padding = named["stride"], named.get("padding", (0, 0))
                return _StridedStem.apply(
                    named["input"], named["weight"], named.get("bias"), stride, padding
                )
        return func(*args, **(kwargs or {}))

    def _is_strided_stem(
        self,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = (0, 0),
        dilation: Any = (1, 1),
        groups: int = 1,
    ) -> bool:
        return (
            input.requires_grad
            and not weight.requires_grad
            and input.shape[1] <= self._LARGEST_IMAGE_CHANNELS
            and groups == 1
            and isinstance(stride, tuple)
            and isinstance(padding, tuple)
            and stride[0] == stride[1] > 1
            and tuple(dilation) == (1, 1)
            # Under autocast, forward and backward would use different number formats.
            and not torch.is_autocast_enabled(input.device.type)
        )


class _StridedStem(torch.autograd.Function):
    """A strided convolution forward, its polyphase gradient backward."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        stride: tuple[int, int],
        padding: tuple[int, int],
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.size, ctx.stride, ctx.padding = x.shape[-2:], stride[0], padding
        return torch.conv2d(x, weight, bias, stride, padding)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        kernel = _phases(ctx.saved_tensors[0], ctx.stride)
        border = (kernel.shape[2] - 1, kernel.shape[3] - 1)
        # pixel_shuffle interleaves the phases: channel (i, j) goes to positions i, j modulo s.
        padded = F.pixel_shuffle(torch.conv2d(grads[0], kernel, padding=border), ctx.stride)
        (height, width), (top, left) = ctx.size, ctx.padding
        # Rows and columns beyond the last window have a gradient of zero.
        missing = (left + width - padded.shape[3], top + height - padded.shape[2])
        padded = F.pad(padded, (0, max(0, missing[0]), 0, max(0, missing[1])))
        return padded[:, :, top : top + height, left : left + width], None, None, None, None


def _phases(weight: Tensor, stride: int) -> Tensor:
    """Sort a kernel (O, C, K, L) by phases: (C * s * s, O, ceil(K / s), ceil(L / s)), flipped."""
    outputs, inputs, height, width = weight.shape
    taps = (-(-height // stride), -(-width // stride))
    # Zero taps complete the last phase of a kernel whose side is no multiple of the stride.
    padding = (0, taps[1] * stride - width, 0, taps[0] * stride - height)
    grid = F.pad(weight, padding).view(outputs, inputs, taps[0], stride, taps[1], stride)
    phases = grid.permute(1, 3, 5, 0, 2, 4).flip(4, 5)
    phases = phases.reshape(inputs * stride**2, outputs, *taps)
    return phases.contiguous(memory_format=torch.channels_last)
