"""A paragraph for a methods section: networks, images and their status, versions, works."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from layer_atlas.atlas.reader import Atlas, Layer, Model
from layer_atlas.config.recipe import Octaves, Recipe
from layer_atlas.config.records import FAMILIES, Reference, build
from layer_atlas.plan.environment import Environment
from layer_atlas.plan.jobs import STATUS
from layer_atlas.plan.labels import counted, mixture
from layer_atlas.presentation.figures.captions.selection import noun_of
from layer_atlas.presentation.figures.files import RenderedFigure
from layer_atlas.presentation.figures.selection import Selection

_MADE_WITH = ("layer-atlas", "torch")
"""Packages whose versions stand in a caption."""
_TOLD = (*_MADE_WITH, "torchvision", "timm", "numpy")
"""Packages whose versions stand in the methods."""
_DIGITS = 12
"""Digits of a digest for readers."""


_OF_FIGURES = (
    Reference(
        "Bar-Joseph et al. 2001",
        "Fast optimal leaf ordering for hierarchical clustering. Bioinformatics 17 (suppl. 1), "
        "S22-S29.",
    ),
    Reference(
        "Gonzalez 1985",
        "Clustering to minimize the maximum intercluster distance. Theoretical Computer Science "
        "38, 293-306.",
    ),
)
"""The works that figures themselves follow; records own all others."""


def known_references() -> list[Reference]:
    """List every work that a text may cite, in order."""
    records = [record for family in FAMILIES.values() for record in family.choices.values()]
    works = {work for record in (*records, Octaves) for work in record.references}
    return sorted({*works, *_OF_FIGURES}, key=lambda work: work.cite)


def cited(text: str) -> list[str]:
    """List the works that a text cites by author and year, in full."""
    return [f"{work.cite}. {work.entry}" for work in known_references() if work.cite in text]


def methods_text(atlas: Atlas, rendered: RenderedFigure) -> str:
    """The paragraph, and the works that it cites, as Markdown."""
    sentences = [sentence for part in _parts(atlas, rendered) for sentence in part]
    paragraph = " ".join(filter(None, sentences))
    works = "\n".join(f"- {work}" for work in cited(paragraph))
    return f"{paragraph}\n\n{works}\n" if works else f"{paragraph}\n"


def _parts(atlas: Atlas, rendered: RenderedFigure) -> Iterator[Sequence[str]]:
    """Yield groups of sentences, networks of one recipe together."""
    recipes: dict[str, list[Selection]] = {}
    for selection in rendered.selections:
        text = json.dumps(selection.layer.recipe, sort_keys=True)
        recipes.setdefault(text, []).append(selection)
    for alike in recipes.values():
        yield [_networks(alike), recipe_of(alike[0].layer).describe()]
    yield [
        _seeds(rendered.selections),
        _fates(rendered.selections),
        _photographs(rendered.selections),
    ]
    yield [rendered.methods, _made_with(atlas), _environments(rendered.selections)]


def recipe_of(layer: Layer) -> Recipe:
    """The recipe of a layer's images. Raises UserError for a recipe of another version."""
    return build(Recipe, layer.recipe, f"recipe of {layer.title}")


def _networks(alike: Sequence[Selection]) -> str:
    """Describe networks and layers, and that their weights are frozen."""
    models = {selection.layer.model.name: selection.layer.model for selection in alike}
    parts = []
    for name, model in models.items():
        layers = [selection.layer for selection in alike if selection.layer.model.name == name]
        types = [f"{layer.name} ({layer.facts['module_type']})" for layer in layers]
        word = "layer" if len(types) == 1 else "layers"
        parts.append(f"{word} {', '.join(types)} of {network_caption(model)}")
    inputs = [
        f" Preprocessing of {model.title}: {model.preprocessing}."
        for model in models.values()
        if model.preprocessing
    ]
    images = f"Images are for {'; '.join(parts)}, in evaluation mode with frozen weights."
    return images + "".join(inputs)


def network_caption(model: Model) -> str:
    """Name a network and its weights."""
    digest = str(model.facts["weights_sha256"])[:_DIGITS]
    weights = f", {model.weights}" if model.weights else ""
    return f"{model.facts['source']}{weights} (SHA-256 of the weights {digest})"


def _seeds(selections: Sequence[Selection]) -> str:
    layer = selections[0].layer
    if len(layer.seeds) == 1:
        return f"The random seed was {layer.seeds[0]}."
    if (seed := selections[0].data.seed) is not None:
        return f"The random seeds were {', '.join(map(str, layer.seeds))}; shown is seed {seed}."
    best = (
        " Where one image of several seeds is shown, it is the one that agrees most with the "
        "channel's photographs."
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
    parts = ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "none failed"
    return f"Of the images of {counted(len(codes), noun_of(selections))} {parts}."


def _photographs(selections: Sequence[Selection]) -> str:
    """Describe the photographs that images were compared with, and their agreement."""
    layer = next(
        (selection.layer for selection in selections if "agreement" in selection.layer), None
    )
    if layer is None:
        return ""
    values = np.concatenate(
        [
            selection.data.values("agreement")[[selection.layer.row(c) for c in selection.channels]]
            for selection in selections
            if "agreement" in selection.layer
        ]
    )
    count = int(layer.group["dataset"].attrs["photographs"])
    return (
        f"Layers were shown {counted(count, 'photograph')}; the median agreement of the images, "
        "the cosine between the layer's standardised responses to an image and to the channel's "
        f"nine strongest photographs without the channel itself, is {np.nanmedian(values):.2f}."
    )


def _made_with(atlas: Atlas) -> str:
    known = atlas.versions
    under = f", under Python {known['python']}" if "python" in known else ""
    return f"Made with {', '.join(_versions(atlas, _TOLD))}{under}."


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


# --- LaTeX ---------------------------------------------------------------------------------------

_TEX = {
    "\\": r"\textbackslash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    "·": r"\textperiodcentered{}",
}


def tex(text: str) -> str:
    """Escape a text for LaTeX.

    >>> tex("layer_1 & 50 %")
    'layer\\\\_1 \\\\& 50 \\\\%'
    """
    return "".join(_TEX.get(sign, sign) for sign in text)


def caption_tex(atlas: Atlas, rendered: RenderedFigure) -> str:
    """The caption for LaTeX, with networks, recipe, seeds and versions in a last sentence."""
    parts = []
    models = {selection.layer.model.name: selection.layer for selection in rendered.selections}
    for layer in models.values():
        recipe = recipe_of(layer).summary()
        parts.append(f"{network_caption(layer.model)}; {recipe}")
    seeds = rendered.selections[0].layer.seeds
    word = "seed" if len(seeds) == 1 else "seeds"
    parts.append(f"{word} {', '.join(map(str, seeds))}")
    parts.append(", ".join(_versions(atlas, _MADE_WITH)))
    return f"\\caption{{{tex(rendered.caption)} {tex('; '.join(parts))}.}}\n"
