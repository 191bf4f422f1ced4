"""The page about an atlas: what its images are, how they were made, whose network, how to cite."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from layer_atlas.atlas.reader import Atlas, Layer, Model
from layer_atlas.config.recipe import Recipe
from layer_atlas.config.records import build
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.methods import texts_of
from layer_atlas.presentation.figures.selection import LayerData, RenderedFigure, Selection

_WHAT = (
    "Each image was made by gradient ascent: it starts from noise, unless the recipe below names a "
    "photograph, and is changed step by step so that its target, mostly one channel of a layer, "
    "responds to it more strongly. This is feature visualization by activation maximization. Only "
    "images called photographs are from a data set.",
    "An image shows what excites its target, which is not all that the target does. A high "
    "activation is no measure of quality. Where a data set was seen, agreement and the photographs "
    "beside an image show whether natural images support it.",
)
_MOST_LAYERS = 20
"""Layers that are named one by one."""
_LICENCES = {
    "demo": "The demo network and its weights belong to Layer Atlas (Apache License 2.0).",
    "torchvision/": "The code of torchvision is under the BSD 3-Clause License. Published weights "
    "may have terms of their own, as their training data does.",
    "timm/": "The code of timm is under the Apache License 2.0. Published weights have the licence "
    "on their page at huggingface.co.",
}
"""Statements on the networks of a source."""
_UNKNOWN = "No licence is known of {}: ask its author before you publish these images."
_OF_SITE = (
    "The pages themselves were made with Layer Atlas (Apache License 2.0), which claims no right "
    "in the images."
)
_OF_PHOTOGRAPHS = "Photographs of the data set keep the terms of their owners."


def about_data(atlas: Atlas, names: Mapping[str, str] | None, manifest: Mapping[str, Any]) -> Any:
    """The texts of the page.

    Args:
        atlas: the atlas.
        names: names for readers, as `collate.names`.
        manifest: of the run; empty for an atlas from elsewhere.
    Returns: `what`, `methods`, `works`, `dataset` and `licence`, each a list of paragraphs;
        `networks`, each with a name and pairs of texts; `bibtex` entries; `again`, what remakes the
        atlas, and the `command`, if it is known; pairs of `versions`.
    """
    layers = [layer.called(names) for layer in atlas.values()]
    methods, works, bibtex = _methods(atlas, layers)
    command = without_folders(str(manifest.get("command", "")))
    return {
        "what": [*_WHAT, *_shown(layers)],
        "methods": methods,
        "works": works,
        "bibtex": bibtex,
        "networks": [_network(model) for model in atlas.models.values()],
        "dataset": list(dict.fromkeys(_dataset(layers))),
        "licence": list(dict.fromkeys(_licences(atlas, layers))),
        "again": "This command made the images; with the same versions it makes them again."
        if command
        else "The recipe above, with the networks and versions given here, makes them again.",
        "command": command,
        "versions": [
            *([["collated", atlas.created]] if atlas.created else []),
            *([["run", str(manifest["created"])]] if "created" in manifest else []),
            *([["commit", str(manifest["git_commit"])]] if manifest.get("git_commit") else []),
            *map(list, _versions(atlas).items()),
        ],
    }


def without_folders(text: str) -> str:
    """Shorten absolute paths to their last part: a site is published, and a disk is not.

    >>> without_folders("atlas run dataset.path=/home/me/photos 'layers=[a/b]'")
    "atlas run dataset.path=…/photos 'layers=[a/b]'"
    """
    return re.sub(r"(?<![\w.*~/-])~?/(?:[^/\s'\"\],]+/)*(?=[^/\s'\"\],])", "…/", text)


def _shown(layers: list[Layer]) -> Iterator[str]:
    """Name the targets that are shown, layer by layer."""
    words = [layer.sampling.words(layer.reader_name) for layer in layers]
    more = len(words) - _MOST_LAYERS
    yield f"Shown: {'; '.join(words[:_MOST_LAYERS])}{f'; and {more} more layers' * (more > 0)}."


def _methods(atlas: Atlas, layers: list[Layer]) -> tuple[list[str], list[str], list[str]]:
    """The methods section of figures, the works that it cites, and their BibTeX entries."""
    shown = tuple(Selection(LayerData(layer), tuple(layer.channels)) for layer in layers)
    try:
        texts = texts_of(atlas, RenderedFigure(iter(()), "", (), shown))
    except (UserError, KeyError, ValueError, TypeError):  # of another version, or made up
        return _recipes(layers), [], []
    words, _, works = texts.markdown.strip().partition("\n\n")
    return [words], [work.removeprefix("- ") for work in works.splitlines()], list(texts.entries)


def _recipes(layers: list[Layer]) -> list[str]:
    """The recipes of all layers in words, but for those of another version."""
    words: dict[str, None] = {}
    for layer in layers:
        try:
            words[build(Recipe, layer.recipe).describe()] = None
        except (UserError, KeyError, ValueError):
            continue
    return list(words)


def _network(model: Model) -> dict[str, Any]:
    facts = model.facts
    pairs = {
        "source": str(facts.get("source", "")),
        "weights": model.weights,
        "SHA-256 of the weights": str(facts.get("weights_sha256", "")),
        "preprocessing": model.preprocessing,
    }
    return {"name": model.title, "pairs": [[name, text] for name, text in pairs.items() if text]}


def _dataset(layers: list[Layer]) -> Iterator[str]:
    for layer in layers:
        group = layer.group.get("dataset")
        if group is not None:
            facts = dict(group.attrs)
            source = without_folders(str(facts.get("source", "")))
            number = f"{int(facts.get('photographs', 0)):,}"
            yield f"Data set: {number} photographs{f' ({source})' if source else ''}."


def _licences(atlas: Atlas, layers: list[Layer]) -> Iterator[str]:
    for model in atlas.models.values():
        source = str(model.facts.get("source", ""))
        known = (words for start, words in _LICENCES.items() if source.startswith(start))
        yield next(known, _UNKNOWN.format(model.name))
    if any("dataset" in layer.group for layer in layers):
        yield _OF_PHOTOGRAPHS
    yield _OF_SITE


def _versions(atlas: Atlas) -> dict[str, str]:
    try:
        return {name: str(version) for name, version in atlas.versions.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
