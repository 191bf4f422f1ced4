"""Comparison figures: channels of two models side by side, by how alike they respond to images."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from layer_atlas.atlas.comparison import SCHEMA
from layer_atlas.atlas.layers import groups
from layer_atlas.atlas.reader import Atlas, Layer, open_atlas
from layer_atlas.config.outputs import ComparisonFigure, FigureSettings, ImagesFigure
from layer_atlas.config.recipe import Recipe
from layer_atlas.config.records import build
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.image_content import Content, ImageRef, ImageRow, Section
from layer_atlas.presentation.figures.image_figure import draw_page, grid_of
from layer_atlas.presentation.figures.methods import network_caption
from layer_atlas.presentation.figures.selection import (
    LayerData,
    RenderedFigure,
    Selection,
    chosen_layers,
)
from layer_atlas.presentation.layout.figure import FigureCanvas, PageSpec


@dataclass(frozen=True)
class ComparedChannels:
    """A layer in both models, with the similarity of its K channels."""

    one: LayerData
    other: LayerData
    images: int
    """Number of dataset images that both saw."""
    similarity: NDArray[np.float32]
    match: NDArray[np.int64]
    match_similarity: NDArray[np.float32]

    @cached_property
    def shown(self) -> list[int]:
        """Channels that both atlases have and that have a similarity, the lowest first."""
        both = set(self.one.layer.channels) & set(self.other.layer.channels)
        order = np.argsort(self.similarity, kind="stable").tolist()
        return [k for k in order if k in both and np.isfinite(self.similarity[k])]

    def row(self, channel: int) -> ImageRow:
        """The channel in both models, and its match in the other one if that has an image."""
        match = int(self.match[channel])
        matched = _image(self.other, match) if match in self.other.layer.channels else None
        images = (_image(self.one, channel), _image(self.other, channel), matched)
        texts = (
            (),
            (_correlation(self.similarity[channel]),),
            (f"{match}: {_correlation(self.match_similarity[channel])}",) if match >= 0 else (),
        )
        label = self.one.layer.labels[self.one.layer.row(channel)]
        return ImageRow(label, images, texts, texts, "")


def _correlation(value: float) -> str:
    return f"{round(float(value), 2) + 0.0:.2f}"  # never a negative zero


def _image(data: LayerData, channel: int) -> ImageRef:
    variant = data.layer.variants[0] if data.layer.variants else None
    return ImageRef(data.layer, channel, data.seed_of(channel), variant)


class ComparisonContent(Content):
    """Sections of a comparison: the channels of each layer that changed most, then least."""

    def __init__(
        self,
        compared: Sequence[ComparedChannels],
        settings: ComparisonFigure,
        titles: Sequence[str],
    ) -> None:
        shared = {f.name: getattr(settings, f.name) for f in fields(FigureSettings)}
        # Two atlases are no axis of one: columns that a figure of images lays out likewise.
        layout = ImagesFigure(
            **{**shared, "name": "images"}, rows="channels", columns="variants", dataset_images=0
        )
        selections = [
            Selection(layer.one, tuple(_chosen(layer, settings)[0] + _chosen(layer, settings)[1]))
            for layer in compared
        ]
        super().__init__(selections, layout)
        self._compared, self._comparison, self._titles = compared, settings, titles

    @cached_property
    def sections(self) -> list[Section]:
        """Two sections per layer, as far as they have channels."""
        one, other = self._titles
        headings = (one, other, "best match")
        return [
            Section(
                f"{layer.one.layer.reader_name}  ·  {words}",
                headings,
                (),
                tuple(map(layer.row, channels)),
            )
            for layer in self._compared
            for words, channels in zip(
                ("changed most", "changed least"), _chosen(layer, self._comparison), strict=True
            )
            if channels
        ]


def _chosen(layer: ComparedChannels, settings: ComparisonFigure) -> tuple[list[int], list[int]]:
    """The channels that changed most, and those of the others that changed least."""
    most = layer.shown[: settings.most]
    rest = layer.shown[len(most) :]
    return most, rest[::-1][: settings.least]


def draw_comparison(atlas: Atlas, settings: ComparisonFigure) -> RenderedFigure:
    """Channels of two models side by side, with their similarity.

    Raises:
        UserError: there is no comparison, or it is not of this atlas.
    """
    path = _comparison_file(atlas.path.parent / "figures", settings.path)
    stack = ExitStack()
    file = stack.enter_context(_opened(path))
    titles = str(file.attrs["one"]), str(file.attrs["other"])
    folder = atlas.path.resolve().parent / str(file.attrs["other_folder"])
    same = folder.resolve() == atlas.path.resolve().parent
    other = atlas if same else stack.enter_context(open_atlas(folder))
    compared = list(_layers(file, atlas, other, settings))
    if not any(layer.shown for layer in compared):
        raise UserError(
            f"no layer of {path.name!r} has images of the same channels in both atlases: choose "
            "others by figure.layers, or run both with the same channels."
        )
    content = ComparisonContent([x for x in compared if x.shown], settings, titles)
    caption = " ".join(_caption(content, compared, titles))
    spec = PageSpec(settings, caption)
    grid = grid_of(content, spec)

    def pages() -> Iterator[FigureCanvas]:
        with stack:  # pictures are read while pages are drawn
            for number in range(len(grid.pages)):
                yield draw_page(content, spec, grid, number)

    methods = tuple(_methods(compared, titles, settings))
    return RenderedFigure(pages(), caption, methods, tuple(content.selections))


def _comparison_file(figures: Path, name: str | None) -> Path:
    """Find the file of a comparison. Raises UserError if there is none, or several."""
    if name is not None:
        found = [path for path in (figures / name, Path(name).expanduser()) if path.is_file()]
        there = f"figure.path={name!r} is no file"
    else:
        found = sorted(figures.glob("compare-*.h5"))
        there = f"there is no comparison in {str(figures)!r}"
    if not found:
        raise UserError(f"{there}; `atlas compare A B` makes one.")
    if name is None and len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"there are several comparisons: choose one by figure.path: {names}.")
    return found[0]


def _opened(path: Path) -> h5py.File:
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise UserError(f"{str(path)!r} is no readable comparison: {error}.") from error
    if file.attrs.get("schema") != SCHEMA:
        file.close()
        raise UserError(f"{str(path)!r} is no comparison of schema {SCHEMA!r}.")
    return file


def _layers(
    file: h5py.File, atlas: Atlas, other: Atlas, settings: ComparisonFigure
) -> Iterator[ComparedChannels]:
    """Yield the chosen layers of an atlas that the file compares with another atlas."""
    chosen = {layer.title: layer for layer in chosen_layers(atlas, settings)}
    found: list[h5py.Group] = []
    # A group of several models is one of groups.
    for group in groups(file):
        found += [group] if "similarity" in group else list(groups(group))
    for group in found:
        name = str(group.attrs["layer"])
        layer = chosen.get(f"{group.attrs['one']}/{name}")
        counterpart = f"{group.attrs['other']}/{name}"
        if layer is not None and counterpart in other:
            yield _compared(group, layer, other[counterpart])


def _compared(group: h5py.Group, one: Layer, other: Layer) -> ComparedChannels:
    numbers = (group[name][()] for name in ("similarity", "match", "match_similarity"))
    return ComparedChannels(LayerData(one), LayerData(other), int(group.attrs["images"]), *numbers)


def _caption(
    content: ComparisonContent, compared: Sequence[ComparedChannels], titles: tuple[str, str]
) -> Iterator[str]:
    one, other = titles
    names = ", ".join(layer.one.layer.reader_name for layer in compared if layer.shown)
    images = ", ".join(map(str, sorted({layer.images for layer in compared})))
    yield f"Feature visualizations of channels of {names} in {one} and {other}."
    yield f"Rows are channels; columns are {one}, {other} and the best match in {other}."
    yield (
        f"The number below an image is the correlation with the channel of {one}, in the mean "
        f"responses to {images} dataset images; the number before it is the channel that matches."
    )
    rows = [row for section in content.sections for row in section.strips]
    if rows:
        yield "Channels that changed most have the lowest correlation with that of the same index."
    if any(row.images[-1] is None for row in rows):
        yield f"The place of a match that has no image in {other} is empty."
    for layer in compared:
        with_images = len(layer.shown)
        if with_images < len(layer.similarity):
            name = layer.one.layer.reader_name
            yield f"Of {name}, {with_images} of {len(layer.similarity)} channels have images here."


def _methods(
    compared: Sequence[ComparedChannels], titles: tuple[str, str], settings: ComparisonFigure
) -> Iterator[str]:
    yield (
        "Channels were compared by the Pearson correlation of their mean responses to the same "
        "dataset images, and matched one to one so that the sum of correlations is largest "
        "(Kuhn 1955)."
    )
    networks = dict.fromkeys(network_caption(layer.other.layer.model) for layer in compared)
    yield f"{titles[1]}: {'; '.join(networks)}."
    recipes = {str(layer.other.layer.recipe) for layer in compared}
    if recipes <= {str(layer.one.layer.recipe) for layer in compared}:
        yield f"Images of {titles[1]} were made in the same way."
    else:
        words = build(Recipe, compared[0].other.layer.recipe).summary()
        yield f"Images of {titles[1]} were made with {words}."
    yield f"Images were resampled to {settings.dpi} pixels per inch for display (Lanczos)."
