"""The methods section of a figure, with the works that it cites, and its caption for LaTeX.

The atlas and the recipe of each layer decide every sentence.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.reader import Atlas, Layer, Model
from layer_atlas.config.recipe import Recipe
from layer_atlas.config.records import build, listed
from layer_atlas.datasets.evidence import STRONGEST
from layer_atlas.errors import unknown
from layer_atlas.plan.environment import Environment
from layer_atlas.plan.jobs import STATUS, UNTRAINED
from layer_atlas.plan.labels import mixture
from layer_atlas.plan.targets import counted
from layer_atlas.presentation.figures.captions import network_name, noun_of
from layer_atlas.presentation.figures.latex import (
    bibtex,
    escaped,
    network_entry,
    own_entries,
    own_key,
    with_cites,
)
from layer_atlas.presentation.figures.selection import RenderedFigure, Selection
from layer_atlas.presentation.figures.works import cited, dataset_works, network_works

DATASET = "dataset"
"""Key of the data set among citations."""

_MADE_WITH = ("layer-atlas", "torch")
"""Packages whose versions stand in a caption."""
_IN_METHODS = (*_MADE_WITH, "torchvision", "timm", "numpy")
"""Packages whose versions stand in the methods."""
_DIGITS = 12
"""Digits of a digest for readers."""


@dataclass(frozen=True)
class Texts:
    """Caption and methods of a figure."""

    caption: str
    """The caption for LaTeX: `\\caption{...}`."""
    markdown: str
    """The methods, and the works that they cite."""
    latex: str
    """The methods with `\\cite`."""
    entries: tuple[str, ...]
    """BibTeX entries of all works that the methods cite, but for keys of a user's own."""


def texts_of(atlas: Atlas, rendered: RenderedFigure, own: Mapping[str, str] | None = None) -> Texts:
    """Write caption and methods of a figure.

    Args:
        atlas: the atlas.
        rendered: the figure.
        own: citations of a user's own, as `figure.citations`.
    Raises:
        UserError: a citation for a model that is not in the atlas, or that is no citation.
    """
    citations = Citations(atlas, rendered.selections, own or {})
    sentences = [sentence for part in _parts(atlas, rendered, citations) for sentence in part]
    paragraph = " ".join(filter(None, sentences))
    works = cited(paragraph)
    listed_works = "\n".join(f"- {work.cite}. {work.entry}" for work in works)
    plain = citations.without_generated(paragraph)
    return Texts(
        caption_tex(atlas, rendered),
        f"{plain}\n\n{listed_works}\n" if works else f"{plain}\n",
        f"{with_cites(paragraph)}\n",
        (*map(bibtex, works), *citations.entries),
    )


class Citations:
    """What a text cites for each network and for the data set, behind their names.

    Raises:
        UserError: a citation for a model that is not in the atlas, or that is no citation.
    """

    def __init__(
        self, atlas: Atlas, selections: Sequence[Selection], own: Mapping[str, str]
    ) -> None:
        for name, citation in own.items():
            if name != DATASET and name not in atlas.models:
                raise unknown("figure.citations", name, [*atlas.models, DATASET])
            own_key(citation, name)
        self.own, self.models = own, {s.layer.model.name: s.layer.model for s in selections}
        used = {name: text for name, text in own.items() if name in (*self.models, DATASET)}
        generated = [self._generated(model) for model in self.models.values()]
        self.entries = (*own_entries(used).values(), *filter(None, generated))

    def of_model(self, model: Model) -> str:
        """The citation of a network, with the blank before it."""
        if model.name in self.own:
            return f" [@{own_key(self.own[model.name], model.name)}]"
        works = network_works(str(model.facts.get("source", "")))
        if works:
            return f" ({'; '.join(work.cite for work in works)})"
        return f" [@{_network_key(model)}]"

    def of_dataset(self, layer: Layer) -> str:
        """The citation of the data set, with the blank before it; empty if nothing is known."""
        if DATASET in self.own:
            return f" [@{own_key(self.own[DATASET], DATASET)}]"
        works = dataset_works(str(layer.group["dataset"].attrs.get("source", "")))
        return f" ({'; '.join(work.cite for work in works)})" if works else ""

    def without_generated(self, text: str) -> str:
        """The text without citations of entries that only a bibliography can show."""
        for model in self.models.values():
            text = text.replace(f" [@{_network_key(model)}]", "")
        return text

    def _generated(self, model: Model) -> str:
        source = str(model.facts.get("source", ""))
        if model.name in self.own or network_works(source):
            return ""
        digest = str(model.facts["weights_sha256"])[:_DIGITS]
        note = f"Neural network ({source}), SHA-256 of the weights {digest}"
        return network_entry(_network_key(model), model.name, note)


def _network_key(model: Model) -> str:
    """Key of a network on which no work is known."""
    return "network-" + re.sub(r"[^A-Za-z0-9.-]+", "-", model.name)


def _parts(atlas: Atlas, rendered: RenderedFigure, citations: Citations) -> Iterator[Sequence[str]]:
    """Yield groups of sentences, networks of one recipe together."""
    recipes: dict[str, list[Selection]] = {}
    selections = _by_layer(rendered.selections)
    for selection in selections:
        text = json.dumps(selection.layer.recipe, sort_keys=True)
        recipes.setdefault(text, []).append(selection)
    for alike in recipes.values():
        yield [_networks(alike, citations), recipe_of(alike[0].layer).describe()]
    yield [
        _seeds(selections),
        _fates(selections),
        _dataset_images(selections, citations),
        _judge(selections),
    ]
    yield [*rendered.methods, _made_with(atlas), _environments(selections)]


def _by_layer(selections: Sequence[Selection]) -> list[Selection]:
    """The selections with those of one layer as one: panels may show a layer several times."""
    found: dict[tuple[str, int | None, str | None], Selection] = {}
    for selection in selections:
        data = selection.data
        key = selection.layer.title, data.seed, data.variant
        before = found.get(key)
        channels = dict.fromkeys([*(before.channels if before else ()), *selection.channels])
        found[key] = Selection(data, tuple(channels))
    return list(found.values())


def recipe_of(layer: Layer) -> Recipe:
    """The recipe of a layer's images. Raises UserError for a recipe of another version."""
    return build(Recipe, layer.recipe, f"recipe of {layer.title}")


def _networks(alike: Sequence[Selection], citations: Citations) -> str:
    """Describe networks and layers, and that their weights are frozen."""
    models = {selection.layer.model.name: selection.layer.model for selection in alike}
    parts = []
    for name, model in models.items():
        layers = [selection.layer for selection in alike if selection.layer.model.name == name]
        types = list(dict.fromkeys(map(_with_type, layers)))
        word = "layer" if len(types) == 1 else "layers"
        cite = citations.of_model(model)
        parts.append(f"{word} {listed(types)} of {network_name(model)}{cite} {_weights(model)}")
    inputs: dict[str, list[str]] = {}
    for model in models.values():
        if model.preprocessing:
            inputs.setdefault(model.preprocessing, []).append(model.name)
    several = "; ".join(parts)
    made = (
        f"Feature visualizations were made for {several}, in evaluation mode with frozen weights."
    )
    preprocessing = (f"Preprocessing of {listed(some)}: {how}." for how, some in inputs.items())
    return " ".join([made, *preprocessing])


def _with_type(layer: Layer) -> str:
    """Name a layer for readers, with its module and the type of that."""
    kind = str(layer.facts["module_type"])
    renamed = layer.reader_name != layer.name
    return f"{layer.reader_name} ({f'module {layer.name}, ' if renamed else ''}{kind})"


def _weights(model: Model) -> str:
    """Describe the weights of a network, and where its code is from."""
    digest = str(model.facts["weights_sha256"])[:_DIGITS]
    source = str(model.facts["source"])
    parts = [source if source != model.name else "", model.weights]
    # Its name mentions random weights already.
    known = [part for part in parts if part and part != UNTRAINED]
    return f"({', '.join([*known, f'SHA-256 of the weights {digest}'])})"


def network_caption(model: Model) -> str:
    """Name a network and its weights."""
    return f"{network_name(model)} {_weights(model)}"


def _seeds(selections: Sequence[Selection]) -> str:
    layer = selections[0].layer
    if len(layer.seeds) == 1:
        return f"The random seed was {layer.seeds[0]}."
    if (seed := selections[0].data.seed) is not None:
        return f"The random seeds were {', '.join(map(str, layer.seeds))}; shown is seed {seed}."
    best = (
        " Where one image of several seeds is shown, it is the one that agrees most with the "
        "channel's dataset images."
        if "best_seed_index" in layer
        else " Where one image of several seeds is shown, it is that of the first."
    )
    return f"The random seeds were {', '.join(map(str, layer.seeds))}." + best


def _fates(selections: Sequence[Selection]) -> str:
    """Count the images, and those that came to nothing."""
    codes = np.concatenate(
        [
            selection.data.status[[selection.layer.row(c) for c in selection.channels]]
            for selection in selections
        ]
    )
    counts = {word: int((codes == code).sum()) for word, code in STATUS.items() if word != "ok"}
    parts = [f"{n} {_came_to(word, n)}" for word, n in counts.items() if n]
    images = f"the images of {counted(len(codes), noun_of(selections))}"
    return f"Of {images}, {listed(parts) if parts else 'none failed'}."


def _came_to(fate: str, count: int) -> str:
    """The predicate of images with a fate: `are dead`, `diverged`."""
    if fate in ("diverged", "failed"):
        return fate
    return f"{'is' if count == 1 else 'are'} {fate}"


def _dataset_images(selections: Sequence[Selection], citations: Citations) -> str:
    """Describe the dataset images that images were compared with, and their agreement."""
    compared = [selection for selection in selections if "agreement" in selection.layer]
    if not compared:
        return ""
    layer = compared[0].layer
    values = np.concatenate([_values(selection, "agreement") for selection in compared])
    count = int(layer.group["dataset"].attrs["photographs"])
    used = recipe_of(layer).dataset_images_used
    made_from = f"; images were made from the {used} strongest" if used else ""
    return (
        f"The layers' responses to {counted(count, 'dataset image')}{citations.of_dataset(layer)} "
        "were recorded. The median agreement, that is, the cosine between the layer's standardized "
        f"responses to an image and to the channel's {STRONGEST} strongest dataset images, without "
        f"the channel itself, is {np.nanmedian(values):.2f}{made_from}."
    )


def _judge(selections: Sequence[Selection]) -> str:
    """Describe the network that judged the images, and how much it recognised in them."""
    judged = [s for s in selections if "recognisability" in s.layer]
    if not judged:
        return ""
    images, of_dataset = (
        np.nanmean(np.concatenate([_values(selection, name) for selection in judged]))
        for name in ("recognisability", "dataset/recognisability")
    )
    judge = judged[0].layer.dataset("recognisability").attrs["judge"]
    return (
        f"Given an image, another network ({judge}) distinguished dataset images that activate "
        f"its target most from those that activate it least in {100 * images:.0f} % of pairs, and "
        f"in {100 * of_dataset:.0f} % given {STRONGEST} dataset images of the target instead."
    )


def _values(selection: Selection, name: str) -> NDArray[np.float64]:
    rows = [selection.layer.row(channel) for channel in selection.channels]
    return selection.data.values(name)[rows].ravel()


def _made_with(atlas: Atlas) -> str:
    known = atlas.versions
    under = f", under Python {known['python']}" if "python" in known else ""
    return f"Made with {', '.join(_versions(atlas, _IN_METHODS))}{under}."


def _environments(selections: Sequence[Selection]) -> str:
    """Name the environments that made the images, if there are several."""
    models: dict[str, Counter[Environment | None]] = {}
    for selection in selections:
        made = selection.layer.made_with(selection.channels)
        models.setdefault(selection.layer.model.name, Counter()).update(made)
    parts = mixture(models.values())
    return f"Images were {parts}." if parts else ""


def _versions(atlas: Atlas, names: Sequence[str]) -> list[str]:
    return [f"{name} {atlas.versions[name]}" for name in names if name in atlas.versions]


def caption_tex(atlas: Atlas, rendered: RenderedFigure) -> str:
    """The caption for LaTeX, with networks, recipe, seeds and versions in a last sentence."""
    layers = {selection.layer.model.name: selection.layer for selection in rendered.selections}
    recipes: dict[str, list[str]] = {}
    for layer in layers.values():
        recipes.setdefault(recipe_of(layer).summary(), []).append(network_caption(layer.model))
    parts = [f"{listed(networks)}; {recipe}" for recipe, networks in recipes.items()]
    seeds = rendered.selections[0].layer.seeds
    word = "seed" if len(seeds) == 1 else "seeds"
    parts.append(f"{word} {', '.join(map(str, seeds))}")
    parts.append(", ".join(_versions(atlas, _MADE_WITH)))
    return f"\\caption{{{escaped(rendered.caption)} Made with {escaped('; '.join(parts))}.}}"
