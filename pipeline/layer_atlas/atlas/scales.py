"""Named dimension scales, by which netCDF readers (xarray with h5netcdf) give labelled arrays."""

from collections.abc import Sequence

import h5py
import numpy as np
from numpy.typing import ArrayLike


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
