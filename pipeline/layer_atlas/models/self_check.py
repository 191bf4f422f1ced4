"""Self-check: which layers of a network can be optimized, along which paths, in which precision.

The activations that a network computes for an image must depend on it alone. Plain hooks on
untouched instances show that, before any path is compared with them: they compare the same image
alone, again, within a batch, and after other images. All of it happens once, while a sweep is
planned; workers go along the same paths.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from layer_atlas.config.records import plain
from layer_atlas.errors import UserError, first_of, kind_and_reason
from layer_atlas.models.activations import (
    OUTPUT,
    fingerprint,
    is_same,
    main_tensor,
    plain_activations,
)
from layer_atlas.models.containment import contained, restored
from layer_atlas.models.device_model import DeviceModel
from layer_atlas.models.forwards import (
    CopyingForward,
    HookedForward,
    NoPathAgrees,
    Path,
    disagreement,
    probe_gradient,
)
from layer_atlas.models.inspections import InspectedModel, Inspection
from layer_atlas.models.load import Network, check_weights
from layer_atlas.plan.jobs import LayerInfo

_CPU = torch.device("cpu")
"""Where networks are checked."""


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
    return inspection.answered(CheckedLayers, lambda: _checked(model, device, layers, how, means))


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


# --- an image alone decides its activations, and gets a gradient from them -----------------------


_ROUNDING = 1e-4
"""Largest disagreement in fp32 that is certainly rounding; beyond it, fp64 decides."""

_ROUNDING_64 = 1e-7

_ORDER = [2, 0, 3, 1] * 2
"""Order of the probes in a batch, which has the size of the smallest CPU batch."""

ActivationsByLayer = Mapping[str, Tensor]
"""Activations (B, K, L) by layer name."""


def check_independence(
    network: Network,
    other: nn.Module,
    layers: Sequence[LayerInfo],
    output: LayerInfo | None,
    size: tuple[int, int],
) -> str:
    """Check that activations depend on nothing but the image.

    Args:
        network: the loaded network; it is restored afterwards.
        other: another instance of it.
        layers: layers to be optimized.
        output: the network's own output, if that is a layer.
        size: height and width of the network's input.
    Returns: a note on the output if only that depends on more; else "".
    Raises:
        UserError: a layer is called for some images only, or depends on chance, on the other images
            of a batch, or on images that the network saw before. It names the layers and the cause.
    """
    wanted = {layer.name for layer in layers}
    watched = [*layers, *([] if output is None or output.name in wanted else [output])]
    note = ""
    try:
        for fault in _faults(network, other, watched, _probes(network, size)):
            if wanted.intersection(fault.layers):
                break
            # A fault of the output alone is harmless for the wanted layers before it, and worth a
            # note.
            if fault.layers and fault.cause:
                note = note or f"the output of {network.label} {fault.what}: {fault.cause}"
        else:
            return note
    except Exception as error:
        raise takes_no_batches(network, error) from error
    raise UserError(_message(network, layers, fault))


def takes_no_batches(network: Network, error: Exception) -> UserError:
    """Return the error for a network that fails on several images, or on one after others."""
    return UserError(
        f"model {network.label!r} does not take images one by one and in batches of any size: "
        f"{kind_and_reason(error)}."
    )


def check_gradient(
    network: Network, other: nn.Module, layers: Sequence[LayerInfo], size: tuple[int, int]
) -> None:
    """Check that the image gets a gradient from every layer, for the activation it computes.

    Args: as above.
    Raises:
        UserError: a layer gives no gradient, or computes something else when one is requested.
    """
    probes = _probes(network, size)[:2]
    without = _run(other, layers, probes)
    with contained(seed=1):
        with_gradient = plain_activations(other, layers, probes.clone().requires_grad_())
    cut = [layer.name for layer in layers if not with_gradient[layer.name].requires_grad]
    if cut:
        raise UserError(
            f"no gradient reaches the image from layer {cut[0]!r} of model {network.label!r}: what "
            "is before it runs without gradients, or does not depend on the image. Choose other "
            "layers, or change the code of the network."
        )
    # Code may test `requires_grad`, or take a fused path without gradients.
    if inconsistent := _differing(with_gradient, without, _ROUNDING):
        raise UserError(
            f"layer {inconsistent[0]!r} of model {network.label!r} computes something else with "
            "gradients than without them. Change the code of the network."
        )
    try:
        probe_gradient(CopyingForward(HookedForward(other, layers)), probes)
    except Exception as error:
        raise UserError(
            f"model {network.label!r} cannot be optimized, as its backward pass fails: "
            f"{kind_and_reason(error)}. Choose other layers, or change the code of the network."
        ) from error


@dataclass(frozen=True)
class _SameAtSizes:
    """Whether layers have the same channels at all sizes in question."""

    is_so: bool


def is_same_at(
    model: InspectedModel, layers: Sequence[LayerInfo], sizes: Sequence[tuple[int, int]]
) -> bool:
    """Return whether layers have the same channels for images of other sizes.

    A layer of flattened maps has other ones. A network that keeps what it computed for a size may
    fail at the next, or compute something else.

    Args:
        model: the network, and the size of its images; it is restored afterwards.
        layers: some of its layers.
        sizes: other heights and widths, in the order of use.
    """
    # A network that is given every image at its own size sees no others.
    if not sizes or model.network.fixed_size is not None:
        return True
    question = {
        "asked": "sizes",
        "behaviour": model.behaviour,
        "sizes": [list(size) for size in (*sizes, model.image_size)],
        "layers": [plain(layer) for layer in layers],
    }
    inspection = Inspection(model.network, _CPU, question if model.behaviour else None)
    find = partial(_same_at_sizes, model.network, layers, sizes, model.image_size)
    return inspection.answered(_SameAtSizes, find).is_so


def _same_at_sizes(
    network: Network,
    layers: Sequence[LayerInfo],
    others: Sequence[tuple[int, int]],
    size: tuple[int, int],
) -> _SameAtSizes:
    def seen(sizes: Sequence[tuple[int, int]]) -> list[ActivationsByLayer]:
        """Return what one instance computes for images of some sizes, one after the other."""
        with restored(network.module), contained(seed=0), torch.no_grad():
            return [plain_activations(network.module, layers, network.example(s)) for s in sizes]

    try:
        rising, falling = seen([*others, size]), seen([size, *reversed(others)])
    except Exception:  # noqa: BLE001 - any failure is an answer
        return _SameAtSizes(False)
    channels = {layer.name: layer.n_channels for layer in layers}
    same = all({name: a.shape[1] for name, a in at.items()} == channels for at in rising)
    pairs = zip(rising, reversed(falling), strict=True)
    return _SameAtSizes(same and not any(_differing(*pair, _ROUNDING) for pair in pairs))


def has_constant_means(activation: Tensor) -> bool:
    """Return whether no channel's mean over positions depends on the image, though values do.

    Args:
        activation: (B, K, L) for different images.
    """
    wide = activation.double()
    means, scale = wide.mean(dim=2), float(wide.abs().mean())
    if not torch.allclose(means, means[:1].expand_as(means), rtol=0.0, atol=1e-5 * scale):
        return False
    return not torch.allclose(wide, wide[:1].expand_as(wide), rtol=0.0, atol=1e-3 * scale)


def _probes(network: Network, size: tuple[int, int]) -> Tensor:
    return network.normalise(network.probes(size))


@dataclass(frozen=True)
class _Fault:
    """A fault of some layers."""

    layers: Sequence[str]
    what: str
    cause: str = ""


def _message(network: Network, layers: Sequence[LayerInfo], fault: _Fault) -> str:
    bad = [layer.name for layer in layers if layer.name in fault.layers]
    others = [layer.name for layer in layers if layer.name not in fault.layers]
    many = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    return (
        f"layer {bad[0]!r}{many} of model {network.label!r} {fault.what}"
        f"{': ' + fault.cause if fault.cause else ''}. An image optimized for it would depend on "
        "more than its channel. "
        f"Choose {f'other layers, such as {first_of(others)}' if others else 'layers before that'}"
        ", or change the code of the network."
    )


# --- faults --------------------------------------------------------------------------------------


def _faults(
    network: Network, other: nn.Module, layers: Sequence[LayerInfo], probes: Tensor
) -> Iterator[_Fault]:
    """Yield every possible fault in turn; each check assumes that those before it passed."""
    module, first, batch = network.module, probes[:1], probes[_ORDER]
    names = [layer.name for layer in layers]
    alone = [_restored_run(module, layers, image[None]) for image in probes]
    skipped = [name for name in names if any(name not in found for found in alone)]
    yield _Fault(skipped, "is called for some images only")
    # Bits must agree here: the same image on the same module leaves rounding no reason.
    again = _restored_run(module, layers, first, seed=2)
    by_chance = _differing(again, alone[0], 0.0)
    yield _Fault(by_chance, "depends on chance", _cause(network, probes[:1]) if by_chance else "")
    together = _run(other, layers, batch)
    merged = [name for name in names if name in together and len(together[name]) != len(batch)]
    yield _Fault(merged, "does not keep the images of a batch apart")
    mixed = _mixed(together, alone, _ROUNDING)
    mixed = _mixed_in_fp64(network, layers, probes, mixed) if mixed else []
    cause = _cause(network, batch) if mixed else ""
    yield _Fault(mixed, "depends on the other images of its batch", cause)
    for seen in (batch, probes[1:2]):  # some caches are reset when the batch size changes
        _run(other, layers, seen)
        later = _differing(_run(other, layers, first), alone[0], _ROUNDING)
        yield _Fault(later, "depends on images that the network saw before")


def _run(
    module: nn.Module, layers: Sequence[LayerInfo], images: Tensor, seed: int = 1
) -> ActivationsByLayer:
    """Return the activations of a batch by plain hooks."""
    with contained(seed), torch.no_grad():
        return plain_activations(module, layers, images)


def _restored_run(
    module: nn.Module, layers: Sequence[LayerInfo], images: Tensor, seed: int = 1
) -> ActivationsByLayer:
    """Return the activations of a batch and restore the network, so that it keeps no state."""
    with restored(module):
        return _run(module, layers, images, seed)


def _mixed(
    together: ActivationsByLayer, alone: Sequence[ActivationsByLayer], rounding: float
) -> list[str]:
    """Return the layers whose activations for some image differ between batch and single run."""
    rows = [{name: a[i : i + 1] for name, a in together.items()} for i in range(len(_ORDER))]
    pairs = zip(rows, (alone[probe] for probe in _ORDER), strict=True)
    differing = [_differing(row, right, rounding) for row, right in pairs]
    return list(dict.fromkeys(name for names in differing for name in names))


def _differing(
    actual: ActivationsByLayer, expected: ActivationsByLayer, rounding: float
) -> list[str]:
    """Return the layers whose activations differ by more than rounding, or are missing."""
    return [
        name
        for name, right in expected.items()
        # `not <=` instead of `>`: a NaN counts as a difference.
        if name not in actual or not disagreement(actual[name], right) <= rounding
    ]


def _mixed_in_fp64(
    network: Network, layers: Sequence[LayerInfo], probes: Tensor, suspects: Sequence[str]
) -> list[str]:
    """Return the suspects that differ within a batch even in fp64, where rounding is negligible.

    Networks that cannot run in fp64 stay suspected.
    """
    suspected = [layer for layer in layers if layer.name in suspects]
    try:
        exact, wide = network.fresh().double(), probes.double()
        alone = [_restored_run(exact, suspected, image[None]) for image in wide]
        together = _run(exact, suspected, wide[_ORDER])
    except Exception:  # noqa: BLE001 - such as a dtype hard-coded in the forward
        return list(suspects)
    return _mixed(together, alone, _ROUNDING_64)


# --- causes --------------------------------------------------------------------------------------


def _cause(network: Network, batch: Tensor) -> str:
    """Describe the first module whose result for an image differs between batch and single run."""
    names = {module: name for name, module in network.module.named_modules()}
    for index in range(len(batch)):
        alone = _trail(network.module, batch[index : index + 1], 0, seed=1)
        among = _trail(network.module, batch, index, seed=2)
        # Not strict: the two runs may call different modules, and the first difference decides.
        for here, there in zip(alone, among, strict=False):
            name = f"{names[here.module]!r} ({type(here.module).__name__})"
            if not _close(here.input, there.input):
                return f"the code before {name} causes this"
            if not _close(here.output, there.output):
                return f"{name} {here.habit}"
    return f"the code of {type(network.module).__name__} causes this"


def _habit(module: nn.Module) -> str:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        how = "is in training mode" if module.training else "has no running statistics"
        return f"normalises over the batch, as it {how}"
    if isinstance(module, nn.modules.dropout._DropoutNd):
        return "drops at random in eval mode"
    return "causes this"


@dataclass(frozen=True)
class _Step:
    """The input and output of a module for one image."""

    module: nn.Module
    input: Tensor | None
    output: Tensor | None
    habit: str
    """How a module of its kind, in its mode at that time, may mix images."""


def _trail(network: nn.Module, images: Tensor, index: int, seed: int) -> list[_Step]:
    """Record the input and output of every leaf module for one image of a batch, in order."""
    steps: list[_Step] = []

    def row(value: Any) -> Tensor | None:
        tensor = main_tensor(value)
        if tensor is None or tensor.ndim == 0 or len(tensor) != len(images):
            return None
        return tensor[index].detach().clone()

    def note(module: nn.Module, args: Any, output: Any) -> None:
        steps.append(_Step(module, row(args), row(output), _habit(module)))

    with restored(network), contained(seed), torch.no_grad():
        for module in network.modules():
            if not any(module.children()):
                module.register_forward_hook(note)  # `restored` removes it
        network(images.clone())
    return steps


def _close(left: Tensor | None, right: Tensor | None) -> bool:
    """Return whether two tensors agree up to rounding, as far as they are comparable."""
    if left is None or right is None or left.shape != right.shape:
        return True
    return bool(torch.allclose(left, right, rtol=1e-3, atol=1e-4, equal_nan=True))
