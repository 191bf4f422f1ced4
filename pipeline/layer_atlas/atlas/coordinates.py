"""Labelled datasets: what they mean, and what the indices along their axes stand for.

Every axis has a dimension scale of its name, so that netCDF readers (xarray with h5netcdf) give
labelled arrays. Further names along an axis are listed in the group's attribute `coordinates`, as
the CF conventions (1.11, section 5) have it for auxiliary coordinate variables; netCDF readers
offer them beside the axis.
"""

from collections.abc import Sequence
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

from layer_atlas.atlas.gather import LayerView
from layer_atlas.config.recipe import recorded_steps, snapshot_steps
from layer_atlas.plan.plan import LayerPlan

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
    if recipe.snapshots:
        scales["step"] = np.asarray(snapshot_steps(recipe), dtype=np.int64)
    if parts > 1:
        scales["part"] = np.arange(parts)
    return scales


def _add_names(group: h5py.Group, layer: LayerPlan) -> list[str]:
    """Add the names of the classes."""
    names = [as_text(layer.target_space.names[target]) for target in layer.targets]
    add_dataset(group, "channel_name", names, ("channel",), "name of the class", dtype=TEXT)
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
