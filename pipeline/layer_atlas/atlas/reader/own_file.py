"""What lies in a file of HDF5 itself: it may come from somebody else, and point elsewhere."""

from collections.abc import Iterator
from typing import Any

import h5py


def name_of(group: h5py.Group) -> str:
    """The name of a model or layer; that of the group may have been made safe."""
    return str(group.attrs.get("name", str(group.name).rpartition("/")[2]))


def groups(parent: h5py.Group) -> Iterator[h5py.Group]:
    """The groups in a group, without those of other files."""
    found = (own(parent, name) for name in parent)
    return (item for item in found if isinstance(item, h5py.Group))


def own(group: h5py.Group, name: str) -> Any:
    """What lies under a name in this very file; `None` for nothing, and for what lies elsewhere."""
    for part in name.split("/"):
        if not isinstance(group, h5py.Group) or not isinstance(
            group.get(part, getlink=True), h5py.HardLink
        ):
            return None
        group = group[part]
    return None if isinstance(group, h5py.Dataset) and _lies_elsewhere(group) else group


def _lies_elsewhere(dataset: h5py.Dataset) -> bool:
    """Whether its numbers are in another file."""
    return bool(dataset.is_virtual or dataset.external)


def is_data(item: Any) -> bool:
    """Whether it is a dataset whose numbers are in this file."""
    return isinstance(item, h5py.Dataset) and not _lies_elsewhere(item)
