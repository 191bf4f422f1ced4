"""What every kind of figure comes to: pages, a caption, and what they show.

A kind is a function from an atlas and its settings to a `RenderedFigure`. Pages are drawn lazily,
so that only the current one is in memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from layer_atlas.presentation.figures.paper.sheet import Sheet
from layer_atlas.presentation.figures.selection.choose import Selection


@dataclass(frozen=True)
class RenderedFigure:
    """A figure that is about to be drawn."""

    pages: Iterator[Sheet]
    caption: str
    """What is seen, in a few sentences."""
    methods: str
    """How what is shown was chosen, ordered and computed, in a few sentences."""
    shown: tuple[Selection, ...]
    """The layers and their channels."""
