"""Activations: layers by name, their output captured, and channel responses over its positions.

A layer is a module of the network, or the network's own output. Its activation is a tensor
(B, C, L) of samples, channels and positions. Batches are filled up, so that no activation depends
on the size of a batch, and a fingerprint shows whether two activations are the same.
"""

import dataclasses
import math
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import chain
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layer_atlas.errors import UserError, unknown
from layer_atlas.models.containment import attached, contained
from layer_atlas.models.load import Network
from layer_atlas.plan.jobs import LayerInfo

T = TypeVar("T")

_FIRST_KEYS = ("logits", "out")
"""Keys of the main output in mappings and records: Hugging Face, torchvision's segmentation."""

_DEEPEST = 4


def main_tensor(output: Any) -> Tensor | None:
    """Return the main tensor of a module's output: the output itself or the first tensor inside it.

    Containers are tuples, lists, mappings, dataclasses and plain objects, nested up to four levels.
    In those with names, `logits` and `out` come first.
    """
    return main_part(output, Tensor)


def main_part(output: Any, kind: type[T], depth: int = _DEEPEST) -> T | None:
    """Return the first part of type `kind`, such as a tracer's proxy, as `main_tensor` does."""
    if isinstance(output, kind):
        return output
    parts = (main_part(part, kind, depth - 1) for part in (_parts(output) if depth else ()))
    return next((part for part in parts if part is not None), None)


def _parts(output: Any) -> Iterable[Any]:
    # Not every sequence: a string is a sequence of strings.
    if isinstance(output, list | tuple):
        return output
    if isinstance(output, Mapping):
        named: Mapping[Any, Any] = output
    elif dataclasses.is_dataclass(output) and not isinstance(output, type):
        named = {f.name: getattr(output, f.name) for f in dataclasses.fields(output)}
    # A module that is returned as an output would expose its parameters as if they were
    # activations.
    elif isinstance(output, nn.Module) or not hasattr(output, "__dict__"):
        return ()
    else:
        named = vars(output)
    # The named keys come first because segmentation networks return auxiliary heads in the same
    # mapping.
    return chain((named.get(key) for key in _FIRST_KEYS), named.values())


def channels_first(activation: Tensor, layer: LayerInfo) -> Tensor:
    """Rearrange a layer's activation to (B, C, L), positions row by row; vectors have L = 1.

    Non-spatial tokens before and after the others (class token, registers) are excluded.
    """
    batch_first = activation.movedim(layer.batch_axis, 0)
    shape = batch_first.movedim(layer.channel_axis, 1)
    flat = shape.reshape(shape.shape[0], shape.shape[1], math.prod(shape.shape[2:]))
    # They come first or last, so that one slice removes them.
    return flat.narrow(
        2, layer.prefix_tokens, flat.shape[2] - layer.prefix_tokens - layer.suffix_tokens
    )


class StopForward(Exception):
    """Internal signal that ends a forward pass at the last requested layer."""


def reduce_layers(
    network: nn.Module,
    layers: Sequence[LayerInfo],
    inputs: Tensor,
    reduce: Callable[[Tensor], T],
) -> dict[str, T]:
    """Run the network once and reduce the first activation of each layer as soon as it is computed.

    Only what `reduce` returns is kept, and no later in-place operation can have overwritten the
    activation before `reduce` reads it. The forward pass ends after the last of the layers.

    Args:
        network: a network in eval mode.
        layers: layers described for this network.
        inputs: normalized images (B, C, H, W).
        reduce: function of an activation (B, K, L).
    Returns: results by layer name, without the layers that this pass did not call.
    """
    return _reduce_each(network, layers, inputs, lambda activation, name: reduce(activation))


def _reduce_each(
    network: nn.Module,
    layers: Sequence[LayerInfo],
    inputs: Tensor,
    reduce: Callable[[Tensor, str], T],
) -> dict[str, T]:
    """Reduce as `reduce_layers` does, by a function that is given the layer's name as well."""
    reduced: dict[str, T] = {}

    def note(info: LayerInfo) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensor = main_tensor(output)
            # Only the first call counts: layers that are shared, such as one ReLU for a whole
            # block, are called several times.
            if info.name not in reduced and tensor is not None:
                reduced[info.name] = reduce(channels_first(tensor, info), info.name)
                if len(reduced) == len(layers):
                    # An exception is the only way out of a forward pass that works for any network.
                    raise StopForward

        return hook

    hooks = (module_of(network, i.name).register_forward_hook(note(i)) for i in layers)
    # Leaving a forward midway skips whatever it would restore at its end, such as a default dtype.
    with suppress(StopForward), attached(hooks), contained():
        network(inputs)
    return reduced


def check_called(layers: Iterable[LayerInfo], found: Container[str]) -> None:
    """Check that a forward pass called layers.

    Raises:
        RuntimeError: it did not call one of them.
    """
    if silent := [layer.name for layer in layers if layer.name not in found]:
        raise RuntimeError(f"layer {silent[0]!r} was not called for these images.")


def plain_activations(
    network: nn.Module, layers: Sequence[LayerInfo], inputs: Tensor
) -> dict[str, Tensor]:
    """Return a copy of what the first call of each layer returns, by layer name.

    This is the reference that every faster path is compared with. The network gets a copy of its
    inputs.
    """
    # Both copies guard against in-place operations: on the inputs by the network's first layer, and
    # on the activation by whatever follows it.
    return reduce_layers(network, layers, inputs.clone(), Tensor.clone)


@dataclass(frozen=True, eq=False)
class ChannelActivations:
    """The responses of every channel of a layer to every image of a batch."""

    mean: Tensor
    """(B, K) fp32: mean over the layer's positions."""
    peak: Tensor
    """(B, K) fp32: the largest response at any position."""
    place: Tensor
    """(B, K) int64: the first position with this response, positions counted row by row."""


class Observer:
    """Computes the channel responses of layers.

    The responses to a sample have the same bits whatever else is in its batch: CPU batches are
    padded as in the optimization. A network in channels-last layout is the fastest.
    """

    def __init__(self, network: nn.Module, layers: Sequence[LayerInfo]) -> None:
        self.network, self.layers = network, list(layers)

    @torch.no_grad()
    def __call__(self, inputs: Tensor) -> dict[str, ChannelActivations]:
        """Return the responses by layer name.

        Args:
            inputs: normalized images (B, C, H, W).
        Raises:
            RuntimeError: this pass did not call one of the layers.
        """
        count, batch = len(inputs), inputs[_padded(inputs)]
        responses = reduce_layers(self.network, self.layers, batch, _reduce_positions)
        check_called(self.layers, responses)
        return {
            name: ChannelActivations(r.mean[:count], r.peak[:count], r.place[:count])
            for name, r in responses.items()
        }


def _padded(inputs: Tensor) -> Tensor | slice:
    """Return the rows of a batch, filled up as in the optimization."""
    rows = filled_up(len(inputs), inputs.device)
    # Indices copy, a slice does not, and most batches need no padding.
    return rows if len(rows) > len(inputs) else slice(None)


@dataclass(frozen=True, eq=False)
class SampledActivations:
    """The activations of a layer at one position of each image of a batch."""

    vector: Tensor
    """(B, K) fp32: all channels at that position."""
    attribution: Tensor
    """(B, classes) fp32: what the activation there adds to the score of each class; no classes
    where the network's output is not one score per class."""


_STEP = 2.0**-4
"""Relative change of an activation for its attribution: a power of two, which rounds nothing."""


class Sampler:
    """Reads layers at one position per image, and what the activations there add to each class.

    The attribution is the linear approximation of Carter et al. 2019: gradient times activation. It
    is the derivative of the scores as the activation at the position grows, taken as a central
    difference of two forward passes. So one pair of passes serves all classes, and networks need
    no gradients.
    """

    def __init__(self, network: nn.Module, layers: Sequence[LayerInfo], labels: bool) -> None:
        self.network, self.layers, self.labels = network, list(layers), labels

    @torch.no_grad()
    def __call__(
        self, inputs: Tensor, places: Mapping[str, Tensor]
    ) -> dict[str, SampledActivations]:
        """Return what is read of each layer, by its name.

        Args:
            inputs: normalized images (B, C, H, W).
            places: flat position of each image by layer name: (B,) int64.
        """
        count, whole = len(inputs), _padded(inputs)
        batch = inputs[whole]
        at = {name: place.to(inputs.device)[whole] for name, place in places.items()}
        vectors = _reduce_each(
            self.network, self.layers, batch, lambda activation, name: _at(activation, at[name])
        )
        return {
            layer.name: SampledActivations(
                vectors[layer.name][:count], self._attribution(layer, batch, at[layer.name])[:count]
            )
            for layer in self.layers
        }

    def _attribution(self, layer: LayerInfo, batch: Tensor, places: Tensor) -> Tensor:
        nothing = batch.new_zeros(len(batch), 0)
        if not self.labels:
            return nothing
        less, more = (self._scores(layer, batch, places, 1 + s) for s in (-_STEP, _STEP))
        return nothing if less is None or more is None else (more - less) / (2 * _STEP)

    def _scores(
        self, layer: LayerInfo, batch: Tensor, places: Tensor, factor: float
    ) -> Tensor | None:
        """Return the output (B, classes) with the activation at the positions scaled, if it is."""
        calls: list[bool] = []

        def scale(module: nn.Module, args: Any, output: Any) -> Any:
            # Later calls of a shared module are other activations.
            if calls:
                return output
            calls.append(True)
            tensor = main_tensor(output)
            assert tensor is not None
            changed = tensor.clone() if tensor is output else tensor
            _scale_at(changed, layer, places, factor)
            return changed if tensor is output else output

        hook = module_of(self.network, layer.name).register_forward_hook(scale)
        with attached([hook]), contained():
            scores = main_tensor(self.network(batch))
        return scores.float() if scores is not None and scores.ndim == 2 else None


def _at(activation: Tensor, places: Tensor) -> Tensor:
    """Return the vectors (B, K) of (B, K, L) at one position each."""
    index = places[:, None, None].expand(-1, activation.shape[1], 1)
    return activation.gather(2, index).squeeze(2).float()


def _scale_at(activation: Tensor, layer: LayerInfo, places: Tensor, factor: float) -> None:
    """Multiply what a module returned at one position of each image, in place."""
    view = activation.movedim(layer.batch_axis, 0).movedim(layer.channel_axis, 1)
    flat, index = places + layer.prefix_tokens, list[Tensor]()
    for side in reversed(view.shape[2:]):
        index.insert(0, flat % side)
        flat = flat // side
    # Channels last, so that one index along every other axis selects whole vectors.
    last = view.movedim(1, -1)
    last[(torch.arange(len(view), device=view.device), *index)] *= factor


def normalized(pixels: Tensor, network: Network) -> Tensor:
    """Convert views (B, H, W, C) uint8 to channels-last inputs (B, C, H, W) of a network.

    The bits equal the inputs that `DeviceModel` gives to a network in fp32.
    """
    batch, height, width, colours = pixels.shape
    mean, std = (
        torch.tensor(values, device=pixels.device).repeat(width)
        for values in (network.mean, network.std)
    )
    # Whole rows at a time: three channels are too few to fill a vector register.
    rows = pixels.reshape(batch, height, width * colours).float().div_(255.0)
    rows.sub_(mean).div_(std)
    return rows.view(batch, height, width, colours).permute(0, 3, 1, 2)


def _reduce_positions(activation: Tensor) -> ChannelActivations:
    """Reduce an activation (B, K, L) over its positions."""
    activation = activation.float()
    return ChannelActivations(activation.mean(dim=2), *_largest(activation))


def _largest(activation: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest value of (B, K, L) over its positions, and where it is: (B, K) each."""
    # On a CPU max pooling is many times faster; on a GPU one thread would scan the whole map.
    if activation.is_cuda:
        peak, place = activation.max(dim=2)
        return peak, place
    rows = activation.unsqueeze(2)
    peak, place = F.max_pool2d(rows, (1, rows.shape[3]), return_indices=True)
    return peak.flatten(1), place.flatten(1)


OUTPUT = "output"
"""Name of the layer for the network's return value, unless a module has this name."""


def module_of(network: nn.Module, name: str) -> nn.Module:
    """Return the module of a layer; for the network's own output, the network itself."""
    if name == OUTPUT and not isinstance(getattr(network, OUTPUT, None), nn.Module):
        return network
    return network.get_submodule(name)


def match_layers(
    patterns: Sequence[str], layers: Sequence[LayerInfo], network: nn.Module, model: str
) -> list[LayerInfo]:
    """Return the layers that match any pattern, in the network's order, without duplicates.

    A pattern is a glob over layer names, optionally followed by `@` and a glob over module types:
    `features.*`, `*@Conv2d`, `layer3.*@ReLU`. A type matches a module's class and its bases. The
    network's own output matches only its name, `output`.

    A module with several names is listed under the first and matches under any of them.

    Raises:
        UserError: a pattern that matches nothing, or names a module that the forward never calls.
    """
    layers = [*layers, *_other_names(patterns, layers, network)]
    chosen: set[str] = set()
    for pattern in patterns:
        name_glob, _, kind_glob = pattern.partition("@")
        matches = {
            layer.name
            for layer in layers
            if fnmatchcase(layer.name, name_glob)
            and any(fnmatchcase(kind, kind_glob or "*") for kind in layer.kinds)
            and (pattern == OUTPUT or module_of(network, layer.name) is not network)
        }
        if not matches:
            raise _no_match(pattern, layers, network, model)
        chosen |= matches
    return [layer for layer in layers if layer.name in chosen]


def _other_names(
    patterns: Sequence[str], layers: Sequence[LayerInfo], network: nn.Module
) -> list[LayerInfo]:
    """Return layers under further names of their modules, where a pattern uses these names."""
    listed = {layer.name: layer for layer in layers if layer.name != OUTPUT}
    by_module = {module_of(network, name): layer for name, layer in listed.items()}
    # Shared modules, such as tied blocks, are listed once by default.
    every = network.named_modules(remove_duplicate=False)
    return [
        replace(by_module[module], name=name)
        for name, module in every
        if name in patterns and name not in listed and module in by_module
    ]


def _no_match(
    pattern: str, layers: Sequence[LayerInfo], network: nn.Module, model: str
) -> UserError:
    name_glob, _, kind_glob = pattern.partition("@")
    if name_glob and name_glob in dict(network.named_modules()) and not kind_glob:
        around = module_of(network, name_glob.rpartition(".")[0])
        if "Attention" in type(around).__name__:
            return UserError(
                f"layer {pattern!r} of model {model!r} has no activations: a forward pass never "
                "calls it, as where attention is fused and makes no map for each head. Build the "
                "network without: attn_implementation='eager' in transformers, "
                "timm.layers.set_fused_attn(False) before a network of timm is built."
            )
        return UserError(
            f"layer {pattern!r} of model {model!r} has no activations: a forward pass never calls "
            "it, or what it returns does not begin with a tensor that has images on its first axis "
            "and channels on another. `atlas layers` lists those that have."
        )
    remedy = "Patterns are globs over names, with @Type to filter by module type, as in *@Conv2d."
    if kind_glob:
        # Private base classes are not useful as choices.
        kinds = {k for x in layers if x.name != OUTPUT for k in x.kinds if k[0] != "_"}
        remedy += f" Types in this model: {', '.join(sorted(kinds))}."
    return unknown(f"layer of model {model!r}:", pattern, [layer.name for layer in layers], remedy)


# --- batches: filled up, so that no result depends on their size ---------------------------------


CPU_BATCH_MULTIPLE = 8
"""CPU batches are padded to a multiple of this.

Matrix products of fewer rows use other kernels and give other last bits; by measurement, all
multiples of 8 agree with each other.
"""


def filled_up(n: int, device: torch.device, gpu_multiple: int = 1) -> Tensor:
    """Return indices 0 to n - 1, padded with the last one.

    Args:
        n: number of samples.
        device: where they are computed; on a CPU they are padded to a multiple of 8.
        gpu_multiple: what they are padded to a multiple of on a GPU.
    """
    missing = -n % (CPU_BATCH_MULTIPLE if device.type == "cpu" else gpu_multiple)
    return torch.arange(n + missing, device=device).clamp_max(n - 1)


# --- fingerprints: a few numbers, comparable over time and across machines -----------------------


_FREQUENCIES = [math.sqrt(prime) for prime in (2, 3, 5, 7)]
"""Frequencies of the directions: irrational, and none a multiple of another."""

_ROUNDING = 5e-3
"""Bound on the effect of rounding on any device; other causes move some of the numbers by more."""


def fingerprint(activation: Tensor) -> tuple[float, ...]:
    """Return the norm of an activation, and projections of its means relative to the norm.

    Two networks with the same weights may compute different things: edited code, another mode,
    another version of a library, a faulty device.

    Args:
        activation: (B, K, L).
    Returns: the norm, four projections of the means over positions (B, K), and four of the means
        over channels (B, L); empty if the activation is not finite.
    """
    values = activation.detach().float()
    norm = float(values.norm()) / math.sqrt(max(values.numel(), 1))
    if not math.isfinite(norm):
        return ()
    # Both means, because each is blind to a permutation of the axis that it averages.
    means = values.mean(dim=2), values.mean(dim=1)
    projections = (p / max(norm, 1e-30) for mean in means for p in _projections(mean))
    return (norm, *projections)


def _projections(means: Tensor) -> list[float]:
    """Project means onto four waves over all their elements."""
    flat = means.double().cpu().flatten()
    index = torch.arange(len(flat), dtype=torch.float64)
    # Fixed waves instead of random vectors: their values do not depend on torch's generator.
    waves = (torch.cos(2 * math.pi * torch.frac(index * frequency)) for frequency in _FREQUENCIES)
    return [float(flat @ wave) / math.sqrt(len(flat)) for wave in waves]


def is_same(actual: Sequence[float], expected: Sequence[float]) -> bool:
    """Return whether two fingerprints are of the same activation; true where one is missing."""
    if not actual or not expected:
        return True
    norms = math.isclose(actual[0], expected[0], rel_tol=_ROUNDING, abs_tol=1e-12)
    pairs = zip(actual[1:], expected[1:], strict=True)
    return norms and all(abs(left - right) <= _ROUNDING for left, right in pairs)
