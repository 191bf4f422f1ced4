"""Compare an atlas with its store, shard by shard, row by row.

The atlas may be somebody else's, and reading it takes the HDF5 library. So it is read in a process
of its own with a time limit. Only datasets of the planned shapes, in the layout that `hdf5` writes,
are read: the library follows links into other files, and unpacks as much as a file asks for.
"""

import itertools
import json
import signal
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from layer_atlas.atlas.child_process import ProcessDied, run_apart
from layer_atlas.atlas.gather import LayerView, StoredJobs, layer_views
from layer_atlas.atlas.hdf5 import image_chunks
from layer_atlas.atlas.reader.layers import own
from layer_atlas.errors import EXIT_OK
from layer_atlas.plan.jobs import STATUS
from layer_atlas.plan.labels import target_name
from layer_atlas.processes import die_with_parent
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import plan_of, read_manifest

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
                target = target_name(view.model.recipe, view.layer, view.layer.targets[row])
                yield f"{name}/{dataset} of {target} differs from its shard"


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
