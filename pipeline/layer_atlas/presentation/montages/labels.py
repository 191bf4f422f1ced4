"""The words of a montage or a strip: a heading above, labels below the images."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from PIL import Image, ImageDraw

from layer_atlas.atlas.drawing import (
    ALARM,
    FAINT,
    INK,
    colours_shown,
    draw_fitting,
    font,
    numbered,
    shortened,
)
from layer_atlas.atlas.gather import LayerView
from layer_atlas.plan.jobs import UNTRAINED
from layer_atlas.plan.labels import weights_words
from layer_atlas.presentation.montages.layout import Layout


@dataclass(frozen=True)
class Label:
    """A few words below an image."""

    corner: tuple[int, int]
    text: str
    size: int
    """Of the letters."""
    room: float
    """Width that there is."""
    colour: str = INK
    fate: str = ""
    """What became of a job, if it did not go well."""


def write_label(draw: ImageDraw.ImageDraw, label: Label) -> None:
    """Write a label; where there is no room for a job's fate, the text takes its colour."""
    letters, (x, y) = font(label.size), label.corner
    text = shortened(label.text, label.size, label.room)
    after = letters.getlength(text + "  ")
    told = bool(label.fate) and after + letters.getlength(label.fate) <= label.room
    draw.text((x, y), text, ALARM if label.fate and not told else label.colour, letters)
    if told:
        draw.text((x + after, y), label.fate, ALARM, letters)


def draw_heading(picture: Image.Image, layout: Layout, title: str, facts: Iterable[str]) -> None:
    """Write a title, and below it in small letters the facts that are not empty."""
    draw = ImageDraw.Draw(picture)
    width = layout.size[0] - 4 * layout.gap
    size = max(14, round(layout.scale * 0.19))
    x, y = 2 * layout.gap, layout.gap
    draw_fitting(draw, (x, y), title, INK, size, width)
    text = "  ·  ".join(filter(None, facts))
    draw_fitting(draw, (x, y + size * 1.35), text, FAINT, max(13, round(size * 0.62)), width)


def facts_of(view: LayerView) -> list[str]:
    """Whose images they are, how they were made, and how their colours are shown."""
    model = view.model
    # An untrained network is named so in the title.
    weights = (
        ""
        if model.origin.weights == UNTRAINED and len(model.origins) == 1
        else weights_words(model)
    )
    return [weights, model.recipe.summary(), colours_shown(view.colours)]


def variant_words(view: LayerView, width: float = math.inf) -> list[str]:
    """What variants are called; those that have but a number could pass for a channel."""
    names = view.model.recipe.objective.variant_names
    numbers = range(len(names))
    plain_numbers = names == tuple(map(str, numbers))
    return numbered("image", numbers, width) if plain_numbers else list(names)
