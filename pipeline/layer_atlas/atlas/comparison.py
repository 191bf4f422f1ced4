"""Similarity of channels: how two models of one architecture respond to the same dataset images.

The similarity of two channels is the Pearson correlation of their mean responses over the images
whose responses `dataset.reference` keeps in full. Optimized images differ between models and are no
such evidence. Everything is read from the stores: no network runs.
"""

import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from itertools import combinations
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.dataset_group import add_dataset, add_scale, as_text
from layer_atlas.atlas.gather import LayerView
from layer_atlas.datasets.evidence import STRONGEST, standardized
from layer_atlas.datasets.statistics import DatasetStats
from layer_atlas.datasets.statistics_files import read_evidence
from layer_atlas.datasets.tasks import LayerStatistics, statistics_of
from layer_atlas.errors import UserError, unknown
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.plan.plan import DatasetPlan, ModelPlan, Plan
from layer_atlas.store.files import CorruptFile
from layer_atlas.store.folder import OutputFolder, safe_name
from layer_atlas.store.manifest import plan_of, read_manifest

logger = logging.getLogger(__name__)

SCHEMA = "layer-atlas-comparison/1"
_AT_ONCE = 1024
"""Images in double precision at a time, whatever the number that is stored."""


@dataclass(frozen=True)
class Similarity:
    """Similarity of the K channels of a layer in one model to those in another.

    A correlation is NaN where either channel responds alike to all images.
    """

    images: int
    """Number of dataset images that both models saw."""
    matrix: NDArray[np.float32]
    """(K, K) correlation of each channel of the one model with each of the other."""
    match: NDArray[np.int64]
    """(K,) the channel of the other model that is matched to each, each only once, so that the sum
    of correlations is largest (Kuhn 1955, the Hungarian method); -1 without a correlation."""

    @property
    def by_index(self) -> NDArray[np.float32]:
        """(K,) correlation of each channel with that of the same index."""
        return np.diagonal(self.matrix).copy()

    @property
    def match_similarity(self) -> NDArray[np.float32]:
        """(K,) correlation of each channel with its match."""
        matched = self.matrix[np.arange(len(self.match)), self.match]
        return np.where(self.match >= 0, matched, np.nan).astype(np.float32)

    @property
    def reversed(self) -> "Similarity":
        """The same, seen from the other model: its channels are matched to those of the one."""
        matched = np.flatnonzero(self.match >= 0)
        match = np.full_like(self.match, -1)
        match[self.match[matched]] = matched
        return Similarity(self.images, self.matrix.T, match)


def similarity_of(one: DatasetStats, other: DatasetStats) -> Similarity:
    """Compare the channels of two models by the images of which both stored all responses.

    Raises:
        UserError: they have too few images in common, or scipy is not installed.
    """
    rows = _common_rows(one, other)
    matrix = _correlations(*rows)
    return Similarity(len(rows[0]), matrix.astype(np.float32), _best_match(matrix))


def similarity_by_index(one: DatasetStats, other: DatasetStats) -> NDArray[np.float32]:
    """Compute `Similarity.by_index` alone, without the products of all pairs."""
    try:
        left, right = _common_rows(one, other)
    except UserError:
        return np.full(one.rows.shape[1], np.nan, np.float32)
    total = np.zeros(left.shape[1])
    for a, b in _standardised_blocks(left, right):
        total += (a * b).sum(axis=0)
    return _finished(total, _varies(left) & _varies(right), len(left))


def _common_rows(
    one: DatasetStats, other: DatasetStats
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Responses (R, K) of both models to the images that both saw, in the same order."""
    if np.array_equal(one.row_index, other.row_index):
        left, right = one.rows, other.rows
    else:
        _, mine, theirs = np.intersect1d(one.row_index, other.row_index, return_indices=True)
        left, right = one.rows[mine], other.rows[theirs]
    if len(left) < STRONGEST:
        raise UserError(
            f"the models have the responses to {len(left)} dataset images in common, and a "
            f"similarity needs {STRONGEST}: run both with the same, larger dataset."
        )
    return left, right


def _correlations(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float64]:
    """Correlations (K, L) of responses (R, K) and (R, L), summed block by block of images."""
    total = np.zeros((left.shape[1], right.shape[1]))
    for a, b in _standardised_blocks(left, right):
        total += a.T @ b
    return _finished(total, _varies(left)[:, None] & _varies(right), len(left)).astype(np.float64)


def _standardised_blocks(
    *responses: NDArray[np.float32],
) -> Iterator[tuple[NDArray[np.float64], ...]]:
    """Yield blocks of images of each array, in standard deviations from the mean of all."""
    moments = [_moments(rows) for rows in responses]
    for start in range(0, len(responses[0]), _AT_ONCE):
        block = slice(start, start + _AT_ONCE)
        yield tuple(standardized(r[block], *m) for r, m in zip(responses, moments, strict=True))


def _moments(rows: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    # Sums of equal numbers are exact in twice their precision, so their deviation is exactly 0.
    return rows.mean(axis=0, dtype=np.float64), rows.std(axis=0, dtype=np.float64)


def _varies(rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(rows.max(axis=0) > rows.min(axis=0))


def _finished(
    total: NDArray[np.float64], known: NDArray[np.bool_], count: int
) -> NDArray[np.float32]:
    return np.where(known, (total / count).clip(-1, 1), np.nan).astype(np.float32)


def _best_match(matrix: NDArray[np.float64]) -> NDArray[np.int64]:
    # -2 is below every correlation: channels without one are left to each other.
    rows, columns = _assignment()(np.nan_to_num(matrix, nan=-2.0), maximize=True)
    match = np.full(len(matrix), -1, np.int64)
    match[rows] = np.where(np.isfinite(matrix[rows, columns]), columns, -1)
    return match


def _assignment() -> Callable[..., tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """scipy's solver of the assignment problem. Raises UserError if scipy is not installed."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise UserError(
            f"matching channels needs `pip install 'layer-atlas[figures]'` ({error})."
        ) from None
    solver: Callable[..., tuple[NDArray[np.intp], NDArray[np.intp]]] = linear_sum_assignment
    return solver


# --- what is compared ----------------------------------------------------------------------------


@dataclass(frozen=True)
class ComparedLayer:
    """A layer of a model of a run."""

    folder: OutputFolder
    plan: Plan
    model: ModelPlan
    info: LayerInfo

    @property
    def statistics(self) -> LayerStatistics:
        """Its dataset statistics; the run must have a dataset."""
        dataset = self.plan.dataset_plan
        assert dataset is not None
        return statistics_of(self.model, self.info.name, dataset)

    def stats(self) -> DatasetStats:
        """Read its responses to dataset images. Raises UserError if they are not finished."""
        try:
            return read_evidence(self.folder, self.statistics).stats
        except (FileNotFoundError, CorruptFile) as error:
            raise UserError(
                f"the dataset statistics of {self.model.label}/{self.info.name} in "
                f"{str(self.folder.root)!r} are not finished: start its run again, then compare."
            ) from error


Pairs = dict[str, tuple[ComparedLayer, ComparedLayer]]
"""The two models' layers, by the name under which they are compared."""


def compare_layers(pairs: Pairs) -> Iterator[tuple[str, Similarity]]:
    """Yield the similarity of each pair of layers; two layers' responses are in memory at a time.

    Raises:
        UserError: dataset statistics are not finished, or scipy is not installed.
    """
    for name, (one, other) in pairs.items():
        yield name, similarity_of(one.stats(), other.stats())


def paired_layers(
    one: OutputFolder,
    other: OutputFolder,
    models: tuple[str, str] | None = None,
    layers: Sequence[str] | None = None,
) -> Pairs:
    """Pair the layers of two runs, or of two models, and check that they can be compared.

    Args:
        one: output folder of a run.
        other: that of another, or the same one.
        models: labels of the models to compare; by default models of the same label, or whatever
            their labels where each run has one model.
        layers: globs over layer names; default: all.
    Raises:
        UserError: no layer in common, other widths, no dataset, or other images.
    """
    plans = [plan_of(read_manifest(folder)) for folder in (one, other)]
    _check_datasets([(f"{str(f.root)!r}", p) for f, p in zip((one, other), plans, strict=True)])
    alone = models is not None or all(len(plan.models) == 1 for plan in plans)
    known = [
        _layers(folder, plan, models[side] if models else None, alone)
        for side, (folder, plan) in enumerate(zip((one, other), plans, strict=True))
    ]
    pairs = {name: (layer, known[1][name]) for name, layer in known[0].items() if name in known[1]}
    if not pairs:
        raise UserError(
            "the models have no layer in common, and only models of one architecture are compared: "
            f"one has {', '.join(list(known[0])[:5])}; the other {', '.join(list(known[1])[:5])}."
        )
    pairs = _chosen(pairs, layers)
    _check_widths(pairs)
    return pairs


def _layers(
    folder: OutputFolder, plan: Plan, label: str | None, alone: bool
) -> dict[str, ComparedLayer]:
    labels = [model.label for model in plan.models]
    if label is not None and label not in labels:
        raise unknown(f"model of {str(folder.root)!r}", label, labels)
    return {
        layer.info.name if alone else f"{model.label}/{layer.info.name}": ComparedLayer(
            folder, plan, model, layer.info
        )
        for model in plan.models
        if label in (None, model.label)
        for layer in model.layers
    }


def _chosen(pairs: Pairs, layers: Sequence[str] | None) -> Pairs:
    if layers is None:
        return pairs

    def fits(layer: ComparedLayer, pattern: str) -> bool:
        name, _, kind = pattern.partition("@")
        kinds = layer.info.kinds
        return fnmatchcase(layer.info.name, name) and any(
            fnmatchcase(known, kind or "*") for known in kinds
        )

    for pattern in layers:
        if not any(fits(one, pattern) for one, _ in pairs.values()):
            raise unknown("layer that both have", pattern, pairs)
    return {
        name: pair for name, pair in pairs.items() if any(fits(pair[0], glob) for glob in layers)
    }


def _check_datasets(runs: Sequence[tuple[str, Plan]]) -> None:
    """Check that all runs saw the same images. Raises UserError."""
    for title, plan in runs:
        if plan.dataset_plan is None:
            raise UserError(
                f"{title} has no responses to dataset images, by which models are compared: run it "
                "again with dataset=folder dataset.path=..., which makes no image anew."
            )
    datasets = [(title, plan.dataset_plan) for title, plan in runs if plan.dataset_plan]
    if len({dataset.listing for _, dataset in datasets}) > 1:
        seen = " and ".join(f"{title} {_images(dataset)}" for title, dataset in datasets)
        raise UserError(
            f"models are compared by the same images, and {seen}: run both again with the same "
            "dataset=..., which makes no image anew."
        )


def _images(dataset: DatasetPlan) -> str:
    return f"saw {dataset.count} images of {dataset.source!r} (list {dataset.listing[:8]})"


def _check_widths(pairs: Pairs) -> None:
    """Check that layers of one name have as many channels in both models. Raises UserError."""
    for name, (one, other) in pairs.items():
        if one.info.n_channels != other.info.n_channels:
            raise UserError(
                f"{name} has {one.info.n_channels} channels in {one.model.label!r} and "
                f"{other.info.n_channels} in {other.model.label!r}, and only models of one "
                "architecture are compared: choose layers that are alike by layers=[...]."
            )


# --- the models of one atlas ---------------------------------------------------------------------

_AT_ONCE_BYTES = 2**29
"""Bytes of responses in memory while all models of an atlas are compared with each other."""


_MOST_MATCHED = 2**26
"""Pairs of channels, over all pairs of models of a layer, of which best matches are computed: those
of six models of 2048 channels, or of 23 models of 512. Each takes a product over all images."""


def write_similarities(file: h5py.File, views: Sequence[LayerView]) -> None:
    """Add to the layers of an atlas how alike channels are to those of its other models.

    Layers of one name, type and width are compared: by index, and by best match as far as
    `_MOST_MATCHED` allows and scipy is installed.
    """
    for same in _comparable(views):
        width = same[0].layer.info.n_channels
        similarity, matches = _similarity_of_all(same, width), _matches_of_all(same, width)
        for number, view in enumerate(same):
            others = [other for other in range(len(same)) if other != number]
            group = file[view.group]
            labels = [as_text(same[other].model.label) for other in others]
            add_scale(group, "other_model", labels)
            for name, values, meaning in (
                ("similarity", similarity, f"{_MEANING} with the channel of other models"),
                *matches,
            ):
                shown = values[number][others][:, view.targets].T
                add_dataset(group, name, shown, ("channel", "other_model"), meaning)


_MEANING = "correlation of responses to dataset images"


def _comparable(views: Sequence[LayerView]) -> Iterator[list[LayerView]]:
    """Yield the layers of one name, type and width in several models, all with statistics."""
    layers: dict[tuple[str, str, int], list[LayerView]] = {}
    for view in views:
        info = view.layer.info
        if view.model.recipe.objective.of_channels:
            layers.setdefault((info.name, info.module_type, info.n_channels), []).append(view)
    for same in layers.values():
        if len(same) > 1 and all(view.statistics is not None for view in same):
            yield same


def has_similarities(views: Sequence[LayerView]) -> bool:
    """Whether an atlas of these layers compares channels with those of other models."""
    return any(True for _ in _comparable(views))


def _matches_of_all(
    views: Sequence[LayerView], width: int
) -> tuple[tuple[str, NDArray[Any], str], ...]:
    """Best matches (M, M, K) of a layer in M models, and the similarities to them.

    Returns: name, values and meaning of each; nothing where they are not computed.
    """
    layer = views[0].layer.info.name
    pairs = len(views) * (len(views) - 1) // 2
    if pairs * width**2 > _MOST_MATCHED:
        what = f"{width} channels in {len(views)} models"
        logger.info("%s: no best matches of %s, which would take long", layer, what)
        return ()
    try:
        _assignment()
    except UserError as error:
        logger.info("%s: no best matches between models: %s", layer, error)
        return ()
    match = np.full((len(views), len(views), width), -1, np.int64)
    similarity = np.full(match.shape, np.nan, np.float32)
    for i, j, found in _compared_pairs(views):
        for one, other, side in ((i, j, found), (j, i, found.reversed)):
            match[one, other], similarity[one, other] = side.match, side.match_similarity
    return (
        ("match", match, "channel of the other model that is matched to it; -1: none"),
        ("match_similarity", similarity, f"{_MEANING} with that channel"),
    )


def _compared_pairs(views: Sequence[LayerView]) -> Iterator[tuple[int, int, Similarity]]:
    """Yield the similarity of all pairs; two models' responses are in memory at a time."""
    for i, view in enumerate(views):
        one = view.evidence()
        for j, other_view in enumerate(views[i + 1 :], i + 1):
            other = other_view.evidence()
            if one is not None and other is not None:
                with suppress(UserError):  # too few images in common
                    yield i, j, similarity_of(one.stats, other.stats)


def _similarity_of_all(views: Sequence[LayerView], width: int) -> NDArray[np.float32]:
    """Similarity (M, M, K) by index of a layer in M models; NaN where statistics are missing."""
    similarity = np.full((len(views), len(views), width), np.nan, np.float32)
    dataset = views[0].plan.dataset_plan
    rows = min(dataset.count, dataset.reference) if dataset else 0
    # Files are read as often as there are blocks: usually once.
    block = max(1, _AT_ONCE_BYTES // max(1, 4 * len(views) * rows))
    for start in range(0, width, block):
        channels = slice(start, start + block)
        stats = [_stats_of(view, channels) for view in views]
        for (i, one), (j, other) in combinations(enumerate(stats), 2):
            if one is not None and other is not None:
                found = similarity_by_index(one, other)
                similarity[i, j, channels] = similarity[j, i, channels] = found
    return similarity


def _stats_of(view: LayerView, channels: slice) -> DatasetStats | None:
    """The dataset statistics of a layer, with the stored responses of some channels alone."""
    evidence = view.evidence()
    if evidence is None:
        return None
    return replace(evidence.stats, rows=evidence.stats.rows[:, channels].copy())


# --- the file ------------------------------------------------------------------------------------


def encode_comparison(
    titles: tuple[str, str],
    pairs: Pairs,
    found: Mapping[str, Similarity],
    with_matrix: bool = False,
) -> bytes:
    """Encode similarities as an HDF5 file of schema "layer-atlas-comparison/1".

    Args:
        titles: names of the two sides.
        pairs: what was compared.
        found: similarity by the names of pairs.
        with_matrix: whether to keep the correlations of all pairs of channels.
    Returns: the file, with a group per layer and named dimension scales.
    """
    buffer = io.BytesIO()
    # In memory: on a full disk the HDF5 library may crash.
    with h5py.File(buffer, "w", track_order=True) as file:
        file.attrs.update({"schema": SCHEMA, "one": titles[0], "other": titles[1]})
        one, other = next(iter(pairs.values()))
        # Relative, so that both folders can be moved together.
        file.attrs["other_folder"] = os.path.relpath(other.folder.root, one.folder.root)
        for name, similarity in found.items():
            one, other = pairs[name]
            group = file.create_group("/".join(map(safe_name, name.split("/", 1))))
            group.attrs.update({"layer": one.info.name, "images": similarity.images})
            group.attrs.update({"one": one.model.label, "other": other.model.label})
            _write_similarity(group, similarity, with_matrix)
    return buffer.getvalue()


def _write_similarity(group: h5py.Group, similarity: Similarity, with_matrix: bool) -> None:
    add_scale(group, "channel", np.arange(len(similarity.match)))
    values: dict[str, tuple[NDArray[Any], str]] = {
        "similarity": (
            similarity.by_index,
            "correlation of responses to dataset images with the channel of the same index",
        ),
        "match": (similarity.match, "channel of the other model that is matched to it; -1: none"),
        "match_similarity": (similarity.match_similarity, "correlation with that channel"),
    }
    for name, (array, meaning) in values.items():
        add_dataset(group, name, array, ("channel",), meaning)
    if with_matrix:
        add_scale(group, "other_channel", np.arange(similarity.matrix.shape[1]))
        meaning = "correlation of each channel with each of the other model"
        scales = ("channel", "other_channel")
        add_dataset(group, "matrix", similarity.matrix, scales, meaning)
