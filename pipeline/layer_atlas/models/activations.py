"""Activation capture: a module's output as a tensor (B, C, L) of samples, channels, positions."""

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

_FIRST_KEYS = ("logits", "out")
"""Keys of the main output in mappings and records: Hugging Face, torchvision's segmentation."""

_DEEPEST = 4


def main_tensor(output: Any) -> Tensor | None:
    """Return the main tensor of a module's output: the output itself or the first tensor inside it.

    Containers are tuples, lists, mappings, dataclasses and plain objects, nested up to four levels.
    In those with names, `logits` and `out` come first.
    """
    return main_part(output, Tensor)


def main_part(output: Any, kind: type[T], depth: int = _DEEPEST) -> T | None:
    """Return the first part of type `kind`, such as a tracer's proxy, as `main_tensor` does."""
    if isinstance(output, kind):
        return output
    parts = (main_part(part, kind, depth - 1) for part in (_parts(output) if depth else ()))
    return next((part for part in parts if part is not None), None)


def _parts(output: Any) -> Iterable[Any]:
    # Not every sequence: a string is a sequence of strings.
    if isinstance(output, list | tuple):
        return output
    if isinstance(output, Mapping):
        named: Mapping[Any, Any] = output
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        named = {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    # A module that is returned as an output would expose its parameters as if they were
    # activations.
    elif isinstance(output, nn.Module) or not hasattr(output, "__dict__"):
        return ()
    else:
        named = vars(output)
    # The named keys come first because segmentation networks return auxiliary heads in the same
    # mapping.
    return chain((named.get(key) for key in _FIRST_KEYS), named.values())


def channels_first(activation: Tensor, layer: LayerInfo) -> Tensor:
    """Rearrange a layer's activation to (B, C, L), positions row by row; vectors have L = 1.

    Non-spatial leading tokens (class token, registers) are excluded.
    """
    batch_first = activation.movedim(layer.batch_axis, 0)
    shape = batch_first.movedim(layer.channel_axis, 1)
    flat = shape.reshape(shape.shape[0], shape.shape[1], math.prod(shape.shape[2:]))
    # Non-spatial tokens always come first, so that one slice removes them.
    return flat[:, :, layer.prefix_tokens :] if layer.prefix_tokens else flat


class StopForward(Exception):
    """Internal signal that ends a forward pass at the last requested layer."""


def reduce_layers(
    network: nn.Module,
    layers: Sequence[LayerInfo],
    inputs: Tensor,
    reduce: Callable[[Tensor], T],
) -> dict[str, T]:
    """Run the network once and reduce the first activation of each layer as soon as it is computed.

    Only what `reduce` returns is kept, and no later in-place operation can have overwritten the
    activation before `reduce` reads it. The forward pass ends after the last of the layers.

    Args:
        network: a network in eval mode.
        layers: layers described for this network.
        inputs: normalised images (B, C, H, W).
        reduce: function of an activation (B, K, L).
    Returns: results by layer name, without the layers that this pass did not call.
    """
    reduced: dict[str, T] = {}

    def note(info: LayerInfo) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensor = main_tensor(output)
            # Only the first call counts: layers that are shared, such as one ReLU for a whole
            # block, are called several times.
            if info.name not in reduced and tensor is not None:
                reduced[info.name] = reduce(channels_first(tensor, info))
                if len(reduced) == len(layers):
                    # An exception is the only way out of a forward pass that works for any network.
                    raise StopForward

        return hook

    handles = [module_of(network, i.name).register_forward_hook(note(i)) for i in layers]
    try:
        # Leaving a forward midway skips whatever it would restore at its end, such as a default
        # dtype.
        with contained():
            network(inputs)
    except StopForward:
        pass
    finally:
        # Hooks must go even after an error: the same module serves the next layers.
        for handle in handles:
            handle.remove()
    return reduced


def plain_activations(
    network: nn.Module, layers: Sequence[LayerInfo], inputs: Tensor
) -> dict[str, Tensor]:
    """Return a copy of what the first call of each layer returns, by layer name.

    This is the reference that every faster path is compared with. The network gets a copy of its
    inputs.
    """
    # Both copies guard against in-place operations: on the inputs by the network's first layer, and
    # on the activation by whatever follows it.
    return reduce_layers(network, layers, inputs.clone(), Tensor.clone)
