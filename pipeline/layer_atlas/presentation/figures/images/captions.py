"""What a figure of images says below: what is shown, and what its marks mean."""

from collections.abc import Iterator

from layer_atlas.plan.labels import counted
from layer_atlas.presentation.figures.captions.brackets import (
    bracket_methods,
    bracket_words,
    order_words,
    ranking_notes,
)
from layer_atlas.presentation.figures.captions.selection import what_is_shown
from layer_atlas.presentation.figures.images.content import MARKS, Content

_FATES = {
    "dead": "dead, the channel never responded",
    "silent": "silent, only photographs move the channel",
    "diverged": "diverged",
}


def caption_of(content: Content) -> str:
    """A caption in a few sentences."""
    return " ".join(_caption(content))


def _caption(content: Content) -> Iterator[str]:
    settings = content.settings
    shown = what_is_shown(content.chosen, settings.channels, order_words(settings))
    yield f"Images for {shown}."
    if settings.columns is not None:
        yield f"Rows: {settings.rows}; columns: {settings.columns}."
    yield from ranking_notes(content.chosen, settings)
    yield from bracket_words(content.chosen, settings)
    if settings.dendrogram:
        yield "Tree: similarity, by average linkage."
    if content.dataset_images:
        most = counted(content.dataset_images, "photograph")
        yield f"Small: the {most} to which the channel responds most."
    if settings.tell is not None:
        yield f"Below each image: its {settings.tell.replace('_', ' ')}."
    yield from _marks(content)


def _marks(content: Content) -> Iterator[str]:
    """What became of images that are not what they should be, if there are any."""
    fates = {shot.fate for shot in content.shots}
    for fate, mark in MARKS.items():
        if fate in fates and content.settings.labels:
            yield f"{mark}: {_FATES[fate]}."
    if fates & {"failed", "missing"}:
        yield "Crossed out: not made."


def methods_of(content: Content) -> str:
    """How what is shown was chosen and drawn."""
    settings = content.settings
    sentences = list(bracket_methods(content.chosen, settings))
    sentences.append(
        f"Images were resampled to {settings.dpi} pixels per inch for display (Lanczos)."
    )
    return " ".join(sentences)
