"""Records of the figures: what is shown, how it is laid out, and which files it becomes.

What they mean; how each is drawn is in the package `figures`.
"""

from dataclasses import dataclass
from typing import Any, Literal

from layer_atlas.config.ranges import one_or_more, positive, require, within

Axis = Literal["models", "layers", "channels", "seeds", "variants", "steps"]
Format = Literal["pdf", "svg", "png", "tiff"]


@dataclass(frozen=True, kw_only=True)
class FigureSettings:
    """What all figures have in common: which layers, how large, in which formats."""

    file: str | None = None
    """Name of the files, without their ending; default: the kind of figure."""
    formats: tuple[Format, ...] = ("pdf",)
    """Formats, each a file: `pdf`, `svg`, `png`, `tiff`."""
    width: float | Literal["column", "text", "slide"] = "text"
    """In inches, or a preset: `column` 3.3, `text` 6.9, `slide` 13.3 (with larger letters)."""
    height: float | Literal["page", "any"] = "page"
    """Most inches of a page, after which another begins; `page`: 9, of a slide 7.5; `any`: as tall
    as need be."""
    dpi: int = 300
    """Pixels per inch of pictures."""
    font: str = "DejaVu Sans"
    """A TrueType font that is installed; this one always is."""
    title: str | None = None
    """Written above."""
    caption: str | None = None
    """Written below; `auto`: what is in the file for LaTeX."""
    models: tuple[str, ...] | None = None
    """Labels of models; default: all of the atlas."""
    layers: tuple[str, ...] | None = None
    """Globs over layer names, optionally `@` and a module type; default: all of the atlas."""

    def __post_init__(self) -> None:
        require(len(self.formats) > 0, "formats must not be empty: pdf, svg, png, tiff.")
        require(len(set(self.formats)) == len(self.formats), "formats must differ.")
        for name, most in (("width", 50.0), ("height", 190.0)):
            value = getattr(self, name)
            if not isinstance(value, str):
                within(1.0, most, **{name: value})
        within(50, 1200, dpi=self.dpi)
        for name in ("models", "layers"):
            require(getattr(self, name) != (), f"{name} must not be empty.")


@dataclass(frozen=True, kw_only=True)
class ChannelFigure(FigureSettings):
    """Figures that tell channels apart."""

    channels: Any = "all"
    """`all`, a range `"0:64"`, a list of numbers or class names, `{random: n, seed: s}`,
    `{top: n}`, `{bottom: n, by: agreement}`, `{diverse: n}` or
    `{representatives: n}`; of each layer. `by` defaults to agreement or selectivity."""


@dataclass(frozen=True, kw_only=True)
class Group:
    """Channels that stand together under a bracket."""

    name: str
    """Written at the bracket; on one line."""
    channels: Any
    """As `figure.channels`; of each layer."""

    def __post_init__(self) -> None:
        named = bool(self.name.strip()) and self.name.isprintable()
        require(named, f"the name of a group must be a text on one line, not {self.name!r}.")


@dataclass(frozen=True, kw_only=True)
class BracketedFigure(ChannelFigure):
    """Figures of channels in an order, with brackets over neighbours that belong together."""

    groups: tuple[Group, ...] | None = None
    """In the place of `channels`: groups under brackets that bear their names, in this order.
    `{curves: [3, 17], colours: "0:8", strongest: {top: 6}}`, or a list such as
    `[{name: "curves & lines", channels: [3, 17]}]`."""
    order: str = "chosen"
    """Order of channels, or within each group: `chosen`, `index`, `similarity` of response, or by
    a statistic, largest first."""
    clusters: int | None = None
    """Bracket so many groups of similar channels; needs order=similarity."""
    dendrogram: bool = False
    """Draw the tree of similarity; needs order=similarity, and no groups."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.clusters is not None:
            one_or_more(clusters=self.clusters)
            require(self.order == "similarity", "clusters need figure.order=similarity.")
        if self.groups is not None:
            self._check_groups([group.name for group in self.groups])

    def _check_groups(self, names: list[str]) -> None:
        require(names != [], "groups must not be empty.")
        twice = next((name for name in names if names.count(name) > 1), None)
        require(twice is None, f"two groups are called {twice!r}.")
        remedy = "leave one of them out."
        require(self.channels == "all", f"groups stand in the place of channels: {remedy}")
        require(self.clusters is None, f"brackets are of groups or of clusters: {remedy}")


@dataclass(frozen=True, kw_only=True)
class ImagesFigure(BracketedFigure):
    """Images, in rows and columns."""

    name: str = "images"
    rows: Axis = "channels"
    """What goes down the page: `models`, `layers`, `channels`, `seeds`, `variants`, `steps`."""
    columns: Axis | None = None
    """What goes across; default: rows are wrapped."""
    seeds: tuple[int, ...] | None = None
    """Default: all where they are rows or columns, else of each channel the one that agrees most
    with photographs, or the first."""
    variants: tuple[str, ...] | None = None
    """Default: all where they are rows or columns, else the first."""
    steps: tuple[int, ...] | None = None
    """Default: all where they are rows or columns, else the finished image."""
    dataset_images: int | None = None
    """Of each channel's strongest photographs so many are shown beside wrapped images or at the end
    of rows; default: 4 where there are any."""
    tell: str | None = None
    """A statistic written under each image."""
    labels: bool = True
    """Whether images are labelled."""
    across: int | None = None
    """Rows side by side; default: what looks best."""
    tile: float | None = None
    """Width of an image in inches; default: what looks best."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.rows != self.columns, f"rows and columns are both {self.rows}.")
        for name in ("seeds", "variants", "steps"):
            require(getattr(self, name) != (), f"{name} must not be empty.")
        for name in ("groups", "clusters"):
            along = "channels" in (self.rows, self.columns) or getattr(self, name) is None
            require(along, f"{name} need rows or columns of channels.")
        if self.dendrogram:
            self._check_dendrogram()
        if self.dataset_images is not None:
            within(0, 9, dataset_images=self.dataset_images)
            require(
                self.rows == "channels" or not self.dataset_images,
                "photographs stand beside channels: take figure.rows=channels.",
            )
        if self.across is not None:
            one_or_more(across=self.across)
        if self.tile is not None:
            positive(tile=self.tile)

    def _check_dendrogram(self) -> None:
        similar = self.order == "similarity"
        require(similar, "a dendrogram needs figure.order=similarity.")
        require(self.groups is None, "a dendrogram is of all channels, not of groups: take one.")
        require(
            self.columns == "channels" or (self.rows == "channels" and self.columns is not None),
            "a dendrogram needs channels along one line: figure.columns=channels, or rows=channels "
            "and columns=seeds, variants or steps.",
        )


@dataclass(frozen=True, kw_only=True)
class TracesFigure(ChannelFigure):
    """Ascent curves: a faint line per channel, and their median."""

    name: str = "traces"
    scale: Literal["relative", "raw"] = "relative"
    """`relative`: as a share of each channel's largest; `raw`: as it was."""


@dataclass(frozen=True, kw_only=True)
class HistogramsFigure(ChannelFigure):
    """Activations of images against those of photographs."""

    name: str = "histograms"


@dataclass(frozen=True, kw_only=True)
class ResponsesFigure(BracketedFigure):
    """What every channel of a layer answers to the image of every other."""

    name: str = "responses"
    order: str = "similarity"
    """Order of channels, or within each group: `similarity` of response, `chosen`, `index`, or by
    a statistic."""
    dendrogram: bool = True
    """Draw the tree of similarity, where that is the order of all channels."""


@dataclass(frozen=True, kw_only=True)
class ProfileFigure(FigureSettings):
    """Statistics of all layers in their order: medians, quartiles and extremes across depth."""

    name: str = "profile"
    statistics: tuple[str, ...] | None = None
    """Which; default: agreement, selectivity, high_frequency, clipped, as far as there are."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.statistics != (), "statistics must not be empty.")


@dataclass(frozen=True, kw_only=True)
class AgainFigure:
    """A figure made before, from what its files say of themselves."""

    name: str = "again"
    path: str
    """A figure (.pdf, .svg, .png, .tiff), or the `.provenance.json` beside it."""


Drawable = ImagesFigure | TracesFigure | HistogramsFigure | ResponsesFigure | ProfileFigure
Figure = Drawable | AgainFigure
