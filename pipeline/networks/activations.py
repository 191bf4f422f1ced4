"""Activations: what a module returns, as a tensor (B, C, L) of samples, channels and positions."""

import math
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from torch import Tensor, nn

from pipeline.jobs import LayerInfo

_TOKENS = frozenset(
    {"class_token", "cls_token", "dist_token", "distillation_token", "reg_token", "register_tokens"}
)
"""Names that ViTs give to the parameters which they put in front of the tokens of the image."""

_FIRST_KEYS = ("logits", "out")
"""Where dicts have what matters: of Hugging Face, of torchvision's segmentation."""


def main_tensor(output: Any) -> Tensor | None:
    """The tensor of a module's output: itself, or the first of a tuple (attention, say) or a dict.

    Of a dict `logits` or `out` come first.
    """
    if isinstance(output, Tensor):
        return output
    parts: Iterable[Any] = output if isinstance(output, list | tuple) else ()
    if isinstance(output, Mapping):
        parts = chain((output.get(key) for key in _FIRST_KEYS), output.values())
    return next((part for part in parts if isinstance(part, Tensor)), None)


def channels_first(activation: Tensor, layer: LayerInfo) -> Tensor:
    """A layer's activation to (B, C, L), positions row by row; vectors have L = 1.

    Leading tokens that are no positions are left out.
    """
    shape = activation.movedim(layer.channel_axis, 1)
    flat = shape.reshape(shape.shape[0], shape.shape[1], math.prod(shape.shape[2:]))
    return flat[:, :, layer.prefix_tokens :] if layer.prefix_tokens else flat


def prefix_tokens(network: nn.Module) -> int:
    """How many tokens a network puts in front of those of the image: class token, registers.

    As timm's networks tell, else as many as their parameters (1, T, C) hold.
    """
    for module in network.modules():
        told = getattr(module, "num_prefix_tokens", None)
        if isinstance(told, int):
            return told
    return sum(
        tensor.shape[1]
        for name, tensor in network.named_parameters()
        if name.rpartition(".")[2] in _TOKENS and tensor.ndim == 3
    )
