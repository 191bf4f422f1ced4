"""Every network of a sweep: loaded, its layers described and checked, or why it cannot be used."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from layer_atlas.config.config import Config, ModelConfig
from layer_atlas.config.objectives import JointObjective
from layer_atlas.config.paths import user_file
from layer_atlas.datasets.pictures import picture_size
from layer_atlas.errors import UnusableFile, UserError
from layer_atlas.models.containment import contained, restored
from layer_atlas.models.device_model import DeviceModel
from layer_atlas.models.fingerprints import fingerprint, is_same
from layer_atlas.models.forwards import NoPathAgrees, Path
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.layers import OUTPUT, match_layers
from layer_atlas.models.load import Network, check_weights, load_network
from layer_atlas.models.self_check import check_gradient, check_independence, takes_no_batches
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.plan.plan import LARGEST_PICTURE, SkippedModel
from layer_atlas.visualization.optimization.octaves import octave_sizes

SMALLEST_IMAGE = 4


@dataclass(frozen=True)
class InspectedModel:
    """A loaded network and what one forward pass told about it."""

    network: Network
    image_size: tuple[int, int]
    """Height and width of the images."""
    layers: list[LayerInfo]
    """Every layer that has channels."""

    @property
    def example(self) -> Tensor:
        """Normalised noise (1, C, H, W) of the size that the network is given."""
        return self.network.example(self.network.seen_size(self.image_size))

    def choose(self, patterns: tuple[str, ...]) -> list[LayerInfo]:
        """The layers that the patterns choose; raises UserError."""
        return match_layers(patterns, self.layers, self.network.module, self.network.label)


def inspect_models(config: Config) -> list[InspectedModel | SkippedModel]:
    """Load and describe every model of the sweep; raises UserError."""
    found = [unless_unusable(m, partial(_inspect_model, m, config)) for m in config.models]
    check_some_are_left(found, config)
    return found


def _inspect_model(model: ModelConfig, config: Config) -> InspectedModel:
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
    sizes = octave_sizes(config.octaves, size) if config.octaves else [size]
    network, layers = _described(network, sizes, config.keep_prefix_tokens)
    _check_categories(network, model, layers)
    return InspectedModel(network, size, layers)


def _described(
    network: Network, sizes: Sequence[tuple[int, int]], keep_prefix_tokens: bool
) -> tuple[Network, list[LayerInfo]]:
    """The layers, and the network, which may take no size but its own.

    Args:
        network: as loaded.
        sizes: height and width of the images on the way; the last are those of the result.
        keep_prefix_tokens: whether tokens that are no positions belong to activations.
    Raises:
        UserError: it does not take one of the sizes.
    """
    own = (network.input_size, network.input_size)
    size, layers = sizes[-1], list[LayerInfo]()
    try:
        for size in sizes:
            layers = describe_layers(network.module, network.example(size), keep_prefix_tokens)
    except Exception as error:
        # Networks that merely cannot take small images take larger ones.
        if takes(network, own) and not takes(network, (2 * own[0], 2 * own[1])):
            fixed = replace(network, fixed_size=network.input_size)
            return fixed, describe_layers(network.module, network.example(own), keep_prefix_tokens)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if size != sizes[-1]:
            reason += "; octaves.count and octaves.scale give images of this size"
        raise UserError(why_it_does_not_run(network, size, reason)) from error
    return network, layers


def _check_categories(network: Network, model: ModelConfig, layers: list[LayerInfo]) -> None:
    """A file of the user's own names as many classes as the output has; raises UserError."""
    names = len(network.categories)
    classes = next((layer.n_channels for layer in layers if layer.name == OUTPUT), 0)
    if model.categories is not None and names != classes:
        raise UserError(
            f"categories {model.categories!r} names {names} classes, but the output of model "
            f"{network.label!r} has {classes or 'no channels'}; give one name per line for each."
        )


def _image_size(config: Config, network: Network) -> tuple[int, int]:
    """Height and width of the images that are made for a network."""
    size = config.image_size or network.input_size
    if size == "photograph":
        assert config.photograph is not None
        return picture_size(user_file(config.photograph, "the picture file"))
    return size if isinstance(size, tuple) else (size, size)


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


T = TypeVar("T")


def unless_unusable(model: ModelConfig, do: Callable[[], T]) -> T | SkippedModel:
    """What becomes of a model; where its weights are of no use, that."""
    try:
        return do()
    except UnusableFile as error:
        return SkippedModel(model.title, str(error))


def check_some_are_left(found: Sequence[object], config: Config) -> None:
    """A sweep goes on while a model is left, unless its images are for all of them together.

    Raises:
        UserError: what is wrong with the first that is left out.
    """
    skipped_models = [model for model in found if isinstance(model, SkippedModel)]
    all_needed = isinstance(config.objective, JointObjective)
    if skipped_models and (all_needed or len(skipped_models) == len(found)):
        raise UserError(skipped_models[0].why)


@dataclass(frozen=True)
class EarlierChecks:
    """What earlier checks of the same network found, at the same image size."""

    layers: Mapping[str, LayerInfo] = field(default_factory=dict)
    """By name; without a path where that is to be chosen anew."""
    note: str = ""


@dataclass(frozen=True)
class CheckedLayers:
    """Layers that are fit to be optimised."""

    layers: list[LayerInfo]
    """With their paths and fingerprints."""
    precision: str
    """Of the ascent, by its name in a recipe."""
    note: str = ""
    """What the user should know of it."""


def check_layers(
    found: InspectedModel,
    wanted: Sequence[LayerInfo],
    precision: str,
    may_fall_back: bool,
    known: EarlierChecks,
) -> CheckedLayers:
    """Check some layers of a network.

    Args:
        found: the network.
        wanted: the layers.
        precision: of the ascent.
        may_fall_back: whether fp32 will do where no path in that precision agrees with the network.
        known: what earlier checks found; they are not done again, but for the fingerprints.
    Raises:
        UserError: a layer cannot be optimised, or is not what it was.
        UnusableFile: the weights file lacks tensors that a layer needs.
    """
    network = found.network
    for info in wanted:
        if 0 in info.shape:
            reason = f"layer {info.name!r} has no positions left"
            raise UserError(too_small(network, found.image_size, reason))
    device = DeviceModel(network, precision, found.image_size, torch.device("cpu"))
    layers = _with_fingerprints(network, device, wanted)
    _compare(network, layers, known)
    paths = [known.layers[x.name].path if x.name in known.layers else "" for x in layers]
    if all(paths):
        return CheckedLayers(_with_paths(layers, paths), precision, known.note)
    seen = network.seen_size(found.image_size)
    output = next((layer for layer in found.layers if layer.name == OUTPUT), None)
    note = check_independence(network, device.plain, layers, output, seen)
    if network.stored_as:
        stored = f"the weights of {network.label} are {network.stored_as}; it is run in fp32"
        note = "; ".join(filter(None, [stored, note]))
    check_gradient(network, device.plain, layers, seen)
    try:
        paths = _names(device.fast_path, layers)
    except NoPathAgrees as error:
        if precision == "fp32" or not may_fall_back:
            raise _no_path(network, precision, error) from error
        fell_back = f"{network.label} is optimised in fp32: {precision} does not do ({error})"
        note = "; ".join(filter(None, [fell_back, note]))
        precision, paths = "fp32", _exact_names(network, device, layers)
    return CheckedLayers(_with_paths(layers, paths), precision, note)


def _exact_names(network: Network, device: DeviceModel, layers: Sequence[LayerInfo]) -> list[str]:
    try:
        return _names(device.exact_path, layers)
    except NoPathAgrees as error:
        raise _no_path(network, "fp32", error) from error


def _no_path(network: Network, precision: str, error: NoPathAgrees) -> UserError:
    remedy = "" if precision == "fp32" else " Set precision=fp32, or auto."
    return UserError(
        f"model {network.label!r} cannot be optimised in {precision}: {error}.{remedy}"
    )


def _with_fingerprints(
    network: Network, device: DeviceModel, wanted: Sequence[LayerInfo]
) -> list[LayerInfo]:
    try:
        activations = device.expected(wanted)
    except RuntimeError as error:
        raise takes_no_batches(network, error) from error
    for info, activation in zip(wanted, activations, strict=True):
        check_weights(network, info, activation)
    pairs = zip(wanted, activations, strict=True)
    return [replace(info, fingerprint=fingerprint(activation)) for info, activation in pairs]


def _names(path: Callable[[Sequence[LayerInfo]], Path], layers: Sequence[LayerInfo]) -> list[str]:
    """The names of the paths to some layers.

    What works for all layers in one pass, and for the deepest alone, works for each. Workers choose
    for each layer by itself, on their device.
    """
    deepest = max(layers, key=lambda layer: layer.flops_before)
    together, alone = path(layers).name, path([deepest]).name
    if together == alone:
        return [alone] * len(layers)
    return [path([layer]).name for layer in layers]


def _with_paths(layers: Sequence[LayerInfo], paths: Sequence[str]) -> list[LayerInfo]:
    return [replace(layer, path=path) for layer, path in zip(layers, paths, strict=True)]


def _compare(network: Network, layers: Sequence[LayerInfo], known: EarlierChecks) -> None:
    """Make sure that the network computes what it did; raises UserError."""
    for layer in layers:
        earlier = known.layers.get(layer.name)
        if earlier is not None and not is_same(layer.fingerprint, earlier.fingerprint):
            raise UserError(
                f"layer {layer.name!r} of model {network.label!r} computes something else than "
                "when this sweep was begun, with the same weights and code; perhaps a library that "
                "it uses has changed. Images of both would be mixed: undo that, or give the sweep "
                "another name."
            )
