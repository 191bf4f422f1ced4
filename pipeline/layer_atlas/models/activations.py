"""Activations: what a module returns, as a tensor (B, C, L) of samples, channels and positions."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

from torch import Tensor, nn

from layer_atlas.models.containment import contained
from layer_atlas.models.layers import module_of
from layer_atlas.plan.jobs import LayerInfo

T = TypeVar("T")

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
"""Names that ViTs give to the parameters which they put in front of the tokens of the image."""

_FIRST_KEYS = ("logits", "out")
"""Where mappings and records keep the main output: Hugging Face, torchvision's segmentation."""

_DEEPEST = 4


def main_tensor(output: Any) -> Tensor | None:
    """The tensor of a module's output: itself, or the first one in a container, however nested.

    Containers are tuples, lists, mappings, dataclasses and plain objects. In those with names,
    `logits` and `out` come first.
    """
    return main_part(output, Tensor)


def main_part(output: Any, kind: type[T], depth: int = _DEEPEST) -> T | None:
    """The same for any kind of part, such as the proxies of a tracer."""
    if isinstance(output, kind):
        return output
    parts = (main_part(part, kind, depth - 1) for part in (_parts(output) if depth else ()))
    return next((part for part in parts if part is not None), None)


def _parts(output: Any) -> Iterable[Any]:
    if isinstance(output, list | tuple):
        return output
    if isinstance(output, Mapping):
        named: Mapping[Any, Any] = output
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        named = {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    elif isinstance(output, nn.Module) or not hasattr(output, "__dict__"):
        return ()
    else:
        named = vars(output)
    return chain((named.get(key) for key in _FIRST_KEYS), named.values())


def channels_first(activation: Tensor, layer: LayerInfo) -> Tensor:
    """A layer's activation to (B, C, L), positions row by row; vectors have L = 1.

    Leading tokens that are no positions are left out.
    """
    batch_first = activation.movedim(layer.batch_axis, 0)
    shape = batch_first.movedim(layer.channel_axis, 1)
    flat = shape.reshape(shape.shape[0], shape.shape[1], math.prod(shape.shape[2:]))
    return flat[:, :, layer.prefix_tokens :] if layer.prefix_tokens else flat


def prefix_tokens(network: nn.Module) -> int:
    """How many tokens a network puts in front of those of the image: class token, registers.

    As timm's networks report, else as many as their parameters (1, T, C), (T, C) or (C,) hold.
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


class StopForward(Exception):
    """Leaves a forward pass at the layer that was asked for; never leaves this module."""


def reduce_layers(
    network: nn.Module,
    layers: Sequence[LayerInfo],
    inputs: Tensor,
    reduce: Callable[[Tensor], T],
) -> dict[str, T]:
    """Run the network once and reduce the first activation of some layers, each where it is made.

    Nothing is kept but what `reduce` returns, and nothing can have been written over before it
    looks. The forward pass is left behind the last of the layers.

    Args:
        network: a network in eval mode.
        layers: described for this network.
        inputs: normalised (B, C, H, W).
        reduce: an activation (B, K, L) to whatever is wanted of it.
    Returns: by name of the layer, without those that this pass did not call.
    """
    found: dict[str, T] = {}

    def note(info: LayerInfo) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensor = main_tensor(output)
            if info.name not in found and tensor is not None:
                found[info.name] = reduce(channels_first(tensor, info))
                if len(found) == len(layers):
                    raise StopForward

        return hook

    handles = [module_of(network, i.name).register_forward_hook(note(i)) for i in layers]
    try:
        with contained():
            network(inputs)
    except StopForward:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found


def plain_activations(
    network: nn.Module, layers: Sequence[LayerInfo], inputs: Tensor
) -> dict[str, Tensor]:
    """What the first call of some layers returns, copied on the spot, by name of the layer.

    The plain way that all others are compared with; the network gets a copy of its inputs.
    """
    return reduce_layers(network, layers, inputs.clone(), Tensor.clone)
