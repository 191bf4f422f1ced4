"""Prefix tokens of vision transformers (class token, registers), which have no position."""

import math

from torch import nn

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
