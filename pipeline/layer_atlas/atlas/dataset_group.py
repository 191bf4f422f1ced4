"""What photographs tell, in the atlas: the group `dataset` of a layer, and evidence per image."""

from collections.abc import Iterator
from functools import cache
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.gather import LayerView
from layer_atlas.atlas.scales import add_scale, as_text, label
from layer_atlas.datasets.evidence import (
    agreement,
    best_seed,
    make_reference,
    percentile,
    selectivity,
)
from layer_atlas.datasets.image_files import parted
from layer_atlas.datasets.listing import Listing
from layer_atlas.datasets.statistics import QUANTILES, DatasetStats
from layer_atlas.datasets.statistics_files import DatasetEvidence
from layer_atlas.errors import UserError
from layer_atlas.plan.plan import DatasetPlan
from layer_atlas.store.arrays import PICTURE_FILTERS
from layer_atlas.store.frames import Arrays

_JOB = ("channel", "seed")
_TOLD_UNREADABLE = 100

_EVIDENCE = {
    "agreement": "cosine between the layer's answers to the image and to the channel's photographs",
    "agreement_rank": "how many channels' photographs the image resembles more, plus one",
    "percentile": "where the image's activation lies among those of the photographs",
}
_PER_CHANNEL = {
    "mean": "mean response to the photographs",
    "std": "standard deviation of the responses",
    "min": "smallest response",
    "max": "largest response",
    "responding": "share of photographs with a response above 0 anywhere",
}
_PER_PHOTOGRAPH = {
    "path": "the photographs, within the dataset",
    "index": "their places in the list of the dataset",
    "score": "mean response of the channel",
    "position": "row and column of its largest response, on the layer's map",
    "box": "what that position sees: left, top, right, bottom in pixels of the photograph",
    "view_box": "the same in pixels of the view",
}


# --- evidence per image --------------------------------------------------------------------------


def write_selectivity(group: h5py.Group, view: LayerView) -> None:
    """Add how much more each image excites its channel than the layer's other channels."""
    values = np.full(group["status"].shape, np.nan, np.float32)
    for seed, response in _responses(group):
        values[:, seed] = selectivity(response, view.targets)
    group["selectivity"] = values
    meaning = "the target's mean response against that of the layer's other channels"
    label(group, "selectivity", _JOB, meaning)


def write_evidence(group: h5py.Group, view: LayerView, dataset_stats: DatasetStats) -> None:
    """Add how each image compares with the photographs that excite its channel most."""
    channels, shape = view.targets, group["status"].shape
    values: dict[str, NDArray[Any]] = {
        "agreement": np.full(shape, np.nan, np.float32),
        "agreement_rank": np.zeros(shape, np.int32),
        "percentile": np.full(shape, np.nan, np.float32),
    }
    reference = make_reference(dataset_stats.rows)
    for seed, response in _responses(group):
        made = np.isfinite(response).all(axis=1)
        agrees, rank = agreement(reference, response[made], channels[made])
        values["agreement"][made, seed], values["agreement_rank"][made, seed] = agrees, rank
        activation = group["activation"][:, seed][made]
        values["percentile"][made, seed] = percentile(dataset_stats, activation, channels[made])
    for name, array in values.items():
        group[name] = array
        label(group, name, _JOB, _EVIDENCE[name])
    _write_best_seed(group, values["agreement"])


def _write_best_seed(group: h5py.Group, agrees: NDArray[np.float32]) -> None:
    best, seeds = best_seed(agrees, group["status"][...]), group["seed"][...]
    group["best_seed_index"] = best
    label(group, "best_seed_index", ("channel",), "the live seed that agrees most; -1: none")
    group["best_seed"] = np.where(best >= 0, seeds[best], -1)
    label(group, "best_seed", ("channel",), "its number; see best_seed_index for none")


def _responses(group: h5py.Group) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The responses (C, K) to the images of each seed in turn."""
    for seed in range(group["response"].shape[1]):
        yield seed, group["response"][:, seed]


# --- the dataset ---------------------------------------------------------------------------------


def write_dataset(
    group: h5py.Group, view: LayerView, plan: DatasetPlan, found: DatasetEvidence
) -> None:
    """Add the group `dataset`: statistics of each channel, its photographs, their pictures."""
    into = group.create_group("dataset", track_order=True)
    listing = Listing(view.folder.listing(plan.listing))
    if (listing.digest, listing.count) != (plan.listing, plan.count):
        raise UserError(
            f"{str(listing.path)!r} is not the list of the photographs that were studied; run the "
            "sweep again, and it is written anew."
        )
    _describe(into, plan, found.stats, listing)
    _write_statistics(into, view.targets, found.stats)
    for name in ("top", "bottom"):
        _write_ranking(into, view, name, found, listing)
    _write_pictures(into, view)


def _describe(
    into: h5py.Group, plan: DatasetPlan, dataset_stats: DatasetStats, listing: Listing
) -> None:
    into.attrs["source"] = as_text(plan.source)
    into.attrs["listing_sha256"] = plan.listing
    into.attrs["photographs"] = dataset_stats.count
    into.attrs["kept_in_full"] = len(dataset_stats.rows)
    into.attrs["unreadable"] = len(dataset_stats.unreadable)
    told = dataset_stats.unreadable[:_TOLD_UNREADABLE].tolist()
    paths = np.asarray([_path(listing, index) for index in told], object)
    into.attrs.create("unreadable_paths", paths, dtype=h5py.string_dtype())


def _write_statistics(
    into: h5py.Group, channels: NDArray[np.int64], dataset_stats: DatasetStats
) -> None:
    values = {name: getattr(dataset_stats, name)[channels] for name in _PER_CHANNEL}
    values["responding"] = values["responding"] / max(dataset_stats.count, 1)
    for name, array in values.items():
        into[name] = array.astype(np.float32)
        label(into, name, ("channel",), _PER_CHANNEL[name])
    add_scale(into, "level", QUANTILES)
    into["quantile"] = dataset_stats.quantiles().T[channels].astype(np.float32)
    label(into, "quantile", ("channel", "level"), "quantiles of the responses")


def _write_ranking(
    into: h5py.Group, view: LayerView, name: str, found: DatasetEvidence, listing: Listing
) -> None:
    """The photographs that channels answer to most (`top`) or least (`bottom`)."""
    ranking, boxes = getattr(found.stats, name), getattr(found, name)
    index, channels = ranking.index[view.targets], view.targets
    if not index.size:
        return
    paths = cache(lambda index: _path(listing, index))
    values = {
        "index": index,
        "path": np.asarray([[paths(i) for i in row] for row in index.tolist()], object),
        "score": ranking.score[channels],
        "position": _positions(view, ranking.place[channels]),
        "box": boxes.photograph[channels],
        "view_box": boxes.view[channels],
    }
    add_scale(into, name, np.arange(index.shape[1]))
    inner = {"position": "map_axis", "box": "edge", "view_box": "edge"}
    for part, array in values.items():
        text = part == "path"
        into.create_dataset(
            f"{name}_{part}", data=array, dtype=h5py.string_dtype() if text else None
        )
        scales = ["channel", name, *([inner[part]] if part in inner else [])]
        for scale, length in (("map_axis", 2), ("edge", 4)):
            if scale in scales and scale not in into:
                add_scale(into, scale, np.arange(length))
        label(into, f"{name}_{part}", scales, _PER_PHOTOGRAPH[part])


def _positions(view: LayerView, place: NDArray[np.int32]) -> NDArray[np.int32]:
    """Flat positions as rows and columns (..., 2); of tokens and vectors all are in row 0."""
    info = view.layer.info
    shape = [side for axis, side in enumerate(info.shape, 1) if axis != info.channel_axis]
    width = shape[-1] if shape else 1
    there = np.maximum(place, 0)
    positions = np.stack([there // width, there % width], axis=-1)
    return np.where(place[..., None] >= 0, positions, -1).astype(np.int32)


def _path(listing: Listing, index: int) -> str:
    if index < 0:
        return ""
    return as_text(listing.block(index, index + 1)[0].path)


# --- pictures ------------------------------------------------------------------------------------

_KINDS = {"strongest": "top_jpeg", "weakest": "bottom_jpeg"}


def _write_pictures(into: h5py.Group, view: LayerView) -> None:
    """Add the pictures of the first photographs and their saliency, as far as they are made."""
    for arrays in view.examples():
        rows = view.rows_of(arrays["channel"])
        for kind, name in _KINDS.items():
            _write_jpegs(into, name, len(view.targets), rows, _jpegs(arrays, kind))
        if "saliency" in arrays:
            _write_maps(into, len(view.targets), rows, arrays["saliency"])


def _jpegs(arrays: Arrays, kind: str) -> NDArray[Any]:
    """The files (n, shown) of a kind's photographs; empty ones where there is none."""
    pictures = parted(arrays["picture"], arrays["picture_end"])
    known = dict(zip(arrays["picture_index"].tolist(), pictures, strict=True))
    nothing = np.zeros(0, np.uint8)
    index = arrays[f"{kind}_index"]
    files = np.empty(index.shape, object)
    for place, photograph in np.ndenumerate(index):
        files[place] = known.get(photograph, nothing)
    return files


def _write_jpegs(
    into: h5py.Group, name: str, n_channels: int, rows: NDArray[np.intp], files: NDArray[Any]
) -> None:
    if not files.size:
        return
    if name not in into:
        shown = files.shape[1]
        into.create_dataset(name, (n_channels, shown), dtype=h5py.vlen_dtype(np.uint8))
        add_scale(into, f"{name}_rank", np.arange(shown))
        meaning = "view of the photograph that the network saw, as a JPEG file"
        label(into, name, ["channel", f"{name}_rank"], meaning)
    for (k, rank), file in np.ndenumerate(files):
        # One by one: several files of the same length h5py takes for one array of more axes.
        into[name][rows[k], rank] = file


def _write_maps(
    into: h5py.Group, n_channels: int, rows: NDArray[np.intp], maps: NDArray[np.uint8]
) -> None:
    name = "top_saliency"
    if name not in into:
        shown, *size = maps.shape[1:]
        chunks = (1, 1, *size)
        shape = (n_channels, shown, *size)
        into.create_dataset(name, shape, "u1", chunks=chunks, **PICTURE_FILTERS)
        add_scale(into, f"{name}_rank", np.arange(shown))
        meaning = "which pixels of the view the channel answers to"
        label(into, name, ["channel", f"{name}_rank", "y", "x"], meaning)
    into[name][rows] = maps
