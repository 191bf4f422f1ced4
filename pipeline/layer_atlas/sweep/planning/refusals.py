"""Why a network does not run on images, and what to do about it."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from layer_atlas.models.containment import contained, restored
from layer_atlas.models.load import Network

_OF_VOLUMES = (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.MaxPool3d, nn.AvgPool3d)


@torch.no_grad()
def takes(network: Network, size: tuple[int, int]) -> bool:
    """Whether a network runs on images of a size."""
    return _runs(network.module, network.example(size))


def _runs(module: nn.Module, inputs: Any) -> bool:
    try:
        with restored(module), contained(seed=0):
            module(inputs)
    except Exception:  # noqa: BLE001 - why not is found out elsewhere
        return False
    return True


def why_it_does_not_run(network: Network, size: tuple[int, int], reason: str) -> str:
    """A message for a network that fails on images of a size.

    Args:
        network: as loaded.
        size: height and width of the images.
        reason: what the failure said.
    """
    causes: list[Callable[[Network, tuple[int, int]], str | None]] = [
        _several_inputs,
        _a_mapping,
        _volumes,
        _other_colours,
    ]
    found = (cause(network, size) for cause in causes)
    return next((told for told in found if told), None) or too_small(network, size, reason)


def _several_inputs(network: Network, size: tuple[int, int]) -> str | None:
    parameters = inspect.signature(network.module.forward).parameters.values()
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if len(needed) < 2:
        return None
    return (
        f"model {network.label!r} takes {len(needed)} inputs ({', '.join(needed)}), and a sweep "
        "gives it images alone. Wrap it in a module whose forward(images) fills in the others."
    )


def _a_mapping(network: Network, size: tuple[int, int]) -> str | None:
    asked = _Asked(network.example(size))
    with torch.no_grad():
        runs = _runs(network.module, asked)
    if not asked.keys_asked or not runs:
        return None
    keys = ", ".join(map(repr, asked.keys_asked))
    return (
        f"model {network.label!r} takes a mapping with {keys}, and a sweep gives it images. Wrap "
        f"it in a module whose forward(images) passes {{{asked.keys_asked[0]!r}: images}} on."
    )


class _Asked(dict[str, Tensor]):
    """A mapping that has everything, and notes what it was asked for."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value, self.keys_asked = value, list[str]()

    def __missing__(self, key: str) -> Tensor:
        self.keys_asked.append(key)
        return self.value


def _volumes(network: Network, size: tuple[int, int]) -> str | None:
    first = next((m for m in network.module.modules() if isinstance(m, _OF_VOLUMES)), None)
    if first is None:
        return None
    return (
        f"model {network.label!r} takes volumes or video ({type(first).__name__}), not images. "
        "Wrap it in a module whose forward(images) repeats the image: "
        "network(images.unsqueeze(2).expand(-1, -1, 8, -1, -1))."
    )


def _other_colours(network: Network, size: tuple[int, int]) -> str | None:
    """The network takes as many colours as its first convolution, and not these."""
    first = next((m for m in network.module.modules() if isinstance(m, nn.Conv2d)), None)
    colours = first.in_channels if first is not None else len(network.mean)
    other = replace(network, mean=(0.0,) * colours)
    own = (network.input_size, network.input_size)
    if colours == len(network.mean) or not any(takes(other, sides) for sides in (size, own)):
        return None
    mean, std = ([value] * colours for value in (0.5, 0.25))
    return (
        f"model {network.label!r} cannot take images of {len(network.mean)} colours: its first "
        f"convolution takes {colours}. Give the mean and std of its training images, with "
        f"{colours} numbers each: models=[{{..., mean: {mean}, std: {std}}}]."
    )


def too_small(network: Network, size: tuple[int, int], reason: str) -> str:
    """What to say of images that are too small for a network."""
    return (
        f"model {network.label!r} cannot take images of {size[0]} x {size[1]} px and "
        f"{len(network.mean)} colours: {reason}. Set image_size (its own input size is "
        f"{network.input_size}); it must take a batch of images with as many colours as mean and "
        "std have numbers."
    )
