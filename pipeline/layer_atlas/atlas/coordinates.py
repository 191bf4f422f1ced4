"""Coordinates of a layer in the atlas: what the numbers along its axes stand for.

Every axis has a dimension scale of its name, in numbers or in words. Further names of what lies
along an axis are listed in the group's attribute `coordinates`, as the CF conventions (1.11,
section 5) have it for auxiliary coordinate variables; so netCDF readers offer them beside the axis.
"""

from collections.abc import Sequence

import h5py
import numpy as np
from numpy.typing import ArrayLike

from layer_atlas.atlas.gather import LayerView
from layer_atlas.config.recipe import recorded_steps, snapshot_steps
from layer_atlas.plan.plan import LayerPlan


def as_text(text: str) -> str:
    """A text as HDF5 can hold it; what is no text, as names of files may be, becomes `?`."""
    return text.encode(errors="replace").decode().replace("\0", "?")


def add_scale(group: h5py.Group, name: str, values: ArrayLike) -> None:
    """Add a scale to a group: numbers, or texts."""
    values = np.asarray(values)
    text = values.dtype.kind == "U"
    data, dtype = (values.astype(object), h5py.string_dtype()) if text else (values, values.dtype)
    group.create_dataset(name, data=data, dtype=dtype)
    group[name].make_scale(name)


def label(group: h5py.Group, name: str, scales: Sequence[str], meaning: str) -> None:
    """Say what a dataset means, and attach scales of its group or the one around it."""
    dataset = group[name]
    dataset.attrs["description"] = meaning
    for axis, scale in enumerate(scales):
        dataset.dims[axis].label = scale
        dataset.dims[axis].attach_scale(group[scale] if scale in group else group.parent[scale])


def colour_axis(view: LayerView) -> str:
    """What the axis of colours is called: `rgb`, or `band` where it is not those three."""
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
    names = [as_text(layer.target_space.names[channel]) for channel in layer.targets]
    group.create_dataset("channel_name", data=names, dtype=h5py.string_dtype())
    label(group, "channel_name", ("channel",), "name of the class")
    return ["channel_name"]


def _add_parts(group: h5py.Group, view: LayerView) -> list[str]:
    """Add the channels that targets consist of, and which layers these are of."""
    layer, targets = view.layer, view.layer.target_space
    group["part_channel"] = np.asarray([targets.parts(channel) for channel in layer.targets])
    label(group, "part_channel", ("channel", "part"), "the channels that a target consists of")
    layers = [f"{view.model.label}/{layer.info.name}"]
    layers += [f"{tap.model}/{tap.info.name}" for tap in layer.others]
    # The parts may all be of the one layer.
    layers *= len(targets.sizes) // len(layers)
    texts = list(map(as_text, layers))
    group.create_dataset("part_layer", data=texts, dtype=h5py.string_dtype())
    label(group, "part_layer", ("part",), "model and layer of each of them")
    return ["part_channel", "part_layer"]
