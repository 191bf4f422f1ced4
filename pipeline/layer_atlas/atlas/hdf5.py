"""`atlas.h5`: images and statistics of all layers in one file, schema "layer-atlas/1".

Every dataset has named dimension scales, so that netCDF readers (xarray with h5netcdf) give
labelled arrays; h5py and HDF5 viewers open it as it is. Built beside its place and renamed.
"""

import contextlib
import os
import re
import time
import uuid
from collections.abc import Iterable, Sequence

import h5py
import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.coordinates import add_coordinates, add_scale, as_text, colour_axis, label
from layer_atlas.atlas.dataset_group import write_dataset, write_evidence, write_selectivity
from layer_atlas.atlas.gather import LayerView
from layer_atlas.config.records import canonical_json, plain
from layer_atlas.datasets.evidence import STRONGEST
from layer_atlas.errors import StorageError
from layer_atlas.plan.environment import Environment, environment_in
from layer_atlas.plan.jobs import STATUS
from layer_atlas.plan.labels import sampling_of, weights_words
from layer_atlas.plan.origin import preprocessing_words
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.shards import IMAGE_AXES

SCHEMA = "layer-atlas/1"
UNKNOWN = "unknown"
"""The first environment of every layer."""
_STATUS_TYPE = "~status"
"""A name that no model can have."""

_MEANING = {
    "activation": "objective of the stored 8-bit image, without transforms, fp32",
    "activation_robust": "mean of the same over 16 fixed small warps",
    "activation_max": "largest response of the target anywhere on the image",
    "high_frequency": "share of the image's spectral energy above half the Nyquist frequency",
    "clipped": "share of the image's pixels of which any colour is 0 or 255",
    "trace": "objective of the transformed views during ascent",
    "response": "mean response of each channel of the layer to the image",
    "image": "the image that excites the channel most",
    "status": "what became of the job",
    "start": "which random start lived: 0, the first, but for channels that it left dead",
    "alpha": "where the gradient fell during ascent, as a map of opacity",
    "part_activation": "what each part of a target that consists of several answers",
    "snapshot": "the image on its way",
    "made_with": "which of `environment` the image was made with; 0: not known",
}

_OF_JOBS = frozenset({"status", "start", "made_with"})
"""Datasets without an axis of variants."""

_FURTHER_AXES = {
    "image": ("y", "x", "colour"),
    "part_activation": ("part",),
    "snapshot": ("step", "y", "x", "colour"),
    "trace": ("trace_step",),
    "response": ("response_channel",),
    "alpha": ("y", "x"),
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
            # An atlas that met corrupt shards must not pass for one of the shards made anew.
            file.attrs["content"] = "" if any(view.corrupt for view in views) else content
        with open(temporary, "rb") as done:
            os.fsync(done.fileno())
        os.replace(temporary, folder.atlas)
    except (OSError, RuntimeError) as error:  # a full disk is either, by when HDF5 meets it
        raise StorageError(f"cannot write {folder.atlas}: {_reason(error)}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    """What the system said, out of the several lines that HDF5 makes of it."""
    told = re.search("error message = '([^']+)'", str(error))
    return told[1] if told else str(error)


def _write_layer(file: h5py.File, view: LayerView) -> None:
    group = _layer_group(file, view)
    _create_datasets(file, group, view)
    status = view.initial_status()
    environments: dict[Environment | None, int] = {None: 0}
    for jobs in view.stored_jobs():
        index = (jobs.rows, jobs.seed_index)
        environment = environment_in(jobs.facts)
        group["made_with"][index] = environments.setdefault(environment, len(environments))
        status[index] = jobs.arrays["status"]
        for name, array in jobs.arrays.items():
            if name not in ("target", "status"):
                group[name][index] = array
    _label_environments(group, environments)
    _write_evidence(group, view, status)


def _label_environments(group: h5py.Group, environments: Iterable[Environment | None]) -> None:
    """Add what the numbers of `made_with` stand for."""
    texts = [UNKNOWN if each is None else as_text(each.text) for each in environments]
    add_scale(group, "environment", texts)


def _layer_group(file: h5py.File, view: LayerView) -> h5py.Group:
    model, info = view.model, view.layer.info
    group = file.create_group(view.group, track_order=True)
    parent = group.parent
    parent.attrs["name"] = as_text(model.label)
    parent.attrs["source"] = as_text(model.network.source)
    parent.attrs["weights_sha256"] = as_text(model.network.weights_sha256)
    parent.attrs["code_sha256"] = as_text(model.network.code)
    parent.attrs["note"] = as_text(model.note)
    parent.attrs["weights"] = as_text(weights_words(model))
    size, origin = model.input_size, model.origin
    preprocessing = preprocessing_words(model.network.mean, model.network.std, size, origin)
    parent.attrs["preprocessing"] = as_text(preprocessing)
    parent.attrs["mean"] = model.network.mean
    parent.attrs["std"] = model.network.std
    parent.attrs["input_size"] = model.input_size
    group.attrs["name"] = as_text(info.name)
    group.attrs["module_type"] = as_text(info.module_type)
    group.attrs["n_channels"] = info.n_channels
    group.attrs["activation_shape"] = info.shape
    group.attrs["flops"] = info.flops
    group.attrs["flops_share"] = info.flops_share
    group.attrs["prefix_tokens"] = info.prefix_tokens
    group.attrs["channel_axis"] = info.channel_axis
    group.attrs["batch_axis"] = info.batch_axis
    group.attrs["path"] = as_text(info.path)
    sampling = sampling_of(view.plan, model, view.layer)
    group.attrs["selection"] = canonical_json(plain(sampling.asked))
    group.attrs["n_targets"] = sampling.count
    group.attrs["target"] = sampling.noun
    group.attrs["recipe"] = canonical_json(plain(model.recipe))
    return group


def _create_datasets(file: h5py.File, group: h5py.Group, view: LayerView) -> None:
    add_coordinates(group, view)
    per_job = (len(view.targets), len(view.plan.seeds))
    for name, spec in view.specs.items():
        shape = (*per_job, *spec.largest_shape)
        if name in IMAGE_AXES:
            # A chunk is an image. Compression would be slower than a GPU, and save a quarter.
            chunks = (1,) * (len(shape) - IMAGE_AXES[name]) + shape[-IMAGE_AXES[name] :]
            group.create_dataset(name, shape, "u1", chunks=chunks, fletcher32=True)
        elif name == "status":
            group.create_dataset(name, shape, file[_STATUS_TYPE])
        else:
            unknown = np.nan if spec.dtype == "f4" else 0
            group.create_dataset(name, shape, spec.dtype, fillvalue=unknown)
    group.create_dataset("made_with", per_job, "u4")
    for name, meaning in _MEANING.items():
        if name in group:
            label(group, name, ("channel", "seed", *_further_axes(view, name)), meaning)


def _further_axes(view: LayerView, name: str) -> list[str]:
    """The axes of a dataset after those of the jobs."""
    if name in _OF_JOBS:
        return []
    axes = [colour_axis(view) if axis == "colour" else axis for axis in _FURTHER_AXES.get(name, ())]
    return ["variant", *axes] if view.variants else axes


def _write_evidence(group: h5py.Group, view: LayerView, status: NDArray[np.uint8]) -> None:
    """Add the status, and what photographs say of the images, as far as it is known."""
    group["status"][...] = view.judged(status)
    if view.model.recipe.objective.of_channels:
        write_selectivity(group, view)
    plan, found = view.plan.dataset_plan, view.evidence()
    if plan is None or found is None:
        return
    if len(found.stats.rows) >= STRONGEST:
        write_evidence(group, view, found.stats)
    write_dataset(group, view, plan, found)
