"""The data of a site's pages: grids, channels, other networks, labels, maps and connections."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.connections import Connection
from layer_atlas.atlas.reader import Atlas, Layer
from layer_atlas.config.objectives import Objective
from layer_atlas.config.recipe import Recipe
from layer_atlas.config.records import build
from layer_atlas.datasets.projection import Projection
from layer_atlas.errors import UserError
from layer_atlas.plan.jobs import STATUS
from layer_atlas.presentation.montages.map_picture import fractions
from layer_atlas.presentation.similarity import SIMILAR, lay_out, nearest
from layer_atlas.presentation.site.about import without_folders
from layer_atlas.presentation.site.files import (
    COLUMNS,
    PER_SHEET,
    DatasetImages,
    SiteFiles,
    image_files,
    image_size,
    numbers,
    photograph_name,
    preview_columns,
    tile_size,
)

_TRACE_DIGITS = 5
_NAMES = frozenset({"best_seed", "start"})
"""Statistics whose numbers are names, which have no order."""


def layer_facts(layer: Layer) -> dict[str, Any]:
    """The record of a layer in the overview."""
    facts = layer.facts
    return {
        "name": layer.name,
        "title": layer.reader_name,
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
    """The kind of a layer's targets: `channel`, `class`, `direction` and so on."""
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
    """Number of targets of a layer; None where that is not its number of channels."""
    if target_noun(layer) not in ("channel", "class"):
        return None
    return whole(layer.facts.get("n_channels")) or len(layer.channels)


def recipe_words(layer: Layer) -> str:
    """The recipe of a layer's images; empty where it is not of this version."""
    try:
        return build(Recipe, layer.recipe).summary()
    except (UserError, KeyError, ValueError):
        return ""


def whole(value: Any) -> int:
    """An attribute as a whole number; 0 for anything else."""
    return int(value) if np.ndim(value) == 0 and np.asarray(value).dtype.kind in "iu" else 0


def _finite(value: Any) -> float | None:
    number = np.asarray(value)
    known = number.ndim == 0 and number.dtype.kind == "f" and np.isfinite(number)
    return float(number) if known else None


def layer_data(layer: Layer) -> dict[str, Any]:
    """The data of a layer's grid: statistics of all targets, and where their tiles are."""
    height, width = image_size(layer)
    words = {code: word for word, code in STATUS.items()}
    return {
        "place": layer.title,
        "channels": layer.channels,
        "labels": layer.labels,
        "seeds": layer.seeds,
        "variants": layer.variants,
        "status": [words.get(code, "failed") for code in layer.status.ravel().tolist()],
        "lead": layer.leads().tolist(),
        "leads": "best agreement" if "best_seed_index" in layer else "first that is ok",
        "similar": SIMILAR,
        "statistics": list(_statistics(layer)),
        "image": [width, height],
        "tile": list(tile_size(layer)),
        "columns": COLUMNS,
        "perSheet": PER_SHEET,
        "previewColumns": preview_columns(layer),
        "files": image_files(layer),
        "similarity": network_similarity(layer),
        "photographs": DatasetImages(layer).facts(),
        "map": map_data(layer),
        "words": layer.label_facts if layer.label_sources else None,
        "refused": layer.connections.refused,
    }


def _statistics(layer: Layer) -> Iterator[dict[str, Any]]:
    """Yield every statistic: its meaning and its values, those of a channel one after another."""
    for name, meaning in layer.statistics.items():
        values = layer[name]
        yield {
            "name": name,
            "meaning": meaning,
            # Flat, by seed and variant as far as it has such: arrays in arrays of 65,536 channels
            # take a browser ten times the memory.
            "values": numbers(values.ravel()),
            "axes": values.ndim - 1,
            "ranked": name not in _NAMES,
        }


def channel_blocks(layer: Layer) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the further data of targets' pages, in blocks of as many targets as a sheet has."""
    rows, cosines = nearest(layer, layer.leads())
    dataset_images, connected = DatasetImages(layer), SiteConnections(layer)
    for block in blocks(layer):
        here = slice(block.start, block.stop)
        yield (
            block.start // PER_SHEET,
            {
                "first": block.start,
                "similar": list(map(_similar, rows[here], cosines[here])),
                "step": layer["trace_step"].tolist() if "trace_step" in layer else [],
                "trace": _traces(layer, here),
                "photographs": list(map(dataset_images.records, block))
                if dataset_images.across
                else [],
                "connections": list(map(connected.record, block)),
                "cell": [cell_record(layer, row) for row in block] if layer.has_map else [],
                "words": [label_record(layer, row) for row in block] if layer.label_sources else [],
            },
        )


def _similar(rows: NDArray[np.intp], cosines: NDArray[np.float32]) -> dict[str, Any]:
    """The targets that are similar to one, and the best cosine; None if it was not compared."""
    alike = cosines >= SIMILAR
    compared = np.isfinite(cosines) & (cosines != 0)  # 0: one of both has no image
    best = numbers(cosines[compared].max(keepdims=True), 3)[0] if compared.any() else None
    return {"rows": rows[alike].tolist(), "cosine": numbers(cosines[alike], 3), "best": best}


def _traces(layer: Layer, here: slice) -> list[Any]:
    """Traces (n, S, V, T)."""
    if "trace" not in layer:
        return []
    traces = np.asarray(layer.dataset("trace")[here])
    return numbers(traces if layer.variants else traces[:, :, None], _TRACE_DIGITS)


def blocks(layer: Layer) -> Iterator[range]:
    """Yield the rows of a layer in blocks of as many targets as a sheet has."""
    count = len(layer.channels)
    for start in range(0, count, PER_SHEET):
        yield range(start, min(start + PER_SHEET, count))


# --- other networks: the similarity of each channel to those of other models ---------------------


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


# --- labels ---------------------------------------------------------------------------------------


def label_record(layer: Layer, row: int) -> dict[str, Any]:
    """The labels that are proposed for a target, by each kind of its images."""
    found = layer.proposed_labels(layer.channels[row])
    return {
        source: {
            "labels": [[word, round(score, 3)] for word, score in labels],
            "margin": numbers(layer.dataset(f"words/{source}_margin")[row : row + 1], 3)[0],
        }
        for source, labels in found.items()
        if labels
    }


_MOST_FOUND, _FOUND_PER_WORD = 40_000, 8
"""Channels that the search by words has in all, and for each word."""


def words_data(atlas: Atlas, names: Mapping[str, str] | None) -> dict[str, Any] | None:
    """The channels that are most like each word of the vocabulary; None if there is none.

    Cosines are in thousandths, and positive. Dataset images go before optimized ones.
    """
    labelled = [layer for layer in atlas.values() if layer.label_sources]
    if not labelled:
        return None
    facts = labelled[0].label_facts
    # Those of another encoder or vocabulary do not compare.
    layers = [layer for layer in labelled if layer.label_facts == facts]
    sources = [layer.label_sources[0] for layer in layers]
    pairs = list(zip(layers, sources, strict=True))
    channels = [layer[f"words/{source}_channel"] for layer, source in pairs]
    score = np.concatenate([layer[f"words/{s}_channel_score"] for layer, s in pairs], axis=1)
    channel = np.concatenate(channels, axis=1)
    at = np.repeat(np.arange(len(layers)), [array.shape[1] for array in channels])
    most = max(1, min(_FOUND_PER_WORD, _MOST_FOUND // max(len(channel), 1)))
    best = np.argsort(-np.nan_to_num(score, nan=-9.0), axis=1, kind="stable")[:, :most]
    found = [
        [
            [int(at[i]), int(channel[word, i]), round(1000 * float(score[word, i]))]
            for i in chosen.tolist()
            if channel[word, i] >= 0 and score[word, i] > 0
        ]
        for word, chosen in enumerate(best)
    ]
    called = [layer.called(names) for layer in layers]
    return {
        "encoder": facts["encoder"],
        "words": layers[0].dataset("words/word").asstr()[()].tolist(),
        "layers": [
            [layer.model.name, layer.name, layer.reader_name, source]
            for layer, source in zip(called, sources, strict=True)
        ],
        "found": found,
    }


# --- maps: the cells of an activation atlas and what each holds; targets by similarity ------------


_CELL_DIGITS = 4


def map_data(layer: Layer) -> dict[str, Any] | None:
    """The map of a layer, for its page; None if it has none.

    Returns: `grids`, the coarsest first, each with its `side` and, cell by cell from the top left,
        the row of the layer that the cell is (-1: empty); and for every row of the layer the side
        of its image as a `fraction` of its cell, the `count` of its samples, the class as its
        `label`, and whatever else its name needs.
    """
    if not layer.has_map:
        return None
    row_of = {channel: row for row, channel in enumerate(layer.channels)}
    fraction, grids = [1.0] * len(row_of), []
    for side in sorted(layer.grids):
        targets = layer.cells(side)
        rows = [row_of.get(int(target), -1) for target in targets.ravel()]
        for position, size in fractions(layer, targets).items():
            fraction[rows[position]] = round(size, 3)
        grids.append({"side": side, "rows": rows})
    return {
        "grids": grids,
        "fraction": fraction,
        "count": layer["cell_count"].tolist(),
        "label": [next(iter(layer.cell_classes(channel)), "") for channel in layer.channels],
        "photographs": int(layer.facts["photographs"]),
        "source": without_folders(str(layer.facts["dataset_source"])),
        "view": int(layer.facts.get("view_size", 0)),
        "positions": [int(side) for side in layer.facts.get("map_size", ())],
    }


_PLACES = 10_000
"""Steps of a coordinate: finer than any screen."""


def points_data(layer: Layer, projection: Projection) -> dict[str, Any]:
    """The similarity map of a layer: `x` and `y` of each row, 0 to 10,000; -1: no image."""
    places = lay_out(layer, layer.leads(), projection)
    steps = np.where(np.isfinite(places), np.round(places * _PLACES), -1).astype(int)
    x, y = steps.T.tolist()
    return {"x": x, "y": y, "steps": _PLACES, "projection": projection}


def cell_record(layer: Layer, row: int) -> dict[str, Any]:
    """What a cell of a map holds: its place, classes, strongest channels, and its samples."""
    channels = layer.dataset("cell_channel")[row].tolist()
    values = numbers(np.asarray(layer.dataset("cell_channel_value")[row]), _CELL_DIGITS)
    classes = layer.cell_classes(layer.channels[row]).items()
    return {
        **{name: int(layer.dataset(f"cell_{name}")[row]) for name in ("grid", "row", "column")},
        "classes": [[name, float(f"{value:.{_CELL_DIGITS}g}")] for name, value in classes],
        "channels": list(map(list, zip(channels, values, strict=True))),
        "samples": [
            {"path": path, "file": photograph_name(path, data), **_where(layer, sample)}
            for sample, path, data in _members(layer, row)
        ],
    }


def write_photographs(files: SiteFiles, layer: Layer, row: int) -> None:
    """Write the photographs of a cell that no other has. Raises StorageError."""
    # Decoded for its own sake: what is no JPEG file does not get into the site.
    layer.sample_pictures(layer.channels[row])
    for _, path, data in _members(layer, row):
        files.write_once(photograph_name(path, data), data)


def _members(layer: Layer, row: int) -> Iterator[tuple[int, str, bytes]]:
    """Yield number, path and picture of the samples closest to the mean of a cell."""
    samples, pictures = (layer.dataset(f"cell_{name}")[row] for name in ("member", "jpeg"))
    for sample, picture in zip(samples.tolist(), pictures, strict=True):
        if sample >= 0 and len(picture):
            path = str(layer.dataset("sample_path")[sample], "utf-8", "replace")
            yield sample, path, picture.tobytes()


def _where(layer: Layer, sample: int) -> dict[str, Any]:
    """The position of a sample on the layer's map, and its receptive field in the view."""
    if "sample_view_box" not in layer:  # an atlas of an earlier version
        return {}
    row, column = (int(layer.dataset(f"sample_{name}")[sample]) for name in ("row", "column"))
    return {"at": [row, column], "box": layer.dataset("sample_view_box")[sample].tolist()}


# --- connections: the strongest inputs and outputs of each channel --------------------------------


SHOWN = 8
"""Most inputs of each sign, and most outputs, of a channel's page."""

_LEVELS = "".join(map(chr, (*range(48, 58), *range(65, 91), *range(97, 123), 45)))
"""A sign for each level of a weight, from the most negative to the most positive; 0 is amid."""


class SiteConnections:
    """The weights of a layer's channels, as its pages have them."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.numbers = {name: number for number, name in enumerate(layer.model.layers)}

    def record(self, row: int) -> dict[str, Any]:
        """The inputs and outputs of the channel of a row, strongest first.

        Each is a number of a layer of the model, a channel, the sum of the weights, their share,
        the width of the kernel, and its weights as signs of their levels.
        """
        channel, connections = self.layer.channels[row], self.layer.connections
        incoming = connections.incoming(channel)
        positive = [found for found in incoming if found.weight >= 0][:SHOWN]
        negative = [found for found in incoming if found.weight < 0][:SHOWN]
        outgoing = connections.outgoing(channel)[:SHOWN]
        return {
            "excites": self._records(positive, incoming),
            "inhibits": self._records(negative, incoming),
            "outputs": [record for found in outgoing for record in self._records([found], [found])],
        }

    def _records(self, shown: Sequence[Connection], among: Sequence[Connection]) -> list[Any]:
        largest = max((float(np.abs(found.kernel).max()) for found in among), default=0.0)
        return [
            [
                self.numbers[found.layer],
                found.channel,
                float(f"{found.weight:.3g}"),
                float(f"{found.share:.3g}"),
                found.kernel.shape[1],
                _levels(found, largest),
            ]
            for found in shown
            if found.layer in self.numbers
        ]


def _levels(found: Connection, largest: float) -> str:
    """The weights of a kernel, row by row, as signs of levels relative to the largest."""
    half = len(_LEVELS) // 2
    relative = np.nan_to_num(found.kernel.ravel() / (largest or 1.0)).clip(-1, 1)
    return "".join(_LEVELS[half + level] for level in np.rint(half * relative).astype(int))
