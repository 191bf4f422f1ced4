"""Inputs of a network beside the images: fixed values, and the argument that takes the images.

Everywhere else a network is called with images alone. A hook before its forward pass puts them
where they belong and adds the fixed values, so that names of layers stay those of the network.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from layer_atlas.config.inputs import user_file
from layer_atlas.config.records import digest
from layer_atlas.errors import UserError, unknown
from layer_atlas.models.weights import read_tensors

IMAGES = "images"
"""Text that stands for the images among the values of a config."""

_FILES = (".npy", ".npz", ".safetensors", ".pt", ".pth")

_USUAL = "pixel_values"
"""Name that transformers gives to the argument that takes images."""


class FixedInputs:
    """A hook before the forward pass: from a batch of images to all arguments of the network.

    Args:
        values: by the names of the arguments: tensors, plain values, and `IMAGES` for the images,
            also in mappings and lists.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = dict(values)
        self._moved: dict[tuple[torch.device, torch.dtype], Any] = {}

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Return the arguments of a call with images; `None` where they are there already."""
        if kwargs or len(args) != 1:
            return None
        images = args[0]
        kind = images.device, images.dtype
        if kind not in self._moved:
            # Once, because nothing may come from the CPU while a CUDA graph is captured.
            self._moved[kind] = _mapped(self.values, lambda value: _converted(value, *kind))
        filled = _mapped(self._moved[kind], lambda value: _filled(value, images))
        return (() if self.has_images else args), filled

    @property
    def has_images(self) -> bool:
        """Whether the values say where the images go; the first argument takes them otherwise."""
        return _has_images(self.values)

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the values, which decide pixels."""
        return digest(_mapped(self.values, _described))


def _mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Apply a function to the values inside mappings and lists."""
    if isinstance(value, Mapping):
        return {key: _mapped(item, change) for key, item in value.items()}
    return [_mapped(item, change) for item in value] if isinstance(value, list) else change(value)


def _converted(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor):
        return value
    return value.to(device, dtype if value.is_floating_point() else value.dtype)


def _filled(value: Any, images: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return images if value == IMAGES else value
    each = value.expand(len(images), *value.shape[1:]) if value.shape[:1] == (1,) else value
    # A copy for each call, because a network may write over what it is given.
    return each.clone()


def _has_images(value: Any) -> bool:
    if isinstance(value, Mapping | list):
        return any(map(_has_images, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, str) and value == IMAGES


def _described(value: Any) -> Any:
    """Replace a tensor by what identifies it."""
    if not isinstance(value, Tensor):
        return value
    numbers = value.contiguous().reshape(-1).view(torch.uint8).numpy()
    return [str(value.dtype), list(value.shape), hashlib.sha256(numbers.tobytes()).hexdigest()]


def feed(network: nn.Module, inputs: FixedInputs | None) -> None:
    """Have a network, or a graph of it, receive its inputs from now on.

    Raises:
        UserError: it receives others already, for another model of the sweep.
    """
    before = inputs_of(network)
    if inputs is not None and before is None:
        network.register_forward_pre_hook(inputs, prepend=True, with_kwargs=True)
    elif (before and before.digest) != (inputs and inputs.digest):
        raise UserError(
            "two models have one network with different inputs, as their target returns the same "
            "network every time; build a new one at each call."
        )


def inputs_of(network: nn.Module) -> FixedInputs | None:
    """Return the hook that gives a network its inputs, if there is one."""
    hooks = network._forward_pre_hooks.values()
    return next((hook for hook in hooks if isinstance(hook, FixedInputs)), None)


# --- from a config -------------------------------------------------------------------------------


def fixed_inputs(
    values: Mapping[str, Any] | None, network: nn.Module, label: str
) -> FixedInputs | None:
    """Return the hook that a network needs; `None` if images are its first and only argument.

    Args:
        values: `inputs` of the model entry.
        network: as built.
        label: its name, for messages.
    Raises:
        UserError: an argument that it does not have, no argument for the images, a list that is no
            tensor, an unreadable file.
    """
    parameters = list(inspect.signature(network.forward).parameters.values())
    names = [p.name for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    takes_more = len(names) < len(parameters)
    inputs = {}
    for name, value in (values or {}).items():
        if name not in names and not takes_more:
            raise unknown(f"input of model {label!r}", name, names)
        inputs[name] = _read(value, f"input {name!r} of model {label!r}")
    free = [name for name in names if name not in inputs]
    if not _has_images(inputs) and free:
        place = _USUAL if _USUAL in free else free[0]
        # An argument that comes first needs no name, unless it has to be given by name.
        if place != names[0] or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
            inputs[place] = IMAGES
    elif not _has_images(inputs) and not takes_more:
        raise UserError(
            f"inputs of model {label!r} have a value for each of its arguments; give the one that "
            f"takes the images the value {IMAGES}, as in inputs={{{names[0]}: {IMAGES}}}."
        )
    return FixedInputs(inputs) if inputs else None


def _read(value: Any, what: str) -> Any:
    """Read a value of the config: a list of numbers and a file become tensors."""
    if isinstance(value, Mapping):
        return {key: _read(item, what) for key, item in value.items()}
    if isinstance(value, str) and value.endswith(_FILES):
        tensors = read_tensors(user_file(value, f"file of {what}"))
        return tensors[""] if "" in tensors else dict(tensors)
    if not isinstance(value, list):
        return value
    if not value or not _is_numbers(value):
        return [_read(item, what) for item in value]
    try:
        tensor = torch.tensor(value)
    except (ValueError, TypeError) as error:
        raise UserError(f"{what} is a list that is no tensor ({error}).") from error
    return tensor.float() if tensor.is_floating_point() else tensor


def _is_numbers(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_numbers, value))
    return isinstance(value, int | float)
