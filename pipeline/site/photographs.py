"""Evidence on a site: the photographs that a channel answers to, in one picture per channel.

A row of the strongest, below it their saliency where the atlas has it, then a row of the weakest.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.collate.drawing import Tile, paint_tile
from pipeline.collate.overlay import overlay
from pipeline.reader import Layer
from pipeline.site.files import SiteFiles
from pipeline.site.script import numbers

_TILE = 128
_MOST = 9


def photographs_name(row: int) -> str:
    """The file of a channel's photographs; the browser's scripts know it too."""
    return f"photographs-{row}.jpg"


@dataclass(frozen=True)
class Photographs:
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
        """Paths and scores of a channel's photographs, as many as there are pictures of."""
        told: dict[str, Any] = {}
        for name in ("top", "bottom"):
            if name not in self.rows:
                continue
            files = self.layer.dataset(f"dataset/{name}_jpeg")[row][: self.across]
            told[name] = {"count": sum(len(file) > 0 for file in files)}
            if f"dataset/{name}_path" in self.layer:
                paths = self.layer.dataset(f"dataset/{name}_path").asstr()[row][: self.across]
                told[name]["path"] = list(map(str, paths))
            if f"dataset/{name}_score" in self.layer:
                score = self.layer.dataset(f"dataset/{name}_score")[row][: self.across]
                told[name]["score"] = numbers(score)
        return told

    def write(self, files: SiteFiles, folder: str, row: int) -> None:
        """Write the picture of a channel. Raises StorageError."""
        size = (self.across * _TILE, len(self.rows) * _TILE)
        picture = Image.new("RGB", size, (128, 128, 128))
        for down, tiles in enumerate(self._tiles(row)):
            for across, pixels in enumerate(tiles[: self.across]):
                left, top = across * _TILE, down * _TILE
                paint_tile(picture, Tile((left, top, left + _TILE, top + _TILE), pixels))
        files.write_picture(f"{folder}/{photographs_name(row)}", picture, 80)

    def _tiles(self, row: int) -> list[list[NDArray[np.uint8]]]:
        channel = self.layer.channels[row]
        top = self.layer.photographs(channel)
        found = {"top": top}
        if "saliency" in self.rows:
            maps = self.layer.dataset("dataset/top_saliency")[row]
            found["saliency"] = [overlay(*each) for each in zip(top, maps, strict=False)]
        if "bottom" in self.rows:
            found["bottom"] = self.layer.photographs(channel, "bottom")
        return [found[name] for name in self.rows]
