"""Evidence on a site: the photographs that a channel answers to, in one picture per channel.

A row of the strongest, below it their saliency where the atlas has it, then a row of the weakest.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.atlas.drawing import Tile, paint_tile
from layer_atlas.atlas.reader import Layer
from layer_atlas.presentation.montages.overlay import overlay
from layer_atlas.presentation.site.files import SiteFiles
from layer_atlas.presentation.site.script import numbers

_TILE = 128
_MOST = 9


def dataset_images_name(row: int) -> str:
    """The file of a channel's photographs; the browser's scripts know it too."""
    return f"photographs-{row}.jpg"


@dataclass(frozen=True)
class DatasetImages:
    """What the atlas knows of a layer's photographs."""

    layer: Layer

    @cached_property
    def rows(self) -> list[str]:
        """The rows of each picture: `top`, `saliency`, `bottom`, as far as there are any."""
        names = {"top": "top_jpeg", "saliency": "top_saliency", "bottom": "bottom_jpeg"}
        return [row for row, name in names.items() if f"dataset/{name}" in self.layer]

    @cached_property
    def across(self) -> int:
        """Photographs of the longest row."""
        names = [name for name in ("top", "bottom") if name in self.rows]
        shapes = [self.layer.dataset(f"dataset/{name}_jpeg").shape for name in names]
        return min(_MOST, max((int(shape[1]) for shape in shapes), default=0))

    def facts(self) -> dict[str, Any] | None:
        """What scripts must know of the pictures; None if there are none."""
        if not self.across:
            return None
        return {"rows": self.rows, "across": self.across, "tile": _TILE}

    def told(self, row: int) -> dict[str, Any]:
        """The photographs of a channel that there are pictures of, by their slots in a row.

        Returns: `top` and `bottom`, lists of `slot`, `path`, `score` and `salient`, whether there
            is a map; and `constant`, the response to all photographs if that is one number.
        """
        ends = [name for name in ("top", "bottom") if name in self.rows]
        slots: dict[str, Any] = {name: self._slots(name, row) for name in ends}
        return {**slots, "constant": self._constant(row)}

    def _slots(self, end: str, row: int) -> list[dict[str, Any]]:
        paths, scores = self._row(f"{end}_path", row), self._row(f"{end}_score", row)
        maps = self.layer.dataset("dataset/top_saliency").shape[1] if self._has_maps else 0
        return [
            {
                "slot": slot,
                "path": str(paths[slot], "utf-8", "replace") if slot < len(paths) else "",
                "score": numbers(scores)[slot] if slot < len(scores) else None,
                "salient": end == "top" and slot < maps,
            }
            for slot in self._filled(end, row)
        ]

    def _filled(self, end: str, row: int) -> list[int]:
        """Slots that have a picture: an unreadable photograph leaves its own empty."""
        files = self._row(f"{end}_jpeg", row)[: self.across]
        return [slot for slot, file in enumerate(files) if len(file)]

    def _row(self, name: str, row: int) -> NDArray[Any]:
        """What a dataset has of a channel, one value per photograph; nothing without it."""
        known = f"dataset/{name}" in self.layer
        return np.asarray(self.layer.dataset(f"dataset/{name}")[row]) if known else np.empty(0)

    @property
    def _has_maps(self) -> bool:
        return "saliency" in self.rows

    def _constant(self, row: int) -> float | None:
        if not {"min", "max"} <= self._extremes.keys():
            return None
        least, most = self._extremes["min"][row], self._extremes["max"][row]
        return float(least) if np.isfinite(least) and least == most else None

    @cached_property
    def _extremes(self) -> dict[str, NDArray[Any]]:
        """Smallest and largest responses of all channels (C,) to photographs."""
        names = (name for name in ("min", "max") if f"dataset/{name}" in self.layer)
        return {name: self.layer[f"dataset/{name}"] for name in names}

    def write(self, files: SiteFiles, folder: str, row: int) -> None:
        """Write the picture of a channel. Raises StorageError."""
        size = (self.across * _TILE, len(self.rows) * _TILE)
        picture = Image.new("RGB", size, (128, 128, 128))
        for down, tiles in enumerate(self._tiles(row)):
            for slot, pixels in tiles:
                left, top = slot * _TILE, down * _TILE
                paint_tile(picture, Tile((left, top, left + _TILE, top + _TILE), pixels))
        files.write_picture(f"{folder}/{dataset_images_name(row)}", picture, 80)

    def _tiles(self, row: int) -> list[list[tuple[int, NDArray[np.uint8]]]]:
        """The pictures of each row, with their slots."""
        found = {"top": self._pictures("top", row), "bottom": self._pictures("bottom", row)}
        if self._has_maps:
            maps = self.layer.dataset("dataset/top_saliency")[row]
            found["saliency"] = [
                (slot, overlay(pixels, maps[slot]))
                for slot, pixels in found["top"]
                if slot < len(maps)
            ]
        return [found[name] for name in self.rows]

    def _pictures(
        self, end: Literal["top", "bottom"], row: int
    ) -> list[tuple[int, NDArray[np.uint8]]]:
        # The reader leaves out what is empty, and so do slots.
        pictures = self.layer.dataset_images(self.layer.channels[row], end)[: self.across]
        return list(zip(self._filled(end, row), pictures, strict=False))
