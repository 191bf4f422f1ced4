"""Similarity of a layer's channels to those of other networks, for the scripts of the site."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.reader import Layer


def network_similarity(layer: Layer) -> dict[str, dict[str, list[Any]]]:
    """How alike the channels are to those of each other model, by its label.

    Returns: in hundredths, rounded as in figures, the similarity to the channel of the same number
        by `index`; and where the atlas has best matches, their numbers as `match` (-1: none), and
        the similarity to them, `matched`.
    """
    if "other_model" not in layer:
        return {}
    names = {"index": "similarity", "match": "match", "matched": "match_similarity"}
    known = {key: layer[name] for key, name in names.items() if name in layer}
    others = layer.dataset("other_model").asstr(errors="replace")[()]
    return {
        str(other): {key: hundredths(values[:, number]) for key, values in known.items()}
        for number, other in enumerate(others)
    }


def hundredths(values: NDArray[Any]) -> list[int | None]:
    """Similarities in hundredths, None for NaN: whole numbers, which a browser rounds no more.

    What are whole numbers already, such as those of channels, stays as it is.
    """
    if values.dtype.kind != "f":
        return list(values.tolist())
    # Exact: a float32 times 100 has fewer digits than a float64.
    return [round(100 * value) if np.isfinite(value) else None for value in values.tolist()]
