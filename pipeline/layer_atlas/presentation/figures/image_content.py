"""The content of a figure of images: the image of each place, and the texts around it.

Two axes of the atlas become rows and columns, the others become sections.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.reader import Layer
from layer_atlas.config.outputs import Axis, ImagesFigure
from layer_atlas.errors import UserError, unknown
from layer_atlas.presentation.figures.selection import LayerData, Selection

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
        return self.layer.pixels(self.channel, self.seed, self.variant, self.step)

    @property
    def fate(self) -> str:
        """Fate of the image: ok, dead, silent, diverged, failed, missing."""
        return self.layer.fate(self.channel, self.seed)

    @property
    def label(self) -> str:
        """Label of its channel."""
        return self.layer.labels[self.layer.row(self.channel)]


Line = tuple[ImageRef | None, ...]
"""Images in a row; `None`: there is no such image."""


@dataclass(frozen=True)
class Block:
    """Lines of a section, with the layer and the channel that all of them share."""

    layer: Layer | None
    """`None`: several layers."""
    rank: int | None
    """Index of the channel among those chosen; `None`: several channels."""
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class _At:
    """A place along the axes; `None` where it is not decided yet."""

    model: str | None = None
    layer: str | None = None
    rank: int | None = None
    """Index of the channel among those chosen of its layer."""
    seed: int | None = None
    variant: str | None = None
    step: int | None = None


class ImageAxes:
    """Rows and columns of a figure.

    Raises:
        UserError: several things would have to be in one place, or an axis has nothing along it.
    """

    def __init__(self, selections: Sequence[Selection], settings: ImagesFigure) -> None:
        self.selections, self.settings = selections, settings
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
        many = max(len(selection.channels) for selection in self.selections)
        if "channels" not in self.used and self.used & {"layers", "models"} and many > 1:
            raise UserError(
                f"figure.channels selects {many} channels of a layer, but neither rows nor columns "
                "are channels: choose one, such as figure.channels={top: 1}."
            )

    def _check_models(self) -> None:
        models = [selection.layer.model.name for selection in self.selections]
        twice = next((model for model in models if models.count(model) > 1), None)
        if twice is not None and "models" in self.used and "layers" not in self.used:
            raise UserError(
                f"model {twice!r} has several layers, but neither rows nor columns are layers: "
                "choose one of each model by figure.layers."
            )

    @cached_property
    def blocks(self) -> list[Block]:
        """All sections: one per layer if layers are no axis, and one per channel likewise."""
        return [self._block(*start) for start in self._starts()]

    def _starts(self) -> Iterator[tuple[Selection | None, int | None]]:
        spread = self.used & {"layers", "models"}
        for selection in [None] if spread else self.selections:
            if "channels" in self.used or selection is None:
                yield selection, None
            else:
                yield from ((selection, rank) for rank in range(len(selection.channels)))

    def _block(self, selection: Selection | None, rank: int | None) -> Block:
        start = _At(rank=rank)
        if selection is not None:
            start = replace(start, model=selection.layer.model.name, layer=selection.layer.name)
        rows, columns = self.settings.rows, self.settings.columns
        lines = tuple(
            tuple(self._shot(at) for at in self._along(columns, row))
            for row in self._along(rows, start)
        )
        return Block(selection.layer if selection else None, rank, lines)

    def _along(self, axis: Axis | None, at: _At) -> Iterator[_At]:
        """Yield the places along an axis that begin at a place."""
        if axis is None:
            yield at
        elif axis == "models":
            models = dict.fromkeys(selection.layer.model.name for selection in self.selections)
            yield from (replace(at, model=model) for model in models)
        elif axis == "layers":
            yield from self._along_layers(at)
        elif axis == "channels":
            many = max(len(selection.channels) for selection in self._at(at))
            yield from (replace(at, rank=rank) for rank in range(many))
        else:
            name = axis.removesuffix("s")
            yield from (replace(at, **{name: value}) for value in self._values(axis))

    def _along_layers(self, at: _At) -> Iterator[_At]:
        """Layers, each of its model; by name alone where models are the other axis."""
        layers = [selection.layer for selection in self.selections]
        if "models" in self.used:
            yield from (replace(at, layer=name) for name in dict.fromkeys(x.name for x in layers))
        else:
            yield from (replace(at, model=x.model.name, layer=x.name) for x in layers)

    def _at(self, at: _At) -> list[Selection]:
        """The selections whose layer may be at a place."""
        return [
            selection
            for selection in self.selections
            if at.model in (None, selection.layer.model.name)
            and at.layer in (None, selection.layer.name)
        ]

    def _values(self, axis: str) -> Sequence[Any]:
        """The seeds, variants or steps that are requested, or all of the layer."""
        layer = self.selections[0].layer
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
        """The image at a place; axes without a value take the default."""
        selection = next(iter(self._at(at)), None)
        rank = at.rank or 0
        if selection is None or rank >= len(selection.channels):
            return None
        data, channel = selection.data, selection.channels[rank]
        seed = data.seed_of(channel) if at.seed is None else at.seed
        variant = at.variant or data.variant
        step = (self.settings.steps or (None,))[0] if at.step is None else at.step
        return ImageRef(selection.layer, channel, seed, variant, step)


MARKS = {"dead": "†", "silent": "‡", "diverged": "*"}
"""Marks behind the labels of images with these fates."""

_DATASET_IMAGES = 4
"""Dataset images of each channel unless another number is requested."""


Texts = tuple[str, ...]
"""Texts below an image, line by line."""


@dataclass(frozen=True)
class ImageRow:
    """Images in a row."""

    label: str
    """Text to the left."""
    images: Line
    texts: tuple[Texts, ...]
    """Texts below each image that its column's heading does not hold."""
    broken_texts: tuple[Texts, ...]
    """Texts where columns have no headings, because strips are broken into lines."""
    group: str
    """A bracket holds neighbours of one group together."""


@dataclass(frozen=True)
class Section:
    """Strips under a title."""

    title: str
    headings: tuple[str, ...]
    """Headings of columns; empty where the content of a column differs between strips."""
    groups: tuple[str, ...]
    """Groups of columns, likewise: a bracket holds neighbours of one group together."""
    strips: tuple[ImageRow, ...]


class Content:
    """All texts and images of a figure.

    Raises:
        UserError: the atlas lacks what the settings name, or is more than two axes can show.
    """

    def __init__(self, selections: Sequence[Selection], settings: ImagesFigure) -> None:
        self.selections, self.settings = selections, settings
        self._axes = ImageAxes(selections, settings)
        self._statistics: dict[str, NDArray[Any]] = {}

    @cached_property
    def sections(self) -> list[Section]:
        """All sections."""
        return [self._section(block) for block in self._axes.blocks]

    @property
    def images(self) -> list[ImageRef]:
        """Every image."""
        strips = (strip for section in self.sections for strip in section.strips)
        return [image for strip in strips for image in strip.images if image]

    @cached_property
    def dataset_images(self) -> int:
        """Number of dataset images beside each channel."""
        settings = self.settings
        if settings.rows != "channels" or settings.columns in ("layers", "models"):
            return 0
        counts = (c.layer.dataset(_JPEG).shape[1] for c in self.selections if _JPEG in c.layer)
        return min(
            max(counts, default=0),
            _DATASET_IMAGES if settings.dataset_images is None else settings.dataset_images,
        )

    def _section(self, block: Block) -> Section:
        headings = self._headings(block)
        columns = (self.settings.columns,) if self.settings.columns else ()
        labels, groups = self._labels(block), self._groups(block.lines, self.settings.rows)
        none = ("",) * len(block.lines)
        # Names that are in no label and no heading stand below each image.
        unlabelled = () if labels else (self.settings.rows,)
        strips = tuple(
            ImageRow(
                label,
                line,
                texts=tuple(
                    self._texts(s, unlabelled if headings else columns + unlabelled) for s in line
                ),
                broken_texts=tuple(self._texts(image, columns + unlabelled) for image in line),
                group=group,
            )
            for line, label, group in zip(block.lines, labels or none, groups or none, strict=True)
        )
        column_groups = self._groups(_columns(block), self.settings.columns)
        return Section(self._title(block), headings, column_groups, strips)

    def _title(self, block: Block) -> str:
        """Title that distinguishes a section from others; empty if it is the only one."""
        if len(self._axes.blocks) == 1:
            return ""
        parts = []
        if block.layer is not None and len(self.selections) > 1:
            parts += [block.layer.model.name] if self._several_models else []
            parts.append(block.layer.reader_name)
        image = next((image for line in block.lines for image in line if image), None)
        if block.rank is not None and image is not None:
            parts.append(f"channel {image.label}")
        return "  ·  ".join(parts)

    def _headings(self, block: Block) -> tuple[str, ...]:
        """Name that the images of each column share; empty unless those of every column do."""
        axis = self.settings.columns
        return _in_common(_columns(block), lambda image: name_along(axis, image)) if axis else ()

    def _labels(self, block: Block) -> tuple[str, ...]:
        """Name that the images of each row share; empty unless those of every row do."""
        axis = self.settings.rows
        if self.settings.columns is None:
            return ()
        return _in_common(block.lines, lambda image: name_along(axis, image))

    def _texts(self, image: ImageRef | None, axes: Sequence[Axis]) -> Texts:
        """Texts below an image: its names along axes, a mark for its fate, a statistic."""
        if image is None or not self.settings.labels:
            return ()
        names = [name_along(axis, image) for axis in axes] or [""]
        names[-1] += MARKS.get(image.fate, "")
        return tuple(filter(None, (*names, self._statistic(image))))

    def _statistic(self, image: ImageRef) -> str:
        name, layer = self.settings.tell, image.layer
        if name is None:
            return ""
        if layer.title not in self._statistics:
            LayerData(layer).values(name)  # complains of what is no statistic
            self._statistics[layer.title] = layer[name]
        values = self._statistics[layer.title]
        index = layer.place(image.channel, image.seed, image.variant)
        return short_number(float(values[index[: values.ndim]]))

    def _groups(self, lines: Sequence[Line], axis: Axis | None) -> tuple[str, ...]:
        """The bracket of each line along an axis: of a group, or of a model; empty: there is none.

        Raises UserError where images of one line are in different groups.
        """
        if axis is None:
            return ()
        groups = _in_common(lines, lambda image: self._group(image, axis))
        if self._bracketed and axis == "channels" and not groups:
            raise UserError(
                "brackets along channels of several layers hold as many in each, and these do not: "
                "choose one layer by figure.layers, or other groups."
            )
        return groups if any(groups) else ()

    def _group(self, image: ImageRef, axis: Axis) -> str:
        if axis == "layers" and self._several_models and "models" not in self._axes.used:
            return image.layer.model.name
        if axis == "channels":
            return self._bracketed.get((image.layer.title, image.channel), "")
        return ""

    @cached_property
    def _several_models(self) -> bool:
        return len({selection.layer.model.name for selection in self.selections}) > 1

    @cached_property
    def _bracketed(self) -> dict[tuple[str, int], str]:
        """The group of each channel."""
        return {
            (selection.layer.title, channel): group
            for selection in self.selections
            for group, channels in selection.members.items()
            for channel in channels
        }


def _columns(block: Block) -> list[Line]:
    wide = max(map(len, block.lines))
    return [tuple(line[i] for line in block.lines if i < len(line)) for i in range(wide)]


def _in_common(lines: Sequence[Line], name: Callable[[ImageRef], str]) -> tuple[str, ...]:
    """The value that all images of a line share, line by line; empty if any line has several."""
    names = [{name(image) for image in line if image} for line in lines]
    return tuple(n.pop() for n in names) if all(len(n) == 1 for n in names) else ()


def short_number(value: float) -> str:
    """A number in three digits or, if it is large, in whole ones.

    >>> short_number(0.79), short_number(1234.5)
    ('0.790', '1234')
    """
    return f"{value:#.3g}" if abs(value) < 100 else f"{value:.0f}"


def name_along(axis: Axis, image: ImageRef) -> str:
    """Name of an image along an axis."""
    names = {
        "models": image.layer.model.name,
        "layers": image.layer.reader_name,
        "channels": image.label,
        "seeds": f"seed {image.seed}",
        "steps": f"step {image.step}",
    }
    if axis in names:
        return names[axis]
    variant = str(image.variant)
    return f"image {variant}" if variant.isdigit() else variant


_JPEG, _BOX = "dataset/top_jpeg", "dataset/top_view_box"


def dataset_images_of(layer: Layer, channel: int, crop: bool) -> list[NDArray[np.uint8]]:
    """The strongest dataset images (H, W, 3) of a channel, the strongest first.

    Args:
        layer: the layer.
        channel: the channel.
        crop: whether to show the receptive field of the largest response alone, as far as it lies
            within the image.
    Raises:
        UserError: the atlas has no receptive fields.
    """
    images = layer.dataset_images(channel)
    if not crop:
        return images
    if _BOX not in layer:
        raise UserError(
            f"the atlas has no receptive fields of {layer.title}: take figure.crop=false."
        )
    boxes = layer.dataset(_BOX)[layer.row(channel)]
    return [_cropped(pixels, box) for pixels, box in zip(images, boxes, strict=False)]


def _cropped(pixels: NDArray[np.uint8], box: NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
    """The part of an image within a box: left, top, right, bottom, the last two outside."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = box.clip(0, (width, height, width, height)).tolist()
    # An empty box stands for a field that is not known.
    return pixels[top:bottom, left:right] if left < right and top < bottom else pixels
