"""What a network is given: how images are preprocessed, and the inputs beside them.

Mean, standard deviation and input size come, in this order, from `mean`, `std` and `input_size` of
the model entry; from its `preprocess`, a data config of timm, transformers or torchvision; from the
config that a network itself carries; from the library that the network is from. What is assumed is
called so.

Everywhere else a network is called with images alone. A hook before its forward pass puts them
where they belong and adds the fixed values, so that names of layers stay those of the network.
"""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from layer_atlas.config.config import ModelConfig, check_scale
from layer_atlas.config.inputs import user_file
from layer_atlas.config.recipe import LARGEST_IMAGE
from layer_atlas.config.records import digest
from layer_atlas.errors import UserError, unknown
from layer_atlas.models.weights import read_tensors

GIVEN = "given in the config"


@dataclass(frozen=True)
class Preprocessing:
    """How the images of a network's training were prepared, and where each value comes from."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    input_size: int
    interpolation: str = ""
    """Interpolation by which images were resized; empty where it is not known."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Source of each value in words."""


_MEAN = ("mean", "image_mean")
_STD = ("std", "image_std")
_SIZE = ("input_size", "crop_size", "size", "image_size", "img_size")
_INTERPOLATION = ("interpolation", "resample")
_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's filters by the numbers that transformers stores."""


def resolve_preprocessing(
    config: ModelConfig, default: Preprocessing, source: str, network: nn.Module
) -> Preprocessing:
    """Find the preprocessing of a model entry.

    Args:
        config: the model entry.
        default: what the library of the network has, or an assumption.
        source: where the default comes from, in words.
        network: as built.
    Raises:
        UserError: `preprocess` is unknown or holds no such values, or values do not go together.
    """
    found = replace(default, sources=dict.fromkeys(("mean", "std", "input_size"), source))
    if config.preprocess is not None:
        found = _with(found, *_named(config, config.preprocess, network))
    elif config.target is not None and (carried := _carried_by(network)):
        found = _with(found, *carried)
    given = {"mean": config.mean, "std": config.std, "input_size": config.input_size}
    found = _with(found, {k: v for k, v in given.items() if v}, GIVEN)
    if len(found.mean) != len(found.std):
        raise UserError(
            f"model {config.title!r} has mean {list(found.mean)} and std {list(found.std)}; give "
            "both, with a number for each colour of its images."
        )
    return found


def _with(found: Preprocessing, values: Mapping[str, Any], source: str) -> Preprocessing:
    """Return a preprocessing with the values that a data config has in place of others."""
    new = _read_config(values, source)
    return replace(found, **new, sources={**found.sources, **dict.fromkeys(new, source)})


def _read_config(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Read a data config: the values of a `Preprocessing` that it has."""
    new: dict[str, Any] = {}
    try:
        for name, keys in (("mean", _MEAN), ("std", _STD)):
            if (value := _first(values, keys)) is not None:
                new[name] = tuple(map(float, value if isinstance(value, Sequence) else [value]))
                check_scale(name, new[name])
        if (size := _first(values, _SIZE)) is not None:
            new["input_size"] = _side(size)
        if (how := _first(values, _INTERPOLATION)) is not None:
            new["interpolation"] = _RESAMPLING[how] if isinstance(how, int) else str(how)
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise UserError(f"preprocessing from {source}: {error}") from error
    return new


def _first(values: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((values[key] for key in keys if values.get(key) is not None), None)


def _side(size: Any) -> int:
    """Return the height of the images: of 224, [224, 224], [3, 224, 224] or {height: 224, ...}."""
    if isinstance(size, Mapping):
        size = _first(size, ("height", "shortest_edge"))
    sides = list(size) if isinstance(size, list | tuple) else [size]
    if not all(type(side) is int and 1 <= side <= LARGEST_IMAGE for side in sides[-2:]):
        raise ValueError(f"input_size must be a number of pixels or [3, 224, 224], not {size!r}.")
    if len(set(sides[-2:])) != 1:
        raise ValueError(f"input_size {size!r} is no square; set image_size and leave it out.")
    return int(sides[-1])


def _named(
    config: ModelConfig, preprocess: str | Mapping[str, Any], network: nn.Module
) -> tuple[Mapping[str, Any], str]:
    """Return the data config that `preprocess` stands for, and its source in words."""
    if isinstance(preprocess, Mapping):
        return _checked(preprocess, "preprocess"), GIVEN
    if preprocess == "timm":
        carried = carried_config(network)
        if carried is None:
            raise UserError(
                f"preprocess of model {config.title!r} is timm, but the network carries no data "
                "config (`pretrained_cfg`) as networks of timm do; give mean and std."
            )
        return carried, "timm's config of the network"
    if preprocess.endswith(".json"):
        return _from_file(preprocess), f"file {preprocess}"
    return _from_enum(preprocess), f"torchvision's {preprocess}"


def _checked(values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Check that a data config has something of use; raises UserError."""
    known = (*_MEAN, *_STD, *_SIZE, *_INTERPOLATION)
    if not set(known) & set(values):
        raise unknown(f"keys of {where}:", ", ".join(map(str, values)), known)
    return values


def _from_file(path: str) -> Mapping[str, Any]:
    """Read the `config.json` of timm or the `preprocessor_config.json` of transformers."""
    try:
        values = json.loads(user_file(path, "preprocess").read_text(encoding="utf-8"))
        values = values.get("pretrained_cfg", values)
        return _checked(values, path)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(
            f"preprocess {path!r} cannot be read ({error}); give the preprocessor_config.json of "
            "transformers or the config.json of timm."
        ) from error


def _from_enum(name: str) -> Mapping[str, Any]:
    """Return the preset of weights of torchvision, such as `ResNet50_Weights.IMAGENET1K_V2`."""
    import torchvision.models as zoo

    enum, _, member = name.partition(".")
    enums = {weights.__name__: weights for weights in map(zoo.get_model_weights, zoo.list_models())}
    if enum not in enums:
        choices = ["timm", *enums]
        remedy = "Or a mapping with mean and std, or a .json file."
        raise unknown("preprocess", name, choices, remedy)
    members = enums[enum].__members__
    if member and member not in members:
        raise unknown("preprocess", name, [f"{enum}.{known}" for known in members])
    preset = (members[member] if member else enums[enum].DEFAULT).transforms()
    values = {key: getattr(preset, key, None) for key in ("mean", "std", "crop_size")}
    how = getattr(preset, "interpolation", None)
    return {**values, "interpolation": getattr(how, "value", None)}


def _carried_by(network: nn.Module) -> tuple[Mapping[str, Any], str] | None:
    """Return what a network carries about the images of its training, and its source."""
    if (config := carried_config(network)) is not None:
        return config, "timm's config of the network"
    parts = [network, getattr(network, "visual", None), getattr(network, "config", None)]
    parts.append(getattr(parts[-1], "vision_config", None))
    for part in parts:
        config = getattr(part, "preprocess_cfg", None)
        if isinstance(config, Mapping) and config.get("mean") and config.get("std"):
            return config, "open_clip's config of the network"
    for part in parts:
        size = getattr(part, "image_size", None)
        sides = size if isinstance(size, list | tuple) else [size]
        if len(set(sides)) == 1 and type(sides[0]) is int and 1 <= sides[0] <= LARGEST_IMAGE:
            return {"image_size": sides[0]}, "image_size of the network"
    return None


def carried_config(network: nn.Module) -> Mapping[str, Any] | None:
    """Return the data config that a network of timm carries, if it has one with mean and std."""
    for name in ("pretrained_cfg", "default_cfg"):
        config = getattr(network, name, None)
        if isinstance(config, Mapping) and config.get("mean") and config.get("std"):
            return config
    return None


# --- fixed inputs beside the images ---------------------------------------------------------------


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
        inputs[name] = _read_value(value, f"input {name!r} of model {label!r}")
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


def _read_value(value: Any, what: str) -> Any:
    """Read a value of the config: a list of numbers and a file become tensors."""
    if isinstance(value, Mapping):
        return {key: _read_value(item, what) for key, item in value.items()}
    if isinstance(value, str) and value.endswith(_FILES):
        tensors = read_tensors(user_file(value, f"file of {what}"))
        return tensors[""] if "" in tensors else dict(tensors)
    if not isinstance(value, list):
        return value
    if not value or not _is_numbers(value):
        return [_read_value(item, what) for item in value]
    try:
        tensor = torch.tensor(value)
    except (ValueError, TypeError) as error:
        raise UserError(f"{what} is a list that is no tensor ({error}).") from error
    return tensor.float() if tensor.is_floating_point() else tensor


def _is_numbers(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_numbers, value))
    return isinstance(value, int | float)
