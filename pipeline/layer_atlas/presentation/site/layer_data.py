"""What scripts know of a layer and its channels, as plain data."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.reader import Layer
from layer_atlas.config.objectives import Objective
from layer_atlas.config.recipe import Recipe
from layer_atlas.config.records import build
from layer_atlas.errors import UserError
from layer_atlas.plan.jobs import STATUS
from layer_atlas.presentation.site.dataset_images import DatasetImages
from layer_atlas.presentation.site.pictures import (
    COLUMNS,
    PER_SHEET,
    has_large,
    image_size,
    preview_columns,
    tile_size,
)
from layer_atlas.presentation.site.script import numbers
from layer_atlas.presentation.site.similar import SIMILAR, nearest

_DIGITS = 5
_NAMES = frozenset({"best_seed", "start"})
"""Numbers that are names: one is no more than another."""


def leads(layer: Layer) -> NDArray[np.intp]:
    """Which seed's image stands for each channel (C,): the one that agrees most with photographs,
    else the first that is well."""
    first: NDArray[np.intp] = np.argmax(layer.status == STATUS["ok"], axis=1)
    if "best_seed_index" not in layer:
        return first
    best = layer["best_seed_index"]
    return np.where((best >= 0) & (best < len(layer.seeds)), best, first).astype(np.intp)


def layer_facts(layer: Layer) -> dict[str, Any]:
    """What is told of a layer among others."""
    facts = layer.facts
    return {
        "name": layer.name,
        "type": str(facts.get("module_type", "")),
        "shape": [whole(side) for side in np.ravel(facts.get("activation_shape", ()))],
        "share": _finite(facts.get("flops_share")),
        "channels": len(layer.channels),
        "some": None if layer.channels == list(range(len(layer.channels))) else layer.channels,
        "of": _all_targets(layer),
        "noun": target_noun(layer),
        "image": list(image_size(layer))[::-1],
        "recipe": recipe_words(layer),
        "targets": layer.sampling.words(),
    }


def target_noun(layer: Layer) -> str:
    """What a target of a layer is, in a word: `channel`, `class`, `direction` and so on."""
    if "part_channel" in layer:
        return "combination"
    objective = layer.recipe.get("objective")
    if not isinstance(objective, dict):
        return "channel"
    if objective.get("name") == "custom" and not objective.get("per_channel", True):
        return "whole layer"
    record = Objective.choices.get(str(objective.get("name")), Objective)
    return str(record.target_word)


def _all_targets(layer: Layer) -> int | None:
    """How many targets a layer has; None where that is not the number of its channels."""
    if target_noun(layer) not in ("channel", "class"):
        return None
    return whole(layer.facts.get("n_channels")) or len(layer.channels)


def recipe_words(layer: Layer) -> str:
    """How a layer's images were made; nothing where the recipe is none of this version's."""
    try:
        return build(Recipe, layer.recipe).summary()
    except (UserError, KeyError, ValueError):
        return ""


def whole(value: Any) -> int:
    """A number of an attribute; 0 for what is none."""
    return int(value) if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iu" else 0


def _finite(value: Any) -> float | None:
    number = np.asarray(value)
    known = number.ndim == 0 and number.dtype.kind == "f" and np.isfinite(number)
    return float(number) if known else None


def layer_data(layer: Layer) -> dict[str, Any]:
    """What the grid of a layer shows: statistics of all channels, and where their tiles are."""
    height, width = image_size(layer)
    words = {code: word for word, code in STATUS.items()}
    return {
        "channels": layer.channels,
        "labels": layer.labels,
        "seeds": layer.seeds,
        "variants": layer.variants,
        "status": [[words.get(code, "failed") for code in row] for row in layer.status.tolist()],
        "lead": leads(layer).tolist(),
        "leads": "best agreement" if "best_seed_index" in layer else "first that is ok",
        "similar": SIMILAR,
        "statistics": list(_statistics(layer)),
        "image": [width, height],
        "tile": list(tile_size(layer)),
        "columns": COLUMNS,
        "perSheet": PER_SHEET,
        "previewColumns": preview_columns(layer),
        "large": has_large(layer),
        "photographs": DatasetImages(layer).facts(),
    }


def _statistics(layer: Layer) -> Iterator[dict[str, Any]]:
    """Every statistic: its meaning and its values, nested as its axes are."""
    for name, meaning in layer.statistics.items():
        values = numbers(layer[name])
        ranked = name not in _NAMES
        yield {"name": name, "meaning": meaning, "values": values, "ranked": ranked}


def channel_blocks(layer: Layer) -> Iterator[tuple[int, dict[str, Any]]]:
    """What a channel's page shows besides, in blocks of so many channels as a sheet has."""
    rows, cosines = nearest(layer, leads(layer))
    dataset_images = DatasetImages(layer)
    for start in range(0, len(layer.channels), PER_SHEET):
        here = slice(start, min(start + PER_SHEET, len(layer.channels)))
        yield (
            start // PER_SHEET,
            {
                "first": start,
                "similar": list(map(_similar, rows[here], cosines[here])),
                "step": layer["trace_step"].tolist() if "trace_step" in layer else [],
                "trace": _traces(layer, here),
                "photographs": [dataset_images.told(row) for row in range(here.start, here.stop)]
                if dataset_images.across
                else [],
            },
        )


def _similar(rows: NDArray[np.intp], cosines: NDArray[np.float32]) -> dict[str, Any]:
    """The channels that are similar to one, and the best cosine; None if it was not compared."""
    alike = cosines >= SIMILAR
    compared = np.isfinite(cosines) & (cosines != 0)  # 0: one of both has no image
    best = numbers(cosines[compared].max(keepdims=True), 3)[0] if compared.any() else None
    return {"rows": rows[alike].tolist(), "cosine": numbers(cosines[alike], 3), "best": best}


def _traces(layer: Layer, here: slice) -> list[Any]:
    """Ascent curves (n, S, V, T)."""
    if "trace" not in layer:
        return []
    traces = np.asarray(layer.dataset("trace")[here])
    return numbers(traces if layer.variants else traces[:, :, None], _DIGITS)
