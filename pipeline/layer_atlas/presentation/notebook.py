"""An atlas at work: the layers of `open_atlas`, which draw montages and find similar channels."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from PIL import Image

from layer_atlas.atlas import reader
from layer_atlas.config.config import CollateSettings
from layer_atlas.errors import UserError
from layer_atlas.presentation.layout.grid import plan_layout
from layer_atlas.presentation.layout.page import Tile
from layer_atlas.presentation.layout.pillow import FONT, SMALLEST, PillowCanvas
from layer_atlas.presentation.montages.map_picture import draw_map
from layer_atlas.presentation.similarity import nearest


class Layer(reader.Layer):
    """A layer of an atlas: C channels (targets), S seeds."""

    def montage(
        self, channels: Iterable[int] | None = None, columns: int | None = None, tile: int = 128
    ) -> Image.Image:
        """Draw the images of some channels side by side, each above its label.

        Args:
            channels: in the order in which they are shown; default: all.
            columns: default: about as many as rows.
            tile: largest side of an image in pixels.
        Raises:
            UserError: there is no such channel, or none at all.
        """
        chosen = self.channels if channels is None else list(channels)
        if not chosen:
            raise UserError(f"a montage of {self.title} needs at least one channel.")
        rows, size = [self.row(channel) for channel in chosen], self.dataset("image").shape[-3:-1]
        settings = CollateSettings(tile=tile, columns=columns)
        variants = max(1, len(self.variants))
        shown = self.sampling
        if channels is not None:
            shown = replace(shown, asked=chosen, targets=sorted(set(chosen)))
        words = shown.words()
        layout = plan_layout(len(chosen), len(self.seeds), size, settings, variants, words)
        canvas = PillowCanvas(layout.size)
        for text in layout.heading(f"{self.model.title}  ·  {self.name}", [words]):
            canvas.text(text)
        labels = [self.labels[row] for row in rows]
        letters = FONT.size(labels, layout.room, layout.letters, SMALLEST)
        for position, (channel, label) in enumerate(zip(chosen, labels, strict=True)):
            fates = {self.fate(channel, seed) for seed in self.seeds}
            for index, seed in enumerate(self.seeds):
                made = self.fate(channel, seed) not in ("failed", "missing")
                for variant in range(variants):
                    name = self.variants[variant] if self.variants else None
                    pixels = self.pixels(channel, seed, name) if made else None
                    canvas.tile(Tile(layout.tile_box(position, index, variant), pixels))
            fate = ", ".join(sorted(fates - {"ok"}))
            corner = layout.line_corner(-1, position)
            for text in layout.label(corner, label, letters, layout.room, fate=fate):
                canvas.text(text)
        return canvas.picture

    def map(self, side: int | None = None) -> Image.Image:
        """Draw the map of an activation atlas: its cells side by side, under their classes.

        Args:
            side: cells per side of the grid; default: the first grid.
        Raises:
            UserError: the layer has no such map.
        """
        first = self.grids[0] if self.has_map else 0
        return draw_map(self, first if side is None else side).picture

    def similar(self, channel: int, count: int = 8) -> dict[int, float]:
        """Find the channels whose images the layer responds to most alike, the most similar first.

        The similarity is the cosine between the layer's standardized responses to their images.

        Args:
            channel: its index.
            count: number of channels, 12 at most.
        Returns: cosines by channel; empty for objectives without responses of channels.
        Raises:
            UserError: there is no such channel.
        """
        row = self.row(channel)
        rows, cosines = nearest(self, self.leads())
        pairs = zip(rows[row, :count].tolist(), cosines[row, :count].tolist(), strict=True)
        return {self.channels[other]: cosine for other, cosine in pairs}


class Atlas(reader.Atlas):
    """Layers by their title `model/layer`, in the order of the plan.

    Where there is one model, the name of a layer suffices: `atlas["features.12"]`.
    """

    layer_type: ClassVar[type[reader.Layer]] = Layer

    def __getitem__(self, title: str) -> Layer:
        """The layer of a title. Raises UserError with the nearest titles if there is none."""
        layer = super().__getitem__(title)
        assert isinstance(layer, Layer)
        return layer


def open_atlas(path: str | Path) -> Atlas:
    """Open an atlas for reading.

    Args:
        path: an `atlas.h5`, the output folder that contains it, a file or folder in that, or a
            folder of output folders that contains a single atlas.
    Raises:
        UserError: there is none, it is no atlas, or there are several; names those there.
    """
    return reader.read_atlas(path, Atlas)
