"""Which channels of a layer are nearly the same and which are like none, in words."""

from collections.abc import Iterator

import numpy as np

from layer_atlas.presentation.figures.selection.choose import Selection
from layer_atlas.presentation.figures.selection.similarity import closest, distances, loneliest

_TOLD = 3
"""So many pairs and channels are named."""
_FEWEST = 4
"""Of fewer channels all is seen."""


def likeness_words(chosen: Selection) -> Iterator[str]:
    """Sentences on the pairs that are most alike, and on the channels that are least like any.

    Likeness is the cosine of standardised responses, as everywhere in figures.
    """
    shown, layer = chosen.shown, chosen.layer
    rows = [layer.row(channel) for channel in chosen.channels]
    live = [row for row in rows if shown.live[row]]
    if len(live) < _FEWEST:
        return
    names = [layer.labels[row] for row in live]
    apart = distances(shown.responses[live])
    pairs = [f"{names[a]} and {names[b]} ({1 - apart[a, b]:.2f})" for a, b in closest(apart, _TOLD)]
    yield f"most alike are the images of {', '.join(pairs)}."
    near = 1 - np.where(np.eye(len(live), dtype=bool), np.inf, apart).min(axis=1)
    alone = [f"{names[k]} ({near[k]:.2f})" for k in loneliest(apart, _TOLD)]
    yield f"least like any other are those of {', '.join(alone)}."
