"""A leaky gradient through ReLU, so that a channel which starts closed can still be reached.

The forward pass is unchanged to the bit. In the backward pass the closed side of every ReLU lets a
small share of the gradient through. Without it a channel whose every unit starts below zero gets no
gradient at all and its image stays grey (lucid redirects such gradients for the same reason).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class _LeakyReLU(torch.autograd.Function):
    """ReLU forward, leaky ReLU backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float, in_place: bool) -> Tensor:
        if in_place:
            ctx.mark_dirty(x)
        y = torch.relu_(x) if in_place else torch.relu(x)
        ctx.save_for_backward(y)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors  # type: ignore[attr-defined]
        slope: float = ctx.slope  # type: ignore[attr-defined]
        return torch.ops.aten.leaky_relu_backward(grads[0], y, slope, True), None, None


class LeakyGradient(TorchFunctionMode):
    """While active, gradients leak by `slope` through every closed ReLU that is called.

    Calls are met where they happen, so the network is neither changed nor searched: modules,
    functions, methods and in-place variants alike.
    """

    _RELUS: frozenset[Callable[..., Any]] = frozenset(
        {F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu_}
    )

    _IN_PLACE: frozenset[Callable[..., Any]] = frozenset({torch.relu_, Tensor.relu_, F.relu_})

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope = slope

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace ReLU by its leaky twin; run everything else as it is."""
        if func in self._RELUS:
            named = dict(zip(("input", "inplace"), args, strict=False)) | (kwargs or {})
            in_place = func in self._IN_PLACE or bool(named.get("inplace"))
            return _LeakyReLU.apply(named["input"], self.slope, in_place)
        return func(*args, **(kwargs or {}))
