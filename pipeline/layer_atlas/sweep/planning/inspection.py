"""Every network of a sweep: loaded, its layers described, or why it cannot be used."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from layer_atlas.config.config import Config, ModelConfig
from layer_atlas.config.inputs import user_file
from layer_atlas.config.objectives import JointObjective
from layer_atlas.datasets.image_files import picture_size
from layer_atlas.errors import UnusableFile, UserError, reason
from layer_atlas.logs import step
from layer_atlas.models.activations import OUTPUT
from layer_atlas.models.containment import contained, restored
from layer_atlas.models.inputs import IMAGES, FixedInputs, inputs_of
from layer_atlas.models.inspections import InspectedModel, Inspection, behaviour_of, may_be_kept
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import Network, load_network
from layer_atlas.models.self_check import too_small
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.plan.plan import LARGEST_PICTURE, SkippedModel

SMALLEST_IMAGE = 4

_CPU = torch.device("cpu")
"""Where networks are inspected."""

T = TypeVar("T")


def inspect_models(config: Config) -> list[InspectedModel | SkippedModel]:
    """Load and inspect every model of the sweep; raises UserError."""
    inspected = [or_skipped(m, partial(_inspect_model, m, config)) for m in config.models]
    check_some_are_left(inspected, config)
    return inspected


def inspect_judge(judge: ModelConfig, config: Config) -> InspectedModel:
    """Load and inspect the judge of a sweep, at its own input size; raises UserError."""
    return _inspect_model(judge, replace(config, image_size=None, octaves=None))


def or_skipped(model: ModelConfig, do: Callable[[], T]) -> T | SkippedModel:
    """Do something with a model, or skip it if its weights cannot be used."""
    try:
        return do()
    except UnusableFile as error:
        return SkippedModel(model.title, str(error))


def check_some_are_left(models: Sequence[object], config: Config) -> None:
    """Check that a model is left; all are needed if an objective joins them.

    Raises:
        UserError: why the first skipped model cannot be used.
    """
    skipped = [model for model in models if isinstance(model, SkippedModel)]
    all_needed = isinstance(config.objective, JointObjective)
    if skipped and (all_needed or len(skipped) == len(models)):
        raise UserError(skipped[0].why)


def _inspect_model(model: ModelConfig, config: Config) -> InspectedModel:
    with step(f"loading {model.title}"):
        network = load_network(model)
    size = _image_size(config, network)
    if min(size) < SMALLEST_IMAGE:
        raise UserError(
            f"images of {size[0]} x {size[1]} px are too small; image_size must be "
            f"{SMALLEST_IMAGE} or more."
        )
    colours = len(network.mean)
    if size[0] * size[1] * colours >= LARGEST_PICTURE:
        raise UserError(
            f"images of {size[0]} x {size[1]} px and {colours} colours are too large; choose a "
            "smaller image_size."
        )
    sizes = config.octaves.sizes(size) if config.octaves else [size]
    # With octaves the network sees several sizes, and must take all of them.
    with step(f"finding the layers of {model.title}"):
        behaviour = _behaviour(network, size)
        description = _description(network, sizes, config.keep_prefix_tokens, behaviour)
    network = replace(network, fixed_size=description.fixed_size)
    _check_categories(network, model, list(description.layers))
    return InspectedModel(network, size, list(description.layers), behaviour)


def _image_size(config: Config, network: Network) -> tuple[int, int]:
    """Height and width of the images that are made for a network."""
    size = config.image_size or network.input_size
    if size == "photograph":
        assert config.photograph is not None
        return picture_size(user_file(config.photograph, "the picture file"))
    return size if isinstance(size, tuple) else (size, size)


@dataclass(frozen=True)
class _Description:
    """What a forward pass shows of a network."""

    fixed_size: int | None
    """Height and width in pixels of its input, if it takes no other."""
    layers: tuple[LayerInfo, ...]


def _behaviour(network: Network, size: tuple[int, int]) -> str | None:
    """Compute a digest of what a network returns, for an image that it takes."""
    if not may_be_kept(network):
        return None
    own = (network.input_size, network.input_size)
    digests = (behaviour_of(network.module, network.example(sides)) for sides in (size, own))
    return next(filter(None, digests), None)


def _description(
    network: Network,
    sizes: Sequence[tuple[int, int]],
    keep_prefix_tokens: bool,
    behaviour: str | None,
) -> _Description:
    """Describe a network, or recall its description. Args and errors are those of `_describe`."""
    question = {
        "asked": "layers",
        "behaviour": behaviour,
        "sizes": [list(size) for size in sizes],
        "input_size": network.input_size,
        "keep_prefix_tokens": keep_prefix_tokens,
    }
    inspection = Inspection(network, _CPU, question if behaviour else None)
    return inspection.answered(_Description, lambda: _describe(network, sizes, keep_prefix_tokens))


def _describe(
    network: Network, sizes: Sequence[tuple[int, int]], keep_prefix_tokens: bool
) -> _Description:
    """Describe the layers of a network, which may take only its own input size.

    Args:
        network: as loaded.
        sizes: height and width of the images of each octave; the last are those of the result.
        keep_prefix_tokens: whether non-spatial tokens belong to activations.
    Raises:
        UserError: it does not take one of the sizes.
    """
    own = (network.input_size, network.input_size)
    size, layers = sizes[-1], list[LayerInfo]()
    try:
        for size in sizes:
            layers = describe_layers(network.module, network.example(size), keep_prefix_tokens)
    except Exception as error:
        # A network that takes larger images merely cannot take ones as small as these. One that
        # takes no size but its own is given every image resized to that.
        if _takes(network, own) and not _takes(network, (2 * own[0], 2 * own[1])):
            layers = describe_layers(network.module, network.example(own), keep_prefix_tokens)
            return _Description(network.input_size, tuple(layers))
        why = reason(error)
        if size != sizes[-1]:
            why += "; octaves.count and octaves.scale give images of this size"
        raise UserError(why_it_does_not_run(network, size, why)) from error
    return _Description(None, tuple(layers))


def _check_categories(network: Network, model: ModelConfig, layers: list[LayerInfo]) -> None:
    """Check that a categories file names as many classes as the output has; raises UserError."""
    names = len(network.categories)
    classes = next((layer.n_channels for layer in layers if layer.name == OUTPUT), 0)
    if model.categories is not None and names != classes:
        raise UserError(
            f"categories {model.categories!r} names {names} classes, but the output of model "
            f"{network.label!r} has {classes or 'no channels'}; give one name per line for each."
        )


# --- why a network does not run ------------------------------------------------------------------


_3D = (nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.MaxPool3d, nn.AvgPool3d)


@torch.no_grad()
def _takes(network: Network, size: tuple[int, int]) -> bool:
    """Whether a network runs on images of a size."""
    return _runs(network.module, network.example(size))


def _runs(module: nn.Module, inputs: Any) -> bool:
    try:
        # User code may change modes, caches or the working folder, whether it fails or not.
        with restored(module), contained(seed=0):
            module(inputs)
    except Exception:  # noqa: BLE001 - any failure is an answer
        return False
    return True


def why_it_does_not_run(network: Network, size: tuple[int, int], reason: str) -> str:
    """Explain why a network fails on images of a size.

    Args:
        network: as loaded.
        size: height and width of the images.
        reason: the message of the failure.
    """
    # The most specific cause first; the size is the last resort.
    return (
        _several_inputs(network)
        or _mapping_input(network, size)
        or _volume_input(network, size)
        or _other_colours(network, size)
        or too_small(network, size, f"{reason}{_another_size(network)}")
    )


def _several_inputs(network: Network) -> str | None:
    parameters = inspect.signature(network.module.forward).parameters.values()
    # Parameters with defaults need no value.
    needed = [
        parameter.name
        for parameter in parameters
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    given = inputs_of(network.module) or FixedInputs({})
    missing = [name for name in needed if name not in given.values]
    # The first takes the images, unless another one does.
    others = missing if given.has_images else missing[1:]
    if not others:
        return None
    example = ", ".join(f"{name}: [[1, 2, 3]]" for name in others)
    return (
        f"model {network.label!r} takes {len(needed)} inputs ({', '.join(needed)}), and a sweep "
        f"gives it images alone. Give the others fixed values: models=[{{..., inputs: {{{example}}}"
        f"}}]. A list is a tensor, and so is a file (.npy, .pt). Or: Wrap it in a module."
    )


def _mapping_input(network: Network, size: tuple[int, int]) -> str | None:
    mapping = _AnyMapping(network.example(size))
    with torch.no_grad():
        # It may fail, because not every key is that of images.
        _runs(network.module, mapping)
    if not mapping.requested:
        return None
    keys = ", ".join(map(repr, mapping.requested))
    argument = next(iter(inspect.signature(network.module.forward).parameters))
    return (
        f"model {network.label!r} takes a mapping with {keys}, and a sweep gives it images. Name "
        f"the one that they are: models=[{{..., inputs: {{{argument}: "
        f"{{{mapping.requested[0]}: {IMAGES}}}}}}}], and give the others fixed values."
    )


class _AnyMapping(dict[str, Tensor]):
    """A mapping that has a value for every key, and records the requested keys."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value, self.requested = value, list[str]()

    def __missing__(self, key: str) -> Tensor:
        self.requested.append(key)
        return self.value


_FRAMES = (8, 16, 4, 2, 1, 32, 64)


@torch.no_grad()
def _volume_input(network: Network, size: tuple[int, int]) -> str | None:
    """Explain that a network takes volumes or video, with the code that makes one of an image."""
    first = next((m for m in network.module.modules() if isinstance(m, _3D)), None)
    image = network.example(size)
    # Channels come before the frames in some networks, and after them in others.
    layouts = [(axis, frames) for axis in (2, 1) for frames in _FRAMES]
    works = (
        (axis, frames)
        for axis, frames in layouts
        if _runs(network.module, image.unsqueeze(axis).repeat_interleave(frames, axis))
    )
    found = next(works, None)
    if first is None and found is None:
        return None
    axis, frames = found or layouts[0]
    kind = f" ({type(first).__name__})" if first is not None else ""
    return (
        f"model {network.label!r} takes volumes or video{kind}, not images. Wrap it in a module "
        f"whose forward(images) repeats the image: "
        f"network(images.unsqueeze({axis}).repeat_interleave({frames}, {axis}))."
    )


def _other_colours(network: Network, size: tuple[int, int]) -> str | None:
    """Explain that the first convolution takes another number of colours, if that is so."""
    first = next((m for m in network.module.modules() if isinstance(m, nn.Conv2d)), None)
    colours = first.in_channels if first is not None else len(network.mean)
    # Only trying shows it: the convolution that is found first need not come first.
    other = replace(network, mean=(0.0,) * colours)
    own = (network.input_size, network.input_size)
    if colours == len(network.mean) or not any(_takes(other, sides) for sides in (size, own)):
        return None
    mean, std = ([value] * colours for value in (0.5, 0.25))
    return (
        f"model {network.label!r} cannot take images of {len(network.mean)} colours: its first "
        f"convolution takes {colours}. Give the mean and std of its training images, with "
        f"{colours} numbers each: models=[{{..., mean: {mean}, std: {std}}}]."
    )


_USUAL_SIZES = (28, 32, 64, 96, 112, 128, 160, 192, 224, 240, 256, 299, 384, 448, 512)


def _another_size(network: Network) -> str:
    """Name a usual size that the network runs on, in a sentence after another; empty if none is."""
    for side in _USUAL_SIZES:
        if _takes(network, (side, side)):
            return f". It runs on {side} x {side} px: image_size={side}"
    return ""
