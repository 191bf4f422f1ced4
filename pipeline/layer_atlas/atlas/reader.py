"""Read an atlas: models, layers and images by name, loaded when they are used.

    from layer_atlas import open_atlas

    atlas = open_atlas("outputs/demo")
    layer = atlas["demo/conv6"]           # or atlas["conv6"], as there is one model
    layer.strongest(8)                    # channels, by agreement or selectivity
    layer.image(17)                       # a PIL image; its array: layer.pixels(17)
    layer.to_frame(), layer.to_xarray()   # statistics as a table, everything as labelled arrays

Only `atlas.h5` is read. It may come from somebody else, so links out of the file are not followed.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import h5py
import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.comparison import Similarity, compare_layers, paired_layers
from layer_atlas.atlas.display import listed
from layer_atlas.atlas.frames import comparison, joined_frames
from layer_atlas.atlas.layers import SHOWN, Layer, Model, groups
from layer_atlas.atlas.words import Encoder, Match, search
from layer_atlas.errors import UserError, unknown
from layer_atlas.plan.targets import TargetSpace
from layer_atlas.store.folder import OutputFolder

__all__ = ["Atlas", "Layer", "Match", "Model", "open_atlas"]

if TYPE_CHECKING:
    import pandas

_SCHEMA = "layer-atlas/1"
_ATLAS = Path("atlas.h5")
_MOST_UP = 3
"""Folders from a file in an output folder up to it: `montages/MODEL/layer.png`."""

_MOST_LISTED = 10


AtlasType = TypeVar("AtlasType", bound="Atlas")


def read_atlas(path: str | Path, kind: type[AtlasType]) -> AtlasType:
    """Open an atlas for reading.

    Args:
        path: an `atlas.h5`, the output folder that contains it, a file or folder in that, or a
            folder of output folders that contains a single atlas.
        kind: class of the atlas.
    Raises:
        UserError: there is no such file, it is no atlas, or there are several; names those there.
    """
    file = _find(Path(path).expanduser())
    try:
        opened = h5py.File(file, "r")
        schema = str(opened.attrs["schema"])
    except (OSError, KeyError) as error:
        raise UserError(f"{str(file)!r} is no readable atlas: {error}.") from error
    if schema != _SCHEMA:
        opened.close()
        raise UserError(f"{str(file)!r} is of schema {schema!r}, not {_SCHEMA!r}.")
    return kind(file, opened)


def _find(path: Path) -> Path:
    """Find the atlas that a path stands for. Raises UserError."""
    if path.is_file() and (path.suffix == _ATLAS.suffix or h5py.is_hdf5(path)):
        return path
    # Users think of the sweep by its folder, or by a picture in it.
    around = [path, *path.absolute().parents[:_MOST_UP]] if path.exists() else []
    for folder in around:
        if (folder / _ATLAS).is_file():
            return folder / _ATLAS
    if path.is_file():
        return path
    there = path if path.is_dir() else next(p for p in path.absolute().parents if p.is_dir())
    found = _atlases_in(there)
    if path.is_dir() and len(found) == 1:
        return found[0]
    if not found:
        raise UserError(
            f"there is no atlas in {str(path)!r}; `atlas collate name=...` makes that of a run."
        )
    listed = ", ".join(repr(str(file.parent)) for file in found[:_MOST_LISTED])
    missing = "there are several atlases in" if path.is_dir() else "there is no"
    raise UserError(f"{missing} {str(path)!r}; open one of these, the newest first: {listed}.")


def _atlases_in(folder: Path) -> list[Path]:
    """List the atlases in a folder of output folders, or in one around that, the newest first."""
    for pattern in (f"*/{_ATLAS}", f"*/*/{_ATLAS}"):
        found = [(path.stat().st_mtime, path) for path in folder.glob(pattern) if path.is_file()]
        if found:
            return [path for _, path in sorted(found, reverse=True)]
    return []


def open_atlas(path: str | Path) -> "Atlas":
    """Open an atlas for reading: an `atlas.h5`, its output folder, or a folder around that.

    Raises:
        UserError: there is none, or several; names those there.
    """
    return read_atlas(path, Atlas)


class Atlas(Mapping[str, Layer]):
    """Layers by their title `model/layer`, in the order of the plan.

    Where there is one model, the name of a layer suffices: `atlas["features.12"]`.
    """

    layer_type: ClassVar[type[Layer]] = Layer
    """Class of the layers."""

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
        models = (Model(group, self.layer_type) for group in groups(self._file))
        return {model.name: model for model in models}

    @cached_property
    def _layers(self) -> dict[str, Layer]:
        layers = (layer for model in self.models.values() for layer in model.layers.values())
        return {layer.title: layer for layer in layers}

    @cached_property
    def by_name(self) -> dict[str, Layer]:
        """Layers by name or, where there are several models, by title."""
        if len(self.models) != 1:
            return self._layers
        return {layer.name: layer for layer in self._layers.values()}

    def __getitem__(self, title: str) -> Layer:
        """The layer of a title. Raises UserError with the nearest titles if there is none."""
        layer = self._layers.get(title) or self.by_name.get(title)
        if layer is None:
            raise unknown("layer", title, self.by_name)
        return layer

    def __contains__(self, title: object) -> bool:
        return title in self._layers or title in self.by_name

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    @property
    def target_spaces(self) -> dict[tuple[str, str], TargetSpace]:
        """The targets of each layer that names can be given to, by model and layer."""
        return {(layer.model.name, layer.name): layer.target_space for layer in self.values()}

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

    @property
    def images(self) -> dict[str, NDArray[np.uint8]]:
        """All images by layer, each (C, S, H, W, colours); see `Layer.images`."""
        return {name: layer.images for name, layer in self.by_name.items()}

    def to_frame(self) -> "pandas.DataFrame":
        """The statistics of all layers as a table: a row for each image; see `Layer.to_frame`.

        Raises:
            UserError: pandas is not installed.
        """
        return joined_frames(self._layers)

    def compare(self, other: "Atlas") -> "pandas.DataFrame":
        """Compare the images that two atlases have of the same layer, channel, seed and variant.

        Two atlases of one model each are compared whatever their labels: two recipes, or a network
        before and after training.

        Returns: a row for each image: its statistics, those of the other atlas with the suffix
            `_other`, `image_rms` (root mean square of the difference of pixels in [0, 1]) and
            `response_correlation` (of the layer's responses to both images). Then `similarity`,
            `match` and `match_similarity` of the channels, as `similarity` returns them; NaN and -1
            where it raises.
        Raises:
            UserError: they have no image in common, or pandas is not installed.
        """
        alone = len(self.models) == len(other.models) == 1
        found: dict[str, Similarity] = {}
        # Two recipes are compared by their images, without a dataset too.
        with contextlib.suppress(UserError):
            found = self.similarity(other)
        one, two = (a.by_name if alone else a._layers for a in (self, other))
        return comparison(one, two, found)

    def similarity(
        self,
        other: "Atlas",
        models: tuple[str, str] | None = None,
        layers: Sequence[str] | None = None,
    ) -> dict[str, Similarity]:
        """Correlate the responses of two networks' channels to the same dataset images.

        The numbers are those of `atlas compare`. They come from the output folders of the atlases.

        Args:
            other: another atlas, or this one with `models`.
            models: labels of the models to compare; by default those of the same label, or the only
                one of each atlas whatever its label.
            layers: globs over layer names; default: all.
        Returns: by layer, or by `model/layer` where several models are compared.
        Raises:
            UserError: there is no layer in common, or no responses to the same dataset images.
        """
        one, two = (OutputFolder(atlas.path.resolve().parent) for atlas in (self, other))
        return dict(compare_layers(paired_layers(one, two, models, layers)))

    def search(
        self,
        text: str,
        encoder: Encoder,
        source: str = "dataset",
        most: int = 20,
        prompt: str = "{}",
    ) -> list[Match]:
        """Search channels by words, once `atlas label` has embedded them.

        Args:
            text: any words.
            encoder: the one that embedded the channels.
            source: images to compare with: `dataset` or `optimized`.
            most: number of channels.
            prompt: what the encoder is given for the text.
        Returns: channels with their scores, the best first.
        Raises:
            UserError: no channel has an embedding, or they are of another encoder.
        """
        return search(self._layers, text, encoder, source, most, prompt)

    def _repr_html_(self) -> str:
        """HTML for notebooks: the first images of each layer."""
        head = listed(f"Atlas {self.path}", map(repr, self._layers.values()))
        most = max(4, SHOWN // max(1, len(self)))
        shown = list(self._layers.values())[: SHOWN // most]
        return head + "".join(layer.contact_sheet(layer.title, most) for layer in shown)

    def __repr__(self) -> str:
        lines = [f"Atlas {self.path}"]
        return "\n".join([*lines, *(f"  {layer!r}" for layer in self._layers.values())])
