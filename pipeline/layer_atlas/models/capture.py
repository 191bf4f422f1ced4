"""Activations taken where they are made, by hooks. Whoever hooks here, unhooks in `finally`."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor, nn

from layer_atlas.models.activations import channels_first, main_tensor
from layer_atlas.models.containment import contained
from layer_atlas.models.layers import module_of
from layer_atlas.plan.jobs import LayerInfo

T = TypeVar("T")


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
