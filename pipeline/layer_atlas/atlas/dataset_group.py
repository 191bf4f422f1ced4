"""Labelled datasets of the atlas, and its group `dataset`: dataset images, evidence for each image.

Every axis has a dimension scale of its name, so that netCDF readers (xarray with h5netcdf) give
labelled arrays. Further names along an axis are listed in the group's attribute `coordinates`, as
the CF conventions (1.11, section 5) have it for auxiliary coordinate variables; netCDF readers
offer them beside the axis.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike, NDArray

from layer_atlas.atlas.gather import LayerView
from layer_atlas.config.recipe import recorded_steps, snapshot_steps
from layer_atlas.config.records import canonical_json
from layer_atlas.datasets.evidence import (
    STRONGEST,
    FeatureSpace,
    Queries,
    agreement,
    best_seed,
    choose,
    choose_shuffled,
    distinctive,
    draw_queries,
    feature_space,
    make_reference,
    percentile,
    selectivity,
    strongest_references,
)
from layer_atlas.datasets.image_files import parted
from layer_atlas.datasets.sources import Listing
from layer_atlas.datasets.statistics import QUANTILES, DatasetStats
from layer_atlas.datasets.statistics_files import DatasetEvidence
from layer_atlas.errors import UserError
from layer_atlas.plan.labels import judge_name
from layer_atlas.plan.plan import DatasetPlan, LayerPlan
from layer_atlas.store.connections import Connections
from layer_atlas.store.files import Arrays

_JOB = ("channel", "seed")
_LISTED_UNREADABLE = 100

_EVIDENCE = {
    "agreement": "cosine of the layer's responses to the image and to the channel's dataset images",
    "agreement_rank": "number of channels whose dataset images the image resembles more, plus one",
    "percentile": "percentile of the image's activation among those of the dataset images",
}
_PER_CHANNEL = {
    "mean": "mean response to the dataset images",
    "std": "standard deviation of the responses",
    "min": "smallest response",
    "max": "largest response",
    "responding": "fraction of dataset images with a response above 0 anywhere",
}
_PER_DATASET_IMAGE = {
    "path": "path of the dataset image, within the dataset",
    "index": "its index in the list of the dataset",
    "score": "mean response of the channel to it",
    "position": "row and column of its largest response, on the layer's map",
    "box": "its receptive field: left, top, right, bottom in pixels of the dataset image",
    "view_box": "the same in pixels of the view that the network saw",
}


# --- weights between channels ---------------------------------------------------------------------

_CONNECTIONS = {
    "source": ("layer that the incoming channel is of, as an index in source_layer; -1: none", ()),
    "incoming_channel": ("its number in that layer; -1: none", ()),
    "weight": ("sum of the weights of its kernel", ()),
    "share": ("L1 norm of its kernel, as a fraction of that of all incoming channels", ()),
    "kernel": ("weight at each offset from the central position", ("kernel_y", "kernel_x")),
}


def write_connections(group: h5py.Group, found: Connections) -> None:
    """Add the group `connections`: the strongest incoming channels of each channel.

    The first half of `incoming` are those of positive weights, the second half the others, the
    strongest first. Layers without weights and what is not linear about them are in the attribute
    `refused`.
    """
    if not found.sources and not found.refused:
        return
    inner = group.create_group("connections")
    inner.attrs["refused"] = as_text(canonical_json(found.refused))
    inner.attrs["stride"] = found.stride
    if not found.sources:
        return
    add_scale(inner, "source_layer", [as_text(name) for name in found.sources])
    add_scale(inner, "incoming", np.arange(found.channel.shape[1]))
    for axis, side in zip(("kernel_y", "kernel_x"), found.kernel.shape[2:], strict=True):
        # Offsets in positions of the earlier layer.
        add_scale(inner, axis, (np.arange(side) - side // 2) * found.stride)
    for name, array in connection_arrays(found).items():
        meaning, axes = _CONNECTIONS[name]
        add_dataset(inner, name, array, ("channel", "incoming", *axes), meaning)


def connection_arrays(found: Connections) -> Arrays:
    """The arrays of the group `connections`, by their names there."""
    # `channel` itself is the name of the axis of the channels that they lead to.
    renamed = {"channel": "incoming_channel"}
    return {renamed.get(name, name): array for name, array in found.arrays.items()}


# --- evidence per image --------------------------------------------------------------------------


def write_selectivity(group: h5py.Group, view: LayerView) -> None:
    """Add how much more each image excites its target than the layer's other channels."""
    values = np.full(group["status"].shape, np.nan, np.float32)
    for seed, response in _responses(group):
        values[:, seed] = selectivity(response, view.targets)
    meaning = "the target's mean response against that of the layer's other channels"
    add_dataset(group, "selectivity", values, _JOB, meaning)


def write_evidence(group: h5py.Group, view: LayerView, dataset_stats: DatasetStats) -> None:
    """Add how each image compares with the dataset images that excite its channel most."""
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
        meaning = _EVIDENCE[name] + _made_from(view, name)
        add_dataset(group, name, array, _JOB, meaning)
    _write_best_seed(group, values["agreement"])


def _made_from(view: LayerView, name: str) -> str:
    """Say that images are compared with dataset images that they were made from, if so."""
    used = view.model.recipe.dataset_images_used
    return f"; images were made from the {used} strongest" if used and name != "percentile" else ""


def _write_best_seed(group: h5py.Group, agrees: NDArray[np.float32]) -> None:
    best, seeds = best_seed(agrees, group["status"][...]), group["seed"][...]
    meaning = "index of the live seed that agrees most; -1: none"
    add_dataset(group, "best_seed_index", best, ("channel",), meaning)
    number = np.where(best >= 0, seeds[best], -1)
    add_dataset(
        group, "best_seed", number, ("channel",), "its number; see best_seed_index for none"
    )


def write_recognisability(group: h5py.Group, view: LayerView, stats: DatasetStats) -> None:
    """Add whether the judge sees in each image what excites its target.

    Beside it stand the same for dataset images, and as the attribute `shuffled` the control: the
    images of other targets.

    Args:
        group: the layer, with its group `dataset`.
        view: the layer.
        stats: its dataset statistics.
    """
    evidence = view.judge_evidence()
    if evidence is None:
        return
    pairs = np.intersect1d(stats.row_index, evidence.stats.row_index, return_indices=True)
    index, own, seen = pairs
    if len(index) < STRONGEST:
        return
    space = feature_space(evidence.stats.rows[seen])
    recognition = _Recognition(view, stats, index, stats.rows[own], space)
    values, shuffled = recognition.of_images(group["status"].shape)
    meaning = "fraction of pairs of dataset images of which the judge picks the one that excites"
    add_dataset(group, "recognisability", values, _JOB, meaning)
    group["recognisability"].attrs["judge"] = as_text(judge_name(view.plan))
    group["recognisability"].attrs["shuffled"] = shuffled
    meaning = f"the same by {STRONGEST} dataset images of the channel that are in no pair"
    of_dataset = recognition.of_dataset_images()
    add_dataset(group["dataset"], "recognisability", of_dataset, ("channel",), meaning)


_AT_ONCE = 64
"""Images in memory at a time, and those that are shuffled among each other."""


@dataclass(frozen=True)
class _Recognition:
    """The pairs of every target, and what the judge makes of images and of dataset images."""

    view: LayerView
    stats: DatasetStats
    index: NDArray[np.int64]
    """(N,) indices, in the list of the dataset, of the images that both networks saw."""
    responses: NDArray[np.float32]
    """(N, K) responses of the layer to them."""
    space: FeatureSpace
    """Their features in the judge."""

    def of_images(self, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], float]:
        """Return the accuracy (C, S) by each image, and the mean one by those of other targets."""
        values, shuffled = np.full(shape, np.nan, np.float32), list[NDArray[np.float64]]()
        # Twice through the files: features of all images of a layer may be too much for memory.
        totals = [np.zeros(self.space.mean.shape) for _ in range(shape[1])]
        counts = [0] * shape[1]
        for seed, _, hints in self._hints():
            totals[seed] += hints.sum(axis=0)
            counts[seed] += len(hints)
        for seed, rows, hints in self._hints():
            hints = distinctive(hints, totals[seed], counts[seed])
            similar, queries = hints @ self.space.dataset_images.T, self._queries(rows)
            values[rows, seed] = choose(similar, queries).accuracy
            shuffled.append(choose_shuffled(similar, queries).accuracy)
        known = np.concatenate([*shuffled, np.zeros(0)])
        known = known[np.isfinite(known)]
        return values, float(known.mean()) if len(known) else np.nan

    def of_dataset_images(self) -> NDArray[np.float32]:
        """Return the accuracy (C,) by the strongest dataset images that are in no pair."""
        rows = np.arange(len(self.view.targets))
        blocks = [rows[start : start + _AT_ONCE] for start in range(0, len(rows), _AT_ONCE)]
        total, values = np.zeros(self.space.mean.shape), np.full(len(rows), np.nan, np.float32)
        for block in blocks:
            total += self._references(block).sum(axis=0)
        for block in blocks:
            hints = distinctive(self._references(block), total, len(rows))
            similar = hints @ self.space.dataset_images.T
            values[block] = choose(similar, self._queries(block)).accuracy
        return values

    def _hints(self) -> Iterator[tuple[int, NDArray[np.intp], NDArray[np.float64]]]:
        """Yield seed's index, rows and unit features of the judged images, a few at a time."""
        for seed, rows, features in self.view.judged_features():
            finite = np.isfinite(features).all(axis=1)
            rows, units = rows[finite], self.space.unit(features[finite])
            for start in range(0, len(rows), _AT_ONCE):
                block = slice(start, start + _AT_ONCE)
                yield seed, rows[block], units[block]

    def _references(self, rows: NDArray[np.intp]) -> NDArray[np.float64]:
        best = strongest_references(self.responses[:, self.view.targets[rows]])
        mean: NDArray[np.float64] = self.space.dataset_images[best].mean(axis=1)
        return mean

    def _queries(self, rows: NDArray[np.intp]) -> Queries:
        targets = self.view.targets[rows]
        # An image must not be tested on the dataset images that it was made from.
        made_from = self.stats.top.index[targets, : self.view.model.recipe.dataset_images_used]
        used = (self.index[None, :, None] == made_from[:, None, :]).any(axis=2)
        return draw_queries(self.responses[:, targets], used)


def _responses(group: h5py.Group) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Yield each seed's index with the responses (C, K) to its images."""
    for seed in range(group["response"].shape[1]):
        yield seed, group["response"][:, seed]


# --- the dataset ---------------------------------------------------------------------------------


def write_dataset(
    group: h5py.Group, view: LayerView, plan: DatasetPlan, evidence: DatasetEvidence
) -> None:
    """Add the group `dataset`: statistics of each channel, its dataset images, their pixels.

    Raises:
        UserError: the list of the dataset changed.
    """
    dataset = group.create_group("dataset", track_order=True)
    listing = Listing(view.folder.listing(plan.listing))
    if (listing.digest, listing.count) != (plan.listing, plan.count):
        raise UserError(
            f"{str(listing.path)!r} is not the list of the dataset images that were measured; run "
            "the sweep again to write it anew."
        )
    _describe(dataset, plan, evidence.stats, listing)
    _write_statistics(dataset, view.targets, evidence.stats)
    for end in ("top", "bottom"):
        _write_ranking(dataset, view, end, evidence, listing)
    _write_examples(dataset, view)


def _describe(
    dataset: h5py.Group, plan: DatasetPlan, stats: DatasetStats, listing: Listing
) -> None:
    dataset.attrs["source"] = as_text(plan.source)
    dataset.attrs["listing_sha256"] = plan.listing
    dataset.attrs["photographs"] = stats.count
    dataset.attrs["kept_in_full"] = len(stats.rows)
    dataset.attrs["unreadable"] = len(stats.unreadable)
    unreadable = stats.unreadable[:_LISTED_UNREADABLE].tolist()
    paths = np.asarray([_path(listing, index) for index in unreadable], object)
    dataset.attrs.create("unreadable_paths", paths, dtype=TEXT)


def _write_statistics(
    dataset: h5py.Group, channels: NDArray[np.int64], stats: DatasetStats
) -> None:
    values = {name: getattr(stats, name)[channels] for name in _PER_CHANNEL}
    values["responding"] = values["responding"] / max(stats.count, 1)
    for name, array in values.items():
        add_dataset(dataset, name, array.astype(np.float32), ("channel",), _PER_CHANNEL[name])
    add_scale(dataset, "level", QUANTILES)
    quantiles = stats.quantiles().T[channels].astype(np.float32)
    meaning = "quantiles of the responses"
    add_dataset(dataset, "quantile", quantiles, ("channel", "level"), meaning)


def _write_ranking(
    dataset: h5py.Group, view: LayerView, end: str, evidence: DatasetEvidence, listing: Listing
) -> None:
    """Add the dataset images that channels respond to most (`top`) or least (`bottom`)."""
    ranking, boxes = getattr(evidence.stats, end), getattr(evidence, end)
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
    add_scale(dataset, end, np.arange(index.shape[1]))
    for scale, length in (("map_axis", 2), ("edge", 4)):
        if scale not in dataset:
            add_scale(dataset, scale, np.arange(length))
    inner = {"position": ["map_axis"], "box": ["edge"], "view_box": ["edge"]}
    for name, array in values.items():
        scales, meaning = ["channel", end, *inner.get(name, [])], _PER_DATASET_IMAGE[name]
        dtype = TEXT if name == "path" else None
        add_dataset(dataset, f"{end}_{name}", array, scales, meaning, dtype=dtype)


def _positions(view: LayerView, place: NDArray[np.int32]) -> NDArray[np.int32]:
    """Turn flat positions into rows and columns (..., 2); tokens and vectors are all in row 0."""
    info = view.layer.info
    shape = [side for axis, side in enumerate(info.shape, 1) if axis != info.channel_axis]
    width = shape[-1] if shape else 1
    flat = np.maximum(place, 0)
    positions = np.stack([flat // width, flat % width], axis=-1)
    return np.where(place[..., None] >= 0, positions, -1).astype(np.int32)


def _path(listing: Listing, index: int) -> str:
    if index < 0:
        return ""
    return as_text(listing.block(index, index + 1)[0].path)


# --- examples ------------------------------------------------------------------------------------

_KINDS = {"strongest": "top_jpeg", "weakest": "bottom_jpeg"}
_MAPS = {
    "saliency": "top_saliency",
    "activation": "top_activation",
    "activation_bounds": "top_activation_bounds",
}
_OF_MAPS = {
    "top_saliency": (("y", "x"), "saliency: which pixels of the view drive the channel's response"),
    "top_activation": (
        ("map_y", "map_x"),
        "activation map of the channel on the view, 0 to 255 between its bounds",
    ),
    "top_activation_bounds": (("bound",), "activations of 0 and 255 in the activation map"),
}
"""Axes after channel and rank, and meaning."""


def _write_examples(dataset: h5py.Group, view: LayerView) -> None:
    """Add the pixels of the first dataset images and their saliency, as far as they are made."""
    for arrays in view.examples():
        rows = view.rows_of(arrays["target"])
        for kind, name in _KINDS.items():
            _write_jpegs(dataset, name, len(view.targets), rows, _jpegs(arrays, kind))
        for part, name in _MAPS.items():
            if part in arrays:
                _write_maps(dataset, name, len(view.targets), rows, arrays[part])


def _jpegs(arrays: Arrays, kind: str) -> NDArray[Any]:
    """The JPEG files (n, shown) of a kind's dataset images; empty files where there is none."""
    pictures = parted(arrays["picture"], arrays["picture_end"])
    file_of = dict(zip(arrays["picture_index"].tolist(), pictures, strict=True))
    nothing = np.zeros(0, np.uint8)
    indices = arrays[f"{kind}_index"]
    files = np.empty(indices.shape, object)
    for at, index in np.ndenumerate(indices):
        files[at] = file_of.get(index, nothing)
    return files


def _write_jpegs(
    dataset: h5py.Group, name: str, n_channels: int, rows: NDArray[np.intp], files: NDArray[Any]
) -> None:
    if not files.size:
        return
    if name not in dataset:
        shape = n_channels, files.shape[1]
        dataset.create_dataset(name, shape, dtype=h5py.vlen_dtype(np.uint8))
        add_scale(dataset, f"{name}_rank", np.arange(shape[1]))
        meaning = "view of the dataset image that the network saw, as a JPEG file"
        label(dataset, name, ["channel", f"{name}_rank"], meaning)
    for (k, rank), file in np.ndenumerate(files):
        # One by one: h5py takes several files of one length for an array of more axes.
        dataset[name][rows[k], rank] = file


def _write_maps(
    dataset: h5py.Group, name: str, n_channels: int, rows: NDArray[np.intp], maps: NDArray[Any]
) -> None:
    if name not in dataset:
        axes, meaning = _OF_MAPS[name]
        shape, chunks = (n_channels, *maps.shape[1:]), (1, *maps.shape[1:])
        # Maps are mostly dark: unlike images they compress well.
        how = {"chunks": chunks, "compression": "gzip", "fletcher32": True}
        # NaN: blocks of targets whose examples are of an earlier version have no maps.
        how["fillvalue"] = np.nan if maps.dtype.kind == "f" else 0
        dataset.create_dataset(name, shape, maps.dtype, **how)
        scales = {f"{name}_rank": shape[1], **dict(zip(axes, shape[2:], strict=True))}
        for scale, length in scales.items():
            if scale not in dataset and scale not in dataset.parent:
                add_scale(dataset, scale, np.arange(length))
        label(dataset, name, ["channel", *scales], meaning)
    dataset[name][rows] = maps


TEXT = h5py.string_dtype()


def as_text(text: str) -> str:
    """Replace what HDF5 cannot store by `?`: file names may be no valid Unicode."""
    return text.encode(errors="replace").decode().replace("\0", "?")


def add_scale(group: h5py.Group, name: str, values: ArrayLike) -> None:
    """Add a dimension scale of numbers or texts to a group."""
    values = np.asarray(values)
    if values.dtype.kind == "U":
        group.create_dataset(name, data=values.astype(object), dtype=TEXT)
    else:
        group[name] = values
    group[name].make_scale(name)


def add_dataset(
    group: h5py.Group, name: str, data: Any, scales: Sequence[str], meaning: str, **how: Any
) -> None:
    """Add a dataset with its description and scales; `how` goes to h5py."""
    group.create_dataset(name, data=data, **how)
    label(group, name, scales, meaning)


def label(group: h5py.Group, name: str, scales: Sequence[str], meaning: str) -> None:
    """Describe a dataset, and attach scales of its group or of the parent group."""
    dataset = group[name]
    dataset.attrs["description"] = meaning
    for axis, scale in enumerate(scales):
        dataset.dims[axis].label = scale
        dataset.dims[axis].attach_scale(group[scale] if scale in group else group.parent[scale])


def colour_axis(view: LayerView) -> str:
    """Name of the colour axis: `rgb`, or `band` where it is not those three."""
    return "rgb" if view.colours == 3 else "band"


def add_coordinates(group: h5py.Group, view: LayerView) -> None:
    """Add the scales of all axes of a layer, and further names along them."""
    for name, values in _scales(view).items():
        add_scale(group, name, values)
    further = []
    if view.layer.target_space.names:
        further += _add_names(group, view.layer)
    if len(view.layer.target_space.sizes) > 1:
        further += _add_parts(group, view)
    if further:
        group.attrs["coordinates"] = " ".join(further)


def _scales(view: LayerView) -> dict[str, ArrayLike]:
    recipe, parts = view.model.recipe, len(view.layer.target_space.sizes)
    height, width = view.image_size
    scales: dict[str, ArrayLike] = {
        "channel": view.targets,
        "seed": np.asarray(view.plan.seeds, dtype=np.int64),
        "y": np.arange(height),
        "x": np.arange(width),
        colour_axis(view): np.arange(view.colours),
        "trace_step": np.asarray(recorded_steps(recipe), dtype=np.int64),
        "response_channel": np.arange(view.layer.info.n_channels),
    }
    if view.variants:
        scales["variant"] = list(recipe.objective.variant_names)
    if "facet" in view.specs:
        scales["dataset_image"] = np.arange(recipe.objective.dataset_images)
    if recipe.snapshots:
        scales["step"] = np.asarray(snapshot_steps(recipe), dtype=np.int64)
    if parts > 1:
        scales["part"] = np.arange(parts)
    return scales


def _add_names(group: h5py.Group, layer: LayerPlan) -> list[str]:
    """Add the names of the classes or cells."""
    names = [as_text(layer.target_space.names[target]) for target in layer.targets]
    add_dataset(group, "channel_name", names, ("channel",), "name of the target", dtype=TEXT)
    return ["channel_name"]


def _add_parts(group: h5py.Group, view: LayerView) -> list[str]:
    """Add the channels that targets consist of, and their layers."""
    layer, space = view.layer, view.layer.target_space
    parts = np.asarray([space.parts(target) for target in layer.targets])
    meaning = "the channels that a target consists of"
    add_dataset(group, "part_channel", parts, ("channel", "part"), meaning)
    layers = [f"{view.model.label}/{layer.info.name}"]
    layers += [f"{other.model}/{other.info.name}" for other in layer.others]
    # All parts may be channels of one layer.
    layers *= len(space.sizes) // len(layers)
    texts = list(map(as_text, layers))
    meaning = "model and layer of each of them"
    add_dataset(group, "part_layer", texts, ("part",), meaning, dtype=TEXT)
    return ["part_channel", "part_layer"]
