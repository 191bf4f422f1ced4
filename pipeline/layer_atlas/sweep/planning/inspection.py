"""Every network of a sweep: loaded, its layers described and checked, or why it cannot be used."""

import inspect
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from layer_atlas.config.config import Config, ModelConfig
from layer_atlas.config.inputs import user_file
from layer_atlas.config.objectives import JointObjective
from layer_atlas.config.records import plain
from layer_atlas.datasets.image_files import picture_size
from layer_atlas.errors import UnusableFile, UserError, reason
from layer_atlas.logs import step
from layer_atlas.models.activations import OUTPUT, fingerprint, is_same, match_layers
from layer_atlas.models.containment import contained, restored
from layer_atlas.models.device_model import DeviceModel
from layer_atlas.models.forwards import NoPathAgrees, Path
from layer_atlas.models.inputs import IMAGES, FixedInputs, inputs_of
from layer_atlas.models.inspections import Inspection, behaviour_of, may_be_kept
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import Network, check_weights, load_network
from layer_atlas.models.self_check import (
    check_gradient,
    check_independence,
    has_constant_means,
    takes_no_batches,
)
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.plan.plan import LARGEST_PICTURE, SkippedModel
from layer_atlas.visualization.optimization.loop import octave_sizes

SMALLEST_IMAGE = 4

_CPU = torch.device("cpu")
"""Where networks are inspected."""

T = TypeVar("T")


@dataclass(frozen=True)
class InspectedModel:
    """A loaded network and what one forward pass shows of it."""

    network: Network
    image_size: tuple[int, int]
    """Height and width of the images."""
    layers: list[LayerInfo]
    """Every layer that has channels."""
    behaviour: str | None = None
    """Digest of what all modules return for an image; `None` where nothing is to be kept."""

    @property
    def example(self) -> Tensor:
        """Normalised noise (1, C, H, W) of the size that the network is given."""
        return self.network.example(self.network.seen_size(self.image_size))

    def choose(self, patterns: tuple[str, ...]) -> list[LayerInfo]:
        """The layers that the patterns match; raises UserError."""
        return match_layers(patterns, self.layers, self.network.module, self.network.label)


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
    sizes = octave_sizes(config.octaves, size) if config.octaves else [size]
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
    if known := inspection.recall(_Description):
        return known
    description = _describe(network, sizes, keep_prefix_tokens)
    inspection.keep(description)
    return description


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
        if takes(network, own) and not takes(network, (2 * own[0], 2 * own[1])):
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
def takes(network: Network, size: tuple[int, int]) -> bool:
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
    if colours == len(network.mean) or not any(takes(other, sides) for sides in (size, own)):
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
        if takes(network, (side, side)):
            return f". It runs on {side} x {side} px: image_size={side}"
    return ""


def too_small(network: Network, size: tuple[int, int], reason: str) -> str:
    """Explain that images are too small for a network."""
    return (
        f"model {network.label!r} cannot take images of {size[0]} x {size[1]} px and "
        f"{len(network.mean)} colours: {reason}. Set {_own_size(network)}; it must take a batch of "
        "images with as many colours as mean and std have numbers."
    )


def _own_size(network: Network) -> str:
    """Name the settings of the size of images, with the size that the network was trained on."""
    if network.origin.input_size.startswith("ImageNet default"):
        return (
            f"models[].input_size to the size of its training images ({network.input_size} px is "
            "assumed), or image_size"
        )
    return f"image_size (its own input size is {network.input_size})"


# --- checks of layers ----------------------------------------------------------------------------


@dataclass(frozen=True)
class EarlierChecks:
    """The results of earlier checks of the same network, at the same image size."""

    layers: Mapping[str, LayerInfo] = field(default_factory=dict)
    """By name; without a path where that is to be chosen anew."""
    note: str = ""


@dataclass(frozen=True)
class ReadTogether:
    """The layers that a worker reads together with a layer, in one pass."""

    others: Mapping[str, Sequence[LayerInfo]] = field(default_factory=dict)
    """Further layers of the objective, by the name of the layer."""
    with_prior: bool = False
    """Whether images are held to expected statistics of features."""
    has_images: bool = False
    """Whether there are dataset images to measure these on."""

    def group(self, device: DeviceModel, layer: LayerInfo) -> list[LayerInfo]:
        """Return the layer and those that are read with it."""
        prior = device.feature_layers(layer, self.has_images) if self.with_prior else []
        return [layer, *self.others.get(layer.name, ()), *prior]

    @property
    def question(self) -> list[Any]:
        """All that decides the groups of a network, as plain data."""
        names = {name: [layer.name for layer in layers] for name, layers in self.others.items()}
        return [names, self.with_prior, self.has_images]


@dataclass(frozen=True)
class CheckedLayers:
    """Layers that can be optimized."""

    layers: tuple[LayerInfo, ...]
    """With their paths and fingerprints."""
    precision: str
    """Precision of the optimization, by its name in a recipe."""
    note: str = ""
    """A sentence for the user, if the checks found something."""


def _always(device: DeviceModel, layer: LayerInfo) -> bool:
    return True


def check_layers(
    model: InspectedModel,
    wanted: Sequence[LayerInfo],
    precision: str,
    may_fall_back: bool,
    earlier: EarlierChecks,
    together: ReadTogether = ReadTogether(),
    is_worth_it: Callable[[DeviceModel, LayerInfo], bool] = _always,
) -> CheckedLayers:
    """Check some layers of a network.

    Args:
        model: the network.
        wanted: the layers.
        precision: of the optimization.
        may_fall_back: whether to fall back to fp32 if no path in that precision agrees with the
            network.
        earlier: results that stand; only the fingerprints are computed again.
        together: the layers that are read together with each.
        is_worth_it: whether the precision is faster than fp32 for a layer; if not, and there is a
            choice, it is fp32.
    Raises:
        UserError: a layer cannot be optimized, or is not what it was.
        UnusableFile: the weights file lacks tensors that a layer needs.
    """
    network = model.network
    for info in wanted:
        if 0 in info.shape:
            reason = f"layer {info.name!r} has no positions left"
            raise UserError(too_small(network, model.image_size, reason))
    device = DeviceModel(network, precision, model.image_size, _CPU)
    # Always computed: they show whether the network is still the same.
    layers, means = _with_fingerprints(network, device, wanted)
    _compare(network, layers, earlier)
    paths = [earlier.layers[x.name].path if x.name in earlier.layers else "" for x in layers]
    # Paths of an earlier run stand: all images of a sweep are made along the same paths.
    if all(paths):
        return CheckedLayers(tuple(_with_paths(layers, paths)), precision, earlier.note)
    how = _How(precision, may_fall_back, together, is_worth_it)
    inspection = _inspection_of_checks(model, layers, how)
    if known := inspection.recall(CheckedLayers):
        return known
    checked = _checked(model, device, layers, how, means)
    inspection.keep(checked)
    return checked


@dataclass(frozen=True)
class _How:
    """How precision and paths are chosen, as in `check_layers`."""

    precision: str
    may_fall_back: bool
    together: ReadTogether
    is_worth_it: Callable[[DeviceModel, LayerInfo], bool]


def _inspection_of_checks(
    model: InspectedModel, layers: Sequence[LayerInfo], how: _How
) -> Inspection:
    """Word the checks of some layers, which have the fingerprints that were just computed."""
    question = {
        "asked": "checks",
        "behaviour": model.behaviour,
        "label": model.network.label,  # notes name it
        "image_size": list(model.image_size),
        "layers": [plain(layer) for layer in layers],
        "together": how.together.question,
        "precision": [how.precision, how.may_fall_back, how.is_worth_it.__name__],
        "threads": torch.get_num_threads(),
    }
    return Inspection(model.network, _CPU, question if model.behaviour else None)


def _checked(
    model: InspectedModel,
    device: DeviceModel,
    layers: Sequence[LayerInfo],
    how: _How,
    means: str,
) -> CheckedLayers:
    """Check layers and choose their paths.

    Args:
        model: the network.
        device: the network on the CPU.
        layers: with their fingerprints.
        how: how precision and paths are chosen.
        means: the note on means that never change.
    Raises:
        UserError: a layer cannot be optimized.
    """
    network = model.network
    seen = network.seen_size(model.image_size)
    output = next((layer for layer in model.layers if layer.name == OUTPUT), None)
    stored = f"the weights of {network.label} are {network.stored_as}; it is run in fp32"
    notes = [
        stored if network.stored_as else "",
        means,
        check_independence(network, device.plain, layers, output, seen),
    ]
    check_gradient(network, device.plain, layers, seen)
    # The same choice that workers make, so that a layer without a path is refused here.
    precision, paths, fallback = _choose_paths(device, layers, how)
    note = "; ".join(filter(None, [fallback, *notes]))
    return CheckedLayers(tuple(_with_paths(layers, paths)), precision, note)


def _with_fingerprints(
    network: Network, device: DeviceModel, wanted: Sequence[LayerInfo]
) -> tuple[list[LayerInfo], str]:
    """Return the layers with their fingerprints, and a note on those whose means never change."""
    try:
        activations = device.expected(wanted)
    except RuntimeError as error:
        raise takes_no_batches(network, error) from error
    for info, activation in zip(wanted, activations, strict=True):
        check_weights(network, info, activation)
    pairs = list(zip(wanted, activations, strict=True))
    layers = [replace(info, fingerprint=fingerprint(activation)) for info, activation in pairs]
    constant = [info.name for info, activation in pairs if has_constant_means(activation)]
    if not constant:
        return layers, ""
    return layers, (
        f"the mean of {constant[0]} over its positions is the same for every image, as behind a "
        "softmax or a norm over positions, so that only objectives of one position can change it "
        "(objective=neuron)"
    )


def _compare(network: Network, layers: Sequence[LayerInfo], earlier: EarlierChecks) -> None:
    """Check that the network computes what it did; raises UserError."""
    for layer in layers:
        before = earlier.layers.get(layer.name)
        if before is not None and not is_same(layer.fingerprint, before.fingerprint):
            raise UserError(
                f"layer {layer.name!r} of model {network.label!r} computes something else than "
                "when this sweep was begun, with the same weights and code; perhaps a library that "
                "it uses has changed. Images of both would be mixed: undo that, or give the sweep "
                "another name."
            )


def _choose_paths(
    device: DeviceModel, layers: Sequence[LayerInfo], how: _How
) -> tuple[str, list[str], str]:
    """Choose a precision and the paths to some layers; returns a note about a fallback too."""
    label, note = device.network.label, ""
    groups = [how.together.group(device, layer) for layer in layers]
    choices = [(how.precision, device.fast_path)]
    if how.precision != "fp32" and how.may_fall_back:
        choices.append(("fp32", device.exact_path))
    for tried, choose in choices:
        try:
            paths = _path_names(choose, groups)
            deepest = max(layers, key=lambda layer: layer.flops_before)
            if tried == "fp32" or not how.may_fall_back or how.is_worth_it(device, deepest):
                return tried, paths, note
            note = f"{label} is optimized in fp32, which is as fast as {tried} here"
        except NoPathAgrees as error:
            remedy = "" if tried == "fp32" else " Set precision=fp32, or auto."
            refusal = f"model {label!r} cannot be optimized in {tried}: {error}.{remedy}"
            note = f"{label} is optimized in fp32: {tried} does not do ({error})"
    raise UserError(refusal)


_TIMED_STEPS = 3
_WORTH = 0.9
"""Fraction of the time of fp32 that low precision may take; it costs digits."""


def is_faster_than_fp32(device: DeviceModel, layer: LayerInfo) -> bool:
    """Whether the precision of the optimization is faster, by steps of a few images.

    It need not be: hardware multiplies bf16 fast, but networks of depthwise convolutions hardly
    multiply.
    """
    seconds = {device.fast_path: math.inf, device.exact_path: math.inf}
    paths = {choose: choose([layer]) for choose in seconds}
    # In turns, and the best of each: other work on the machine delays both.
    for _ in range(_TIMED_STEPS):
        for choose, path in paths.items():
            started = time.perf_counter()
            device.step(path)
            seconds[choose] = min(seconds[choose], time.perf_counter() - started)
    return seconds[device.fast_path] < _WORTH * seconds[device.exact_path]


def _path_names(
    choose: Callable[[Sequence[LayerInfo]], Path], groups: Sequence[Sequence[LayerInfo]]
) -> list[str]:
    """The names of the paths to groups of layers; workers choose them again, group by group.

    What works for all layers in one pass, and for the deepest group alone, works for each.
    """
    if len(groups) == 1:
        return [choose(groups[0]).name]
    every = {layer.name: layer for group in groups for layer in group}
    deepest = max(groups, key=lambda group: group[0].flops_before)
    together, alone = choose(list(every.values())).name, choose(deepest).name
    if together == alone:
        return [alone] * len(groups)
    return [choose(group).name for group in groups]


def _with_paths(layers: Sequence[LayerInfo], paths: Sequence[str]) -> list[LayerInfo]:
    return [replace(layer, path=path) for layer, path in zip(layers, paths, strict=True)]
