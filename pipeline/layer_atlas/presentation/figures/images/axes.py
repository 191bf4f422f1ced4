"""Which image stands where: two axes of the atlas become rows and columns, the others sections."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.reader import Layer
from layer_atlas.config.figures import Axis, ImagesFigure
from layer_atlas.errors import UserError, unknown
from layer_atlas.presentation.figures.selection.choose import Selection

_REMEDIES = {"variants": "objective.sign=both", "steps": "snapshots=4"}


@dataclass(frozen=True)
class ImageRef:
    """One image of an atlas."""

    layer: Layer
    channel: int
    seed: int
    variant: str | None = None
    step: int | None = None

    @property
    def pixels(self) -> NDArray[np.uint8] | None:
        """The image (H, W, colours); `None` if it was not made."""
        if self.fate in ("failed", "missing"):
            return None
        return self.layer.image(self.channel, self.seed, self.variant, self.step)

    @property
    def fate(self) -> str:
        """What became of it: ok, dead, silent, diverged, failed, missing."""
        return self.layer.fate(self.channel, self.seed)

    @property
    def label(self) -> str:
        """What its channel is called."""
        return self.layer.labels[self.layer.row(self.channel)]


Line = tuple[ImageRef | None, ...]
"""Images in a row; `None`: there is no such image."""


@dataclass(frozen=True)
class Block:
    """Lines of a section, and what all of them are of."""

    layer: Layer | None
    """`None`: of several."""
    rank: int | None
    """Of the channel among those chosen; `None`: of several."""
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class _At:
    """A place along the axes; `None` where it is not yet known."""

    model: str | None = None
    layer: str | None = None
    rank: int | None = None
    """Of the channel among those chosen of its layer."""
    seed: int | None = None
    variant: str | None = None
    step: int | None = None


class Axes:
    """Rows and columns of a figure.

    Raises:
        UserError: several things would have to be in one place, or an axis has nothing along it.
    """

    def __init__(self, chosen: Sequence[Selection], settings: ImagesFigure) -> None:
        self.chosen, self.settings = chosen, settings
        self.used = {settings.rows, settings.columns}
        self._check_values()
        self._check_channels()
        self._check_models()

    def _check_values(self) -> None:
        for axis in ("seeds", "variants", "steps"):
            several = getattr(self.settings, axis)
            if axis not in self.used and several and len(several) > 1:
                raise UserError(
                    f"figure.{axis} names {len(several)}, but neither rows nor columns are {axis}: "
                    f"take figure.columns={axis}, or one of them."
                )

    def _check_channels(self) -> None:
        many = max(len(chosen.channels) for chosen in self.chosen)
        if "channels" not in self.used and self.used & {"layers", "models"} and many > 1:
            raise UserError(
                f"figure.channels selects {many} channels of a layer, but neither rows nor columns "
                "are channels: choose one, such as figure.channels={top: 1}."
            )

    def _check_models(self) -> None:
        models = [chosen.layer.model.name for chosen in self.chosen]
        twice = next((model for model in models if models.count(model) > 1), None)
        if twice is not None and "models" in self.used and "layers" not in self.used:
            raise UserError(
                f"model {twice!r} has several layers, but neither rows nor columns are layers: "
                "choose one of each model by figure.layers."
            )

    @cached_property
    def blocks(self) -> list[Block]:
        """Every section: of a layer, if those are no axis, and of a channel likewise."""
        return [self._block(*start) for start in self._starts()]

    def _starts(self) -> Iterator[tuple[Selection | None, int | None]]:
        spread = self.used & {"layers", "models"}
        for chosen in [None] if spread else self.chosen:
            if "channels" in self.used or chosen is None:
                yield chosen, None
            else:
                yield from ((chosen, rank) for rank in range(len(chosen.channels)))

    def _block(self, chosen: Selection | None, rank: int | None) -> Block:
        start = _At(rank=rank)
        if chosen is not None:
            start = replace(start, model=chosen.layer.model.name, layer=chosen.layer.name)
        rows, columns = self.settings.rows, self.settings.columns
        lines = tuple(
            tuple(self._shot(at) for at in self._along(columns, row))
            for row in self._along(rows, start)
        )
        return Block(chosen.layer if chosen else None, rank, lines)

    def _along(self, axis: Axis | None, at: _At) -> Iterator[_At]:
        """A place moved along an axis."""
        if axis is None:
            yield at
        elif axis == "models":
            models = dict.fromkeys(chosen.layer.model.name for chosen in self.chosen)
            yield from (replace(at, model=model) for model in models)
        elif axis == "layers":
            yield from self._along_layers(at)
        elif axis == "channels":
            many = max(len(chosen.channels) for chosen in self._at(at))
            yield from (replace(at, rank=rank) for rank in range(many))
        else:
            name = axis.removesuffix("s")
            yield from (replace(at, **{name: value}) for value in self._values(axis))

    def _along_layers(self, at: _At) -> Iterator[_At]:
        """Layers, each of its model; by name alone where models are the other axis."""
        layers = [chosen.layer for chosen in self.chosen]
        if "models" in self.used:
            yield from (replace(at, layer=name) for name in dict.fromkeys(x.name for x in layers))
        else:
            yield from (replace(at, model=x.model.name, layer=x.name) for x in layers)

    def _at(self, at: _At) -> list[Selection]:
        """The layers that a place may be of."""
        return [
            chosen
            for chosen in self.chosen
            if at.model in (None, chosen.layer.model.name) and at.layer in (None, chosen.layer.name)
        ]

    def _values(self, axis: str) -> Sequence[Any]:
        """The seeds, variants or steps that are asked for, or all that there are."""
        layer = self.chosen[0].layer
        known: list[Any] = getattr(layer, axis)
        if not known:
            raise UserError(
                f"{layer.title} has no {axis}: they come of, for instance, {_REMEDIES[axis]}."
            )
        for value in getattr(self.settings, axis) or ():
            if value not in known:
                raise unknown(f"figure.{axis} of {layer.title}", value, map(str, known))
        return getattr(self.settings, axis) or known

    def _shot(self, at: _At) -> ImageRef | None:
        """The image at a place; what is not told of it goes without saying."""
        chosen = next(iter(self._at(at)), None)
        rank = at.rank or 0
        if chosen is None or rank >= len(chosen.channels):
            return None
        shown, channel = chosen.shown, chosen.channels[rank]
        seed = shown.seed_of(channel) if at.seed is None else at.seed
        variant = at.variant or shown.variant
        step = (self.settings.steps or (None,))[0] if at.step is None else at.step
        return ImageRef(chosen.layer, channel, seed, variant, step)
