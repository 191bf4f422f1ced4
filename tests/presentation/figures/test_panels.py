"""Panels: what is written in them lies above what is drawn."""

import pytest

from layer_atlas.config.outputs import TracesFigure
from layer_atlas.presentation.figures.panels import Panels, legend
from layer_atlas.presentation.layout.figure import PageSpec, style

NAMES = (("one", "black"), ("two", "red"), ("three", "blue"))


@pytest.mark.parametrize("width", ["column", "slide"])
def test_the_legend_is_above_all_that_is_drawn(width: str) -> None:
    settings = TracesFigure(width=width)  # type: ignore[arg-type]
    with style(settings):
        panels = Panels(PageSpec(settings), ["a", "b"])
        ((_, (axes, _)),) = panels.drawn()
        axes.plot([0, 1], [-3, 1])
        legend(axes, panels.spec, NAMES)
        highest = axes.transData.transform((1, 1))[1]
        assert [text.get_text() for text in axes.texts] == ["one", "two", "three"]
        assert all(text.get_window_extent().y0 >= highest - 1 for text in axes.texts)
