"""A paragraph for a methods section: networks, images, what became of them, versions, works."""

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
from layer_atlas.presentation.figures.base import RenderedFigure
from layer_atlas.presentation.figures.captions.selection import noun_of
from layer_atlas.presentation.figures.selection.choose import Selection

_MADE_WITH = ("layer-atlas", "torch")
"""What versions a caption tells."""
_TOLD = (*_MADE_WITH, "torchvision", "timm", "numpy")
"""What versions the methods tell."""
_DIGITS = 12
"""Of a digest, where it is not for machines."""


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


def methods_text(atlas: Atlas, drawing: RenderedFigure) -> str:
    """The paragraph, and the works that it cites, as Markdown."""
    sentences = [sentence for part in _parts(atlas, drawing) for sentence in part]
    paragraph = " ".join(filter(None, sentences))
    works = "\n".join(f"- {work}" for work in cited(paragraph))
    return f"{paragraph}\n\n{works}\n" if works else f"{paragraph}\n"


def _parts(atlas: Atlas, drawing: RenderedFigure) -> Iterator[Sequence[str]]:
    """Sentences, networks of one recipe together."""
    recipes: dict[str, list[Selection]] = {}
    for found in drawing.shown:
        text = json.dumps(found.layer.recipe, sort_keys=True)
        recipes.setdefault(text, []).append(found)
    for some in recipes.values():
        yield [_networks(some), recipe_of(some[0].layer).describe()]
    yield [_seeds(drawing.shown), _fates(drawing.shown), _photographs(drawing.shown)]
    yield [drawing.methods, _made_with(atlas), _environments(drawing.shown)]


def recipe_of(layer: Layer) -> Recipe:
    """How images of a layer were made. Raises UserError for a recipe of another version."""
    return build(Recipe, layer.recipe, f"recipe of {layer.title}")


def _networks(some: Sequence[Selection]) -> str:
    """Which networks and layers, and what of them is frozen."""
    models = {found.layer.model.name: found.layer.model for found in some}
    told = []
    for name, model in models.items():
        layers = [found.layer for found in some if found.layer.model.name == name]
        types = [f"{layer.name} ({layer.facts['module_type']})" for layer in layers]
        word = "layer" if len(types) == 1 else "layers"
        told.append(f"{word} {', '.join(types)} of {network_words(model)}")
    inputs = [
        f" Preprocessing of {model.title}: {model.preprocessing}."
        for model in models.values()
        if model.preprocessing
    ]
    images = f"Images are for {'; '.join(told)}, in evaluation mode with frozen weights."
    return images + "".join(inputs)


def network_words(model: Model) -> str:
    """A network and its weights."""
    digest = str(model.facts["weights_sha256"])[:_DIGITS]
    weights = f", {model.weights}" if model.weights else ""
    return f"{model.facts['source']}{weights} (SHA-256 of the weights {digest})"


def _seeds(shown: Sequence[Selection]) -> str:
    layer = shown[0].layer
    if len(layer.seeds) == 1:
        return f"The random seed was {layer.seeds[0]}."
    if (seed := shown[0].shown.seed) is not None:
        return f"The random seeds were {', '.join(map(str, layer.seeds))}; shown is seed {seed}."
    best = (
        " Where one image of several seeds is shown, it is the one that agrees most with the "
        "channel's photographs."
        if "best_seed_index" in layer
        else " Where one image of several seeds is shown, it is that of the first."
    )
    return f"The random seeds were {', '.join(map(str, layer.seeds))}." + best


def _fates(shown: Sequence[Selection]) -> str:
    """How many images there are, and how many of them came to nothing."""
    codes = np.concatenate(
        [found.shown.status[[found.layer.row(c) for c in found.channels]] for found in shown]
    )
    counts = {word: int((codes == code).sum()) for word, code in STATUS.items() if word != "ok"}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "none failed"
    return f"Of the images of {counted(len(codes), noun_of(shown))} {told}."


def _photographs(shown: Sequence[Selection]) -> str:
    """Which photographs images were compared with, and how well they agree."""
    layer = next((found.layer for found in shown if "agreement" in found.layer), None)
    if layer is None:
        return ""
    values = np.concatenate(
        [
            found.shown.values("agreement")[[found.layer.row(c) for c in found.channels]]
            for found in shown
            if "agreement" in found.layer
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


def _environments(shown: Sequence[Selection]) -> str:
    """That the images differ in what they were made with, if they do."""
    models: dict[str, Counter[Environment | None]] = {}
    for found in shown:
        made = found.layer.made_with(found.channels)
        models.setdefault(found.layer.model.name, Counter()).update(made)
    told = mixture(models.values())
    return f"Images were {told}." if told else ""


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
    """A text as LaTeX has it, inert whatever it is.

    >>> tex("layer_1 & 50 %")
    'layer\\\\_1 \\\\& 50 \\\\%'
    """
    return "".join(_TEX.get(sign, sign) for sign in text)


def caption_tex(atlas: Atlas, drawing: RenderedFigure) -> str:
    """The caption for LaTeX, with networks, recipe, seeds and versions in a last sentence."""
    told = []
    models = {found.layer.model.name: found.layer for found in drawing.shown}
    for layer in models.values():
        recipe = recipe_of(layer).summary()
        told.append(f"{network_words(layer.model)}; {recipe}")
    seeds = drawing.shown[0].layer.seeds
    word = "seed" if len(seeds) == 1 else "seeds"
    told.append(f"{word} {', '.join(map(str, seeds))}")
    told.append(", ".join(_versions(atlas, _MADE_WITH)))
    return f"\\caption{{{tex(drawing.caption)} {tex('; '.join(told))}.}}\n"
