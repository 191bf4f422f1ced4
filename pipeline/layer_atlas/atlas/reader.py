"""Read an atlas: models, layers and images by name, loaded when they are used.

    from layer_atlas import open_atlas

    atlas = open_atlas("outputs/demo")
    layer = atlas["demo/conv6"]
    layer.strongest(8)                    # channels, by agreement or selectivity
    layer.image(17)                       # (H, W, 3) uint8
    layer.to_xarray()                     # labelled arrays, if xarray is installed

Only `atlas.h5` is read. It may come from somebody else, so links out of the file are not followed.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

import h5py

from layer_atlas.atlas.display import listed
from layer_atlas.atlas.layers import Layer, Model, groups
from layer_atlas.errors import UserError, unknown

__all__ = ["Atlas", "Layer", "Model", "open_atlas"]

_SCHEMA = "layer-atlas/1"


def open_atlas(path: str | Path) -> "Atlas":
    """Open an atlas for reading.

    Args:
        path: an `atlas.h5`, or the output folder that contains it.
    Raises:
        UserError: there is no such file, or it is no atlas.
    """
    file = Path(path).expanduser()
    # Users think of the sweep by its folder.
    if file.is_dir():
        file = file / "atlas.h5"
    try:
        opened = h5py.File(file, "r")
        schema = str(opened.attrs["schema"])
    except FileNotFoundError:
        raise UserError(f"there is no {str(file)!r}; `atlas collate name=...` makes it.") from None
    except (OSError, KeyError) as error:
        raise UserError(f"{str(file)!r} is no readable atlas: {error}.") from error
    if schema != _SCHEMA:
        opened.close()
        raise UserError(f"{str(file)!r} is of schema {schema!r}, not {_SCHEMA!r}.")
    return Atlas(file, opened)


class Atlas(Mapping[str, Layer]):
    """Layers by their title `model/layer`, in the order of the plan."""

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path, self._file = path, file

    def __enter__(self) -> "Atlas":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; arrays that were read stay valid."""
        self._file.close()

    @cached_property
    def models(self) -> dict[str, Model]:
        """Models by label."""
        models = (Model(group) for group in groups(self._file))
        return {model.name: model for model in models}

    @cached_property
    def _layers(self) -> dict[str, Layer]:
        layers = (layer for model in self.models.values() for layer in model.layers.values())
        return {layer.title: layer for layer in layers}

    def __getitem__(self, title: str) -> Layer:
        """The layer of a title. Raises UserError with the nearest titles if there is none."""
        if title not in self._layers:
            raise unknown("layer", title, self._layers)
        return self._layers[title]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    @property
    def config(self) -> str:
        """The config of the sweep, as YAML."""
        return str(self._file.attrs["config"])

    @property
    def versions(self) -> dict[str, str]:
        """Versions of the packages that collated it."""
        return dict(json.loads(self._file.attrs["versions"]))

    @property
    def created(self) -> str:
        """Time of collation."""
        return str(self._file.attrs["created"])

    @property
    def content(self) -> str:
        """Digest of its sources; empty if a corrupt file was excluded."""
        return str(self._file.attrs.get("content", ""))

    def _repr_html_(self) -> str:
        """HTML for notebooks: every layer."""
        return listed(f"Atlas {self.path}", map(repr, self._layers.values()))

    def __repr__(self) -> str:
        lines = [f"Atlas {self.path}"]
        return "\n".join([*lines, *(f"  {layer!r}" for layer in self._layers.values())])
