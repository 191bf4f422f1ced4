"""Layers: the modules of a network by name, plus its own output; selected by globs."""

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from torch import nn

from layer_atlas.errors import UserError, unknown
from layer_atlas.plan.jobs import LayerInfo

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
