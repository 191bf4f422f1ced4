"""Checks of the layers that a sweep is to make images for, and what they find out."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from layer_atlas.errors import UserError
from layer_atlas.models.device_model import DeviceModel
from layer_atlas.models.fingerprints import fingerprint, is_same
from layer_atlas.models.forwards import NoPathAgrees, Path
from layer_atlas.models.layers import OUTPUT
from layer_atlas.models.load import Network, check_weights
from layer_atlas.models.self_check import check_gradient, check_independence, takes_no_batches
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.sweep.planning.inspection import InspectedModel
from layer_atlas.sweep.planning.refusals import too_small


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
