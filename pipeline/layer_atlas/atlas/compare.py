"""Compare an atlas with its store, shard by shard, row by row.

The atlas may be somebody else's, and reading it takes the HDF5 library. So it is read in a process
of its own, within the file, in the shapes that the plan tells, and for a while at a time.
"""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from layer_atlas.atlas.child_process import ProcessDied, run_apart
from layer_atlas.atlas.gather import LayerView, Piece, layer_views
from layer_atlas.errors import EXIT_OK
from layer_atlas.plan.jobs import STATUS
from layer_atlas.plan.labels import target_name
from layer_atlas.processes import die_with_parent
from layer_atlas.store.arrays import unpacked
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import plan_of, read_manifest
from layer_atlas.store.shard_file import PICTURES

PATIENCE = 300
"""Seconds that one look at the atlas may take; some files have the HDF5 library go in circles."""


def compare(folder: OutputFolder) -> list[str]:
    """What is wrong with an atlas and its store, in a sentence each.

    Corrupt shards are set aside, so that the next run computes them again.

    Raises:
        UserError: the manifest cannot be read.
        StorageError: the store cannot be read.
    """
    try:
        said = run_apart("compare-here", str(folder.root.resolve()), str(PATIENCE))
    except ProcessDied as killed:
        return [f"{folder.atlas} cannot be read (it took the reader down: {killed}); collate it"]
    return [str(problem) for problem in json.loads(said)]


def main(argv: list[str]) -> int:
    """What the child does: `compare-here OUTPUT_FOLDER SECONDS`."""
    die_with_parent()
    folder, patience = OutputFolder(Path(argv[0])), int(argv[1])
    views = list(layer_views(folder, plan_of(read_manifest(folder))))
    problems = []
    try:
        signal.alarm(patience)  # kills, wherever it is
        with h5py.File(folder.atlas, "r") as atlas:
            for view in views:
                for problem in _compare_layer(atlas, view, patience):
                    problems.append(problem)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        # h5py raises any of them
        problems = [f"{folder.atlas} cannot be read ({error}); collate it"]
    problems += [f"corrupt shard set aside: {path}" for view in views for path in view.corrupt]
    print(json.dumps(problems))
    return EXIT_OK


def _compare_layer(atlas: h5py.File, view: LayerView, patience: int) -> Iterator[str]:
    """Differences between a layer of the atlas and its shards."""
    name, group = view.group, _own(atlas, *view.group.split("/"))
    if group is None:
        yield f"{name} is not in the atlas; collate it"
        return
    if not _is_of(group, view):
        yield f"{name} in the atlas is of another plan; collate it"
        return
    for piece in view.pieces():
        for dataset in (*piece.result.arrays.keys() - {"channel"}, *view.pictures):
            signal.alarm(patience)
            try:
                rows = list(_differing(group, dataset, view, piece))
            except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
                yield f"{name}/{dataset} cannot be read: {error}"
                continue
            for row in rows:
                target = target_name(view.model.recipe, view.layer, view.layer.targets[row])
                yield f"{name}/{dataset} of {target} differs from its shard"


def _is_of(group: h5py.Group, view: LayerView) -> bool:
    """Whether a group of the atlas is of the jobs of a layer."""
    n_jobs = len(view.targets), len(view.plan.seeds)
    try:
        channels, seeds = (
            _numbers(group, "channel", n_jobs[:1]),
            _numbers(group, "seed", n_jobs[1:]),
        )
        same_pictures = _whole(group, "image").shape == (*n_jobs, *view.frames["image"].shape)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError):
        return False
    return (
        np.array_equal(channels[()], view.targets)
        and seeds[()].tolist() == list(view.plan.seeds)
        and same_pictures
    )


def _differing(group: h5py.Group, name: str, view: LayerView, piece: Piece) -> Iterator[int]:
    """The rows of a dataset that are not as in a shard."""
    frame, n_jobs = view.frames[name], (len(view.targets), len(view.plan.seeds))
    shape = (*n_jobs, *frame.largest)
    if frame.packed:
        yield from _differing_pictures(_whole(group, name), shape, piece, PICTURES[name])
        return
    stored = _numbers(group, name, shape, frame.dtype)
    for row, value in zip(piece.rows.tolist(), piece.result.arrays[name], strict=True):
        told = stored[row, piece.seed_index]
        if name == "status" and told == STATUS["silent"]:
            told = STATUS["dead"]  # which only the photographs could tell
        if not np.array_equal(told, value, equal_nan=True):
            yield row


def _differing_pictures(
    stored: h5py.Dataset, shape: tuple[int, ...], piece: Piece, axes: int
) -> Iterator[int]:
    picture = shape[-axes:]
    if stored.shape != shape or stored.chunks != (1,) * (len(shape) - axes) + picture:
        raise ValueError(f"it is {stored.shape} in chunks of {stored.chunks}")
    size = int(np.prod(picture))
    name = stored.name.rpartition("/")[2]
    differing = [
        place[0]
        for place, ours in piece.packed(name)
        if (theirs := _chunk(stored, place, size)) != ours
        and unpacked(theirs, size) != unpacked(ours, size)
    ]
    yield from dict.fromkeys(differing)


def _chunk(stored: h5py.Dataset, place: tuple[int, ...], size: int) -> bytes:
    """A packed picture; nothing is unpacked by the HDF5 library, which would know no bound."""
    told = stored.id.get_chunk_info_by_coord(place)
    if not 0 < told.size <= 2 * size + 1024 or told.filter_mask:
        raise ValueError(f"a picture of {told.size} bytes")
    return bytes(stored.id.read_direct_chunk(place)[1])


# --- what is in this file, and in no other -------------------------------------------------------


def _own(group: h5py.Group, *names: str) -> h5py.Group | h5py.Dataset | None:
    """A member of a group, or of groups in it, unless a link leads there; None if there is none."""
    found: h5py.Group | h5py.Dataset = group
    for name in names:
        # By the links themselves: what looks for members follows them, into other files too.
        if not isinstance(found, h5py.Group) or not found.id.links.exists(name.encode()):
            return None
        if found.id.links.get_info(name.encode()).type != h5py.h5l.TYPE_HARD:
            raise ValueError(f"{name!r} is a link to something else")
        found = found[name]
    return found


def _whole(group: h5py.Group, name: str) -> h5py.Dataset:
    """A dataset that is in this file and in no other."""
    dataset = _own(group, name)
    if not isinstance(dataset, h5py.Dataset):
        raise ValueError(f"there is no dataset {name!r}")
    if dataset.is_virtual or dataset.external:
        raise ValueError("it lies in other files")
    return dataset


def _numbers(
    group: h5py.Group, name: str, shape: tuple[int, ...], dtype: str = "i8"
) -> h5py.Dataset:
    """A dataset of numbers that lie in the file as they are."""
    dataset = _whole(group, name)
    same = dataset.shape == shape and dataset.dtype == np.dtype(dtype) and dataset.chunks is None
    if not same:
        raise ValueError(f"it is {dataset.dtype} {dataset.shape}")
    return dataset
