"""Write `atlas.h5`, schema "layer-atlas/1", and compare it with the store it was written from.

Every dataset has named dimension scales; see `dataset_group`. The file is written under a temporary
name and renamed. Write it in a child process: on a full disk the HDF5 library may crash.

The atlas that is compared may be somebody else's, so it is read in a process of its own with a time
limit. Only datasets of the planned shapes, in the layout that is written here, are read: the
library follows links into other files, and unpacks as much as a file asks for.
"""

import contextlib
import itertools
import json
import os
import re
import signal
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.comparison import write_similarities
from layer_atlas.atlas.dataset_group import (
    add_coordinates,
    add_scale,
    as_text,
    colour_axis,
    connection_arrays,
    label,
    write_connections,
    write_dataset,
    write_evidence,
    write_recognisability,
    write_selectivity,
)
from layer_atlas.atlas.gather import LayerView, StoredJobs, layer_views
from layer_atlas.atlas.layers import own
from layer_atlas.atlas.map_datasets import write_map
from layer_atlas.atlas.words import add_words
from layer_atlas.config.records import canonical_json, plain
from layer_atlas.datasets.evidence import STRONGEST
from layer_atlas.errors import EXIT_OK, StorageError
from layer_atlas.plan.environment import Environment, environment_in
from layer_atlas.plan.jobs import STATUS, preprocessing_words
from layer_atlas.plan.labels import sampling_of, target_name, weights_words
from layer_atlas.processes import ProcessDied, die_with_parent, run_apart
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import plan_of, read_manifest
from layer_atlas.store.shards import IMAGE_AXES

SCHEMA = "layer-atlas/1"
UNKNOWN = "unknown"
"""The first environment of every layer, for images whose environment was not recorded."""
_STATUS_TYPE = "~status"
"""Name of the enum type; no model can have it."""

_MEANING = {
    "activation": "objective of the stored 8-bit image, without transforms, fp32",
    "activation_robust": "mean objective of 16 fixed small warps, in the precision of the recipe",
    "activation_max": "largest response of the target anywhere on the image",
    "high_frequency": "fraction of the image's spectral energy above half the Nyquist frequency",
    "clipped": "fraction of the image's pixels of which any colour is 0 or 255",
    "trace": "objective of the transformed views during ascent",
    "response": "mean response of each channel of the layer to the image",
    "image": "feature visualization: the image that excites the target most",
    "status": "outcome of the job",
    "start": "random start that the image comes from: 0 unless that one stayed dead",
    "alpha": "accumulated gradient during ascent, as a map of opacity",
    "part_activation": "response of each part of a target that consists of several",
    "snapshot": "the image after so many steps",
    "facet": "number of the facet of each of the channel's strongest dataset images, from 1 on",
    "made_with": "index in `environment`; 0: unknown",
}

_OF_JOBS = frozenset({"status", "start", "made_with", "facet"})
"""Datasets of jobs, without an axis of variants."""

_FURTHER_AXES = {
    "image": ("y", "x", "colour"),
    "part_activation": ("part",),
    "snapshot": ("step", "y", "x", "colour"),
    "trace": ("trace_step",),
    "response": ("response_channel",),
    "alpha": ("y", "x"),
    "facet": ("dataset_image",),
}


def write_atlas(
    folder: OutputFolder, views: Sequence[LayerView], attributes: dict[str, str], content: str
) -> None:
    """Write the atlas of all layers, one shard in memory at a time.

    Args:
        folder: where it goes.
        views: the layers.
        attributes: root attributes besides schema and date.
        content: digest of what the atlas is made of.
    Raises:
        StorageError: the disk is full or fails.
    """
    temporary = folder.root / f".atlas.{uuid.uuid4().hex}.tmp"
    try:
        with h5py.File(temporary, "w", track_order=True) as file:
            file.attrs["schema"] = SCHEMA
            file.attrs["created"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            file.attrs.update(attributes)
            file[_STATUS_TYPE] = h5py.enum_dtype(STATUS, basetype="u1")
            for view in views:
                _write_layer(file, view)
            write_similarities(file, views)
            # An atlas that met corrupt shards must not pass for one of the shards made anew.
            file.attrs["content"] = "" if any(view.corrupt for view in views) else content
        # HDF5 has closed the file by now; this forces what it wrote to the disk.
        with open(temporary, "rb") as done:
            os.fsync(done.fileno())
        os.replace(temporary, folder.atlas)
    except (OSError, RuntimeError) as error:  # a full disk is either, by when HDF5 meets it
        raise StorageError(f"cannot write {folder.atlas}: {_reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """The system's message, out of the several lines that HDF5 makes of it."""
    match = re.search("error message = '([^']+)'", str(error))
    return match[1] if match else str(error)


def _write_layer(file: h5py.File, view: LayerView) -> None:
    group = _layer_group(file, view)
    _create_datasets(file, group, view)
    status = view.initial_status()
    environments: dict[Environment | None, int] = {None: 0}
    for jobs in view.stored_jobs():
        environment = environment_in(jobs.facts)
        code = environments.setdefault(environment, len(environments))
        status[jobs.rows, jobs.seed_index] = jobs.arrays["status"]
        for inside, rows in _runs(jobs.rows):
            group["made_with"][rows, jobs.seed_index] = code
            for name, array in jobs.arrays.items():
                if name not in ("target", "status"):
                    group[name][rows, jobs.seed_index] = array[inside]
    texts = [UNKNOWN if known is None else as_text(known.text) for known in environments]
    add_scale(group, "environment", texts)
    _write_evidence(group, view, status)
    add_words(group, view)


def _runs(rows: NDArray[np.intp]) -> Iterator[tuple[slice, slice]]:
    """Split ascending rows into runs of neighbours: slices of the jobs, and of the layer.

    h5py writes a slice of images thirty times faster than a list of rows.
    """
    ends = [*(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
    for start, end in itertools.pairwise([0, *ends]):
        yield slice(start, end), slice(int(rows[start]), int(rows[end - 1]) + 1)


def _layer_group(file: h5py.File, view: LayerView) -> h5py.Group:
    model, info = view.model, view.layer.info
    # In the order of the plan, which for layers is the order of the network.
    group = file.create_group(view.group, track_order=True)
    network, size = model.network, model.input_size
    seen, origin = model.seen_size
    sampling = sampling_of(view.plan, model, view.layer)
    attributes = {
        group.parent: {
            "name": model.label,
            "source": network.source,
            "weights_sha256": network.weights_sha256,
            "code_sha256": network.code,
            "note": model.note,
            "weights": weights_words(model),
            "preprocessing": preprocessing_words(network.mean, network.std, seen, origin),
            "mean": network.mean,
            "std": network.std,
            "input_size": size,
            "seen_size": seen,
        },
        group: {
            "name": info.name,
            "module_type": info.module_type,
            "n_channels": info.n_channels,
            "activation_shape": info.shape,
            "flops": info.flops,
            "flops_share": info.flops_share,
            "prefix_tokens": info.prefix_tokens,
            "suffix_tokens": info.suffix_tokens,
            "channel_axis": info.channel_axis,
            "batch_axis": info.batch_axis,
            "path": info.path,
            "selection": canonical_json(plain(sampling.asked)),
            "n_targets": sampling.count,
            "target": sampling.noun,
            "recipe": canonical_json(plain(model.recipe.of_layer(info.name))),
        },
    }
    for described, values in attributes.items():
        for name, value in values.items():
            described.attrs[name] = as_text(value) if isinstance(value, str) else value
    return group


def _create_datasets(file: h5py.File, group: h5py.Group, view: LayerView) -> None:
    add_coordinates(group, view)
    per_job = (len(view.targets), len(view.plan.seeds))
    for name, spec in view.specs.items():
        shape = (*per_job, *spec.largest_shape)
        if chunks := image_chunks(name, shape):
            # Compression would be slower than a GPU, and save a quarter of the bytes.
            group.create_dataset(name, shape, "u1", chunks=chunks, fletcher32=True)
        # An enum, so that viewers show words instead of codes.
        elif name == "status":
            group.create_dataset(name, shape, file[_STATUS_TYPE])
        else:
            unknown = np.nan if spec.dtype == "f4" else 0
            group.create_dataset(name, shape, spec.dtype, fillvalue=unknown)
    group.create_dataset("made_with", per_job, "u4")
    for name, meaning in _MEANING.items():
        if name in group:
            label(group, name, ("channel", "seed", *_further_axes(view, name)), meaning)


def image_chunks(name: str, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Shape of a chunk of a dataset of images, which is one image; `None` for other datasets."""
    if name not in IMAGE_AXES:
        return None
    axes = IMAGE_AXES[name]
    return (1,) * (len(shape) - axes) + shape[-axes:]


def _further_axes(view: LayerView, name: str) -> list[str]:
    """The axes of a dataset after those of the jobs."""
    axes = [colour_axis(view) if axis == "colour" else axis for axis in _FURTHER_AXES.get(name, ())]
    return ["variant", *axes] if view.variants and name not in _OF_JOBS else axes


def _write_evidence(group: h5py.Group, view: LayerView, status: NDArray[np.uint8]) -> None:
    """Add the status, and the evidence of the dataset images, as far as it is known."""
    group["status"][...] = view.judged(status)
    if view.samples is not None:
        with contextlib.suppress(FileNotFoundError):
            write_map(group, view, view.samples)
    connections = view.connections()
    if connections is not None:
        write_connections(group, connections)
    if view.model.recipe.objective.of_channels:
        write_selectivity(group, view)
    plan, evidence = view.plan.dataset_plan, view.evidence()
    if plan is None or evidence is None:
        return
    # Agreement is of the one image of a job.
    if len(evidence.stats.rows) >= STRONGEST and view.model.recipe.objective.of_channels:
        write_evidence(group, view, evidence.stats)
    write_dataset(group, view, plan, evidence)
    write_recognisability(group, view, evidence.stats)


TIME_LIMIT = 300
"""Seconds for one dataset; on some damaged files the HDF5 library never returns."""

_UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)
"""What h5py raises for damaged files."""

_CHECKSUM_BYTES = 4
"""Bytes that the Fletcher-32 filter appends to a chunk."""


def compare(folder: OutputFolder) -> list[str]:
    """Find the differences between an atlas and its store, a sentence each.

    Corrupt shards are set aside, so that the next run computes them again.

    Raises:
        UserError: the manifest cannot be read.
        StorageError: the store cannot be read.
    """
    try:
        problems = run_apart("compare-here", str(folder.root.resolve()), str(TIME_LIMIT))
    except ProcessDied as killed:
        return [f"{folder.atlas} cannot be read (it took the reader down: {killed}); collate it"]
    return [str(problem) for problem in json.loads(problems)]


def main(argv: list[str]) -> int:
    """Run the inner command `compare-here OUTPUT_FOLDER SECONDS`, and print problems as JSON."""
    die_with_parent()
    folder, time_limit = OutputFolder(Path(argv[0])), int(argv[1])
    views = list(layer_views(folder, plan_of(read_manifest(folder))))
    problems = []
    try:
        signal.alarm(time_limit)  # without a handler: the library would never run one
        with h5py.File(folder.atlas, "r") as atlas:
            for view in views:
                for problem in _compare_layer(atlas, view, time_limit):
                    problems.append(problem)
    except _UNREADABLE as error:
        problems = [f"{folder.atlas} cannot be read ({error}); collate it"]
    problems += [f"corrupt shard set aside: {path}" for view in views for path in view.corrupt]
    print(json.dumps(problems))
    return EXIT_OK


def _compare_layer(atlas: h5py.File, view: LayerView, time_limit: int) -> Iterator[str]:
    """Differences between a layer of the atlas and its shards."""
    name, group = view.group, own(atlas, view.group)
    if not isinstance(group, h5py.Group):
        yield f"{name} is not in the atlas, or is a link to something else; collate it"
        return
    if not _is_of(group, view):
        yield f"{name} in the atlas is of another plan or layout; collate it"
        return
    for jobs in view.stored_jobs():
        for dataset in jobs.arrays.keys() - {"target"}:
            # For each dataset anew, as large atlases take long without being damaged.
            signal.alarm(time_limit)
            try:
                rows = list(_differing(group, dataset, view, jobs))
            except _UNREADABLE as error:
                yield f"{name}/{dataset} cannot be read: {error}"
                continue
            for row in rows:
                yield f"{name}/{dataset} of {_named(view, row)} differs from its shard"
    signal.alarm(time_limit)
    try:
        for dataset, row in _differing_connections(group, view):
            yield f"{name}/{dataset} of {_named(view, row)} differs from its file"
    except _UNREADABLE as error:
        yield f"{name}/connections cannot be read: {error}"


def _named(view: LayerView, row: int) -> str:
    return target_name(view.model.recipe, view.layer, view.layer.targets[row])


def _differing_connections(group: h5py.Group, view: LayerView) -> Iterator[tuple[str, int]]:
    """The weights between channels that are not as in their file: dataset and row."""
    found = view.connections()
    if found is None or not found.sources:
        return
    for name, array in connection_arrays(found).items():
        dataset = own(group, f"connections/{name}")
        if getattr(dataset, "shape", None) != array.shape or dataset.dtype != array.dtype:
            raise ValueError(f"there is no {name!r} of {array.dtype} {array.shape} in this file")
        same = np.equal(dataset[()], array).reshape(len(array), -1).all(axis=1)
        yield from ((f"connections/{name}", row) for row in np.flatnonzero(~same).tolist())


def _is_of(group: h5py.Group, view: LayerView) -> bool:
    """Whether a group of the atlas has the targets and seeds of a layer, and such images."""
    jobs = {"channel": list(view.layer.targets), "seed": list(view.plan.seeds)}
    shape = (*map(len, jobs.values()), *view.specs["image"].largest_shape)
    try:
        _stored(group, "image", shape, "u1")
        return all(
            _stored(group, name, (len(values),), "i8")[()].tolist() == values
            for name, values in jobs.items()
        )
    except _UNREADABLE:
        return False


def _differing(group: h5py.Group, name: str, view: LayerView, jobs: StoredJobs) -> Iterator[int]:
    """The rows of a dataset that are not as in a shard."""
    spec = view.specs[name]
    shape = (len(view.targets), len(view.plan.seeds), *spec.largest_shape)
    stored = _stored(group, name, shape, spec.dtype)
    for row, expected in zip(jobs.rows.tolist(), jobs.arrays[name], strict=True):
        if stored.chunks:
            _check_chunks(stored, (row, jobs.seed_index))
        value = stored[row, jobs.seed_index]
        if name == "status" and value == STATUS["silent"]:
            value = STATUS["dead"]  # a shard does not know the dataset statistics, which decide
        if not np.array_equal(value, expected, equal_nan=True):
            yield row


def _stored(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: str) -> h5py.Dataset:
    """A dataset that lies in this file, in the layout that `hdf5` writes; raises ValueError."""
    dataset = own(group, name)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"there is no dataset {name!r} in this file")
    chunks, properties = image_chunks(name, shape), dataset.id.get_create_plist()
    # A filter such as gzip may unpack a small chunk to any size.
    filters = [properties.get_filter(i)[0] for i in range(properties.get_nfilters())]
    layout = (dataset.shape, dataset.dtype, dataset.chunks, filters)
    if layout != (shape, np.dtype(dtype), chunks, [h5py.h5z.FILTER_FLETCHER32] if chunks else []):
        raise ValueError(f"it is {dataset.dtype} {dataset.shape} with filters {filters}")
    return dataset


def _check_chunks(images: h5py.Dataset, job: tuple[int, int]) -> None:
    """Raise ValueError unless every image of a job takes as many bytes as it must."""
    size = int(np.prod(images.chunks)) + _CHECKSUM_BYTES
    inner = [range(0, n, chunk) for n, chunk in zip(images.shape, images.chunks, strict=True)][2:]
    for corner in itertools.product(*inner):
        chunk = images.id.get_chunk_info_by_coord((*job, *corner))
        # A mask skips filters for one chunk, and so its checksum.
        if chunk.size != size or chunk.filter_mask:
            raise ValueError(f"an image of {chunk.size} bytes instead of {size}")
