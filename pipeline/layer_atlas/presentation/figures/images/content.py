"""What a figure of images says: sections of strips, their titles, labels, headings and brackets."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from layer_atlas.config.figures import Axis, ImagesFigure
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.images.axes import Axes, Block, ImageRef, Line
from layer_atlas.presentation.figures.selection.choose import Selection
from layer_atlas.presentation.figures.selection.layer_data import LayerData

MARKS = {"dead": "†", "silent": "‡", "diverged": "*"}
"""Behind the label of an image that is not what it should be."""

_PHOTOGRAPHS = 4
"""Shown of each channel unless other numbers are asked for."""


Words = tuple[str, ...]
"""What is written under an image, line by line."""


@dataclass(frozen=True)
class ImageRow:
    """Images in a row."""

    label: str
    """To the left."""
    shots: Line
    words: tuple[Words, ...]
    """Below each image: what its column does not tell."""
    broken_words: tuple[Words, ...]
    """The same where columns have no headings, because strips are broken into lines."""
    group: str
    """A bracket holds neighbours of one group together."""


@dataclass(frozen=True)
class Section:
    """Strips under a title."""

    title: str
    headings: tuple[str, ...]
    """Of the columns; none where what is in them differs from strip to strip."""
    groups: tuple[str, ...]
    """Of the columns, likewise: a bracket holds neighbours of one group together."""
    strips: tuple[ImageRow, ...]


class Content:
    """All words and images of a figure.

    Raises:
        UserError: what is asked for is not in the atlas, or is more than two axes can show.
    """

    def __init__(self, chosen: Sequence[Selection], settings: ImagesFigure) -> None:
        self.chosen, self.settings = chosen, settings
        self._axes = Axes(chosen, settings)
        self._told: dict[str, NDArray[Any]] = {}

    @cached_property
    def sections(self) -> list[Section]:
        """What is shown."""
        return [self._section(block) for block in self._axes.blocks]

    @property
    def shots(self) -> list[ImageRef]:
        """Every image."""
        strips = (strip for section in self.sections for strip in section.strips)
        return [shot for strip in strips for shot in strip.shots if shot]

    @cached_property
    def dataset_images(self) -> int:
        """How many photographs stand beside each channel."""
        settings = self.settings
        if settings.rows != "channels" or settings.columns in ("layers", "models"):
            return 0
        found = (c.layer.dataset(_JPEG).shape[1] for c in self.chosen if _JPEG in c.layer)
        return min(
            max(found, default=0),
            _PHOTOGRAPHS if settings.dataset_images is None else settings.dataset_images,
        )

    def _section(self, block: Block) -> Section:
        headings = self._headings(block)
        columns = (self.settings.columns,) if self.settings.columns else ()
        labels, groups = self._labels(block), self._groups(block.lines, self.settings.rows)
        none = ("",) * len(block.lines)
        # What neither a label nor a heading can tell is written under each image.
        untold = () if labels else (self.settings.rows,)
        strips = tuple(
            ImageRow(
                label,
                line,
                words=tuple(self._words(s, untold if headings else columns + untold) for s in line),
                broken_words=tuple(self._words(shot, columns + untold) for shot in line),
                group=group,
            )
            for line, label, group in zip(block.lines, labels or none, groups or none, strict=True)
        )
        column_groups = self._groups(_columns(block), self.settings.columns)
        return Section(self._title(block), headings, column_groups, strips)

    def _title(self, block: Block) -> str:
        """What the images of a section have in common, if there are other sections."""
        if len(self._axes.blocks) == 1:
            return ""
        parts = []
        if block.layer is not None and len(self.chosen) > 1:
            parts += [block.layer.model.name] if self._several_models else []
            parts.append(block.layer.name)
        shot = next((shot for line in block.lines for shot in line if shot), None)
        if block.rank is not None and shot is not None:
            parts.append(f"channel {shot.label}")
        return "  ·  ".join(parts)

    def _headings(self, block: Block) -> tuple[str, ...]:
        """What the images of each column have in common, if those of every column do."""
        axis = self.settings.columns
        return _in_common(_columns(block), lambda shot: name_along(axis, shot)) if axis else ()

    def _labels(self, block: Block) -> tuple[str, ...]:
        """What the images of each row have in common, if those of every row do."""
        axis = self.settings.rows
        if self.settings.columns is None:
            return ()
        return _in_common(block.lines, lambda shot: name_along(axis, shot))

    def _words(self, shot: ImageRef | None, axes: Sequence[Axis]) -> Words:
        """What is written under an image: its names along axes, its fate, a statistic."""
        if shot is None or not self.settings.labels:
            return ()
        names = [name_along(axis, shot) for axis in axes] or [""]
        names[-1] += MARKS.get(shot.fate, "")
        return tuple(filter(None, (*names, self._tell(shot))))

    def _tell(self, shot: ImageRef) -> str:
        name, layer = self.settings.tell, shot.layer
        if name is None:
            return ""
        if layer.title not in self._told:
            LayerData(layer).values(name)  # complains of what is no statistic
            self._told[layer.title] = layer[name]
        values = self._told[layer.title]
        place = layer.place(shot.channel, shot.seed, shot.variant)
        return short_number(float(values[place[: values.ndim]]))

    def _groups(self, lines: Sequence[Line], axis: Axis | None) -> tuple[str, ...]:
        """The bracket of each line along an axis: of a group, or of a model; empty: there is none.

        Raises UserError where images of one line are in different groups.
        """
        if axis is None:
            return ()
        groups = _in_common(lines, lambda shot: self._group(shot, axis))
        if self._bracketed and axis == "channels" and not groups:
            raise UserError(
                "brackets along channels of several layers hold as many in each, and these do not: "
                "choose one layer by figure.layers, or other groups."
            )
        return groups if any(groups) else ()

    def _group(self, shot: ImageRef, axis: Axis) -> str:
        if axis == "layers" and self._several_models and "models" not in self._axes.used:
            return shot.layer.model.name
        if axis == "channels":
            return self._bracketed.get((shot.layer.title, shot.channel), "")
        return ""

    @cached_property
    def _several_models(self) -> bool:
        return len({chosen.layer.model.name for chosen in self.chosen}) > 1

    @cached_property
    def _bracketed(self) -> dict[tuple[str, int], str]:
        """The group of each channel."""
        return {
            (chosen.layer.title, channel): group
            for chosen in self.chosen
            for group, channels in chosen.members.items()
            for channel in channels
        }


def _columns(block: Block) -> list[Line]:
    wide = max(map(len, block.lines))
    return [tuple(line[i] for line in block.lines if i < len(line)) for i in range(wide)]


def _in_common(lines: Sequence[Line], tell: Callable[[ImageRef], str]) -> tuple[str, ...]:
    """What is the same of all images of a line, line by line; nothing if any line lacks that."""
    found = [{tell(shot) for shot in line if shot} for line in lines]
    return tuple(names.pop() for names in found) if all(len(n) == 1 for n in found) else ()


def short_number(value: float) -> str:
    """A number in three digits or, if it is large, in whole ones.

    >>> short_number(0.79), short_number(1234.5)
    ('0.790', '1234')
    """
    return f"{value:#.3g}" if abs(value) < 100 else f"{value:.0f}"


def name_along(axis: Axis, shot: ImageRef) -> str:
    """What an image is called along an axis."""
    names = {
        "models": shot.layer.model.name,
        "layers": shot.layer.name,
        "channels": shot.label,
        "seeds": f"seed {shot.seed}",
        "steps": f"step {shot.step}",
    }
    if axis in names:
        return names[axis]
    variant = str(shot.variant)
    return f"image {variant}" if variant.isdigit() else variant


_JPEG = "dataset/top_jpeg"
