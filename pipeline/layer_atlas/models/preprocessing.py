"""Preprocessing: mean, standard deviation and input size of a network, with their sources.

They come, in this order, from `mean`, `std` and `input_size` of the model entry; from its
`preprocess`, a data config of timm, transformers or torchvision; from the config that a network
itself carries; from the library that the network is from. What is assumed is called so.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from layer_atlas.config.config import ModelConfig, check_scale
from layer_atlas.config.inputs import user_file
from layer_atlas.config.recipe import LARGEST_IMAGE
from layer_atlas.errors import UserError, unknown

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
    new = _read(values, source)
    return replace(found, **new, sources={**found.sources, **dict.fromkeys(new, source)})


def _read(values: Mapping[str, Any], source: str) -> dict[str, Any]:
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
