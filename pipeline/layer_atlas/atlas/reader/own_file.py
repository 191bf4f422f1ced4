"""Items that an HDF5 file holds itself: a file of somebody else may link to other files."""

from collections.abc import Iterator
from typing import Any

import h5py


def name_of(group: h5py.Group) -> str:
    """Name of a model or layer, of which the name of the group is the safe form."""
    return str(group.attrs.get("name", str(group.name).rpartition("/")[2]))


def groups(parent: h5py.Group) -> Iterator[h5py.Group]:
    """Yield the groups in a group, without those of other files."""
    items = (own(parent, name) for name in parent)
    return (item for item in items if isinstance(item, h5py.Group))


def own(group: h5py.Group, name: str) -> Any:
    """The item of a path in this file; `None` if it does not exist or lies elsewhere."""
    # Link by link: `group[name]` would follow any of them into another file.
    for part in name.split("/"):
        if not isinstance(group, h5py.Group) or not isinstance(
            group.get(part, getlink=True), h5py.HardLink
        ):
            return None
        group = group[part]
    return None if isinstance(group, h5py.Dataset) and _lies_elsewhere(group) else group


def _lies_elsewhere(dataset: h5py.Dataset) -> bool:
    """Whether the values of a dataset are in another file."""
    return bool(dataset.is_virtual or dataset.external)


def is_data(item: Any) -> bool:
    """Whether an item is a dataset whose values are in this file."""
    return isinstance(item, h5py.Dataset) and not _lies_elsewhere(item)
