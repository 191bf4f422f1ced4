"""What is made of a finished run: figures, tables and images for other tools, labels."""

from dataclasses import dataclass, fields
from string import ascii_lowercase
from typing import Any, Literal

from layer_atlas.config.records import Choice, Record, register, require, setting

Axis = Literal["models", "layers", "channels", "seeds", "variants", "steps"]
Format = Literal["pdf", "svg", "png", "tiff"]


@dataclass(frozen=True, kw_only=True)
class Figure(Choice, family="figure"):
    """What `atlas figure` draws."""


@dataclass(frozen=True, kw_only=True)
class FigureSettings(Figure):
    """Base of figures that are drawn from an atlas: which layers, how large, in which formats."""

    file: str | None = None
    """Name of the files in `figures/`, without the ending; the default is the kind of figure."""
    formats: tuple[Format, ...] = setting(("pdf",), needs="not be empty: pdf, svg, png, tiff")
    """Formats, each a file: `pdf`, `svg`, `png`, `tiff`."""
    width: float | Literal["column", "text", "slide"] = setting("text", at_least=1.0, at_most=50.0)
    """Width in inches, or a preset: `column` 3.3, `text` 6.9, `slide` 13.3 (with larger letters).
    """
    height: float | Literal["page", "any"] = setting("page", at_least=1.0, at_most=190.0)
    """Largest height of a page in inches, after which another begins. `page` is 9, for a slide 7.5;
    `any` sets no limit."""
    dpi: int = setting(300, at_least=50, at_most=1200)
    """Pixels per inch of pictures."""
    font: str = "DejaVu Sans"
    """An installed TrueType font. The default is always installed."""
    title: str | None = None
    """Text above the figure; the default is none."""
    caption: str | None = None
    """Text below the figure; the default is none. `auto` takes the caption of the file for LaTeX.
    """
    models: tuple[str, ...] | None = setting(None, needs="not be empty")
    """Labels of models; the default is all of the atlas."""
    layers: tuple[str, ...] | None = setting(None, needs="not be empty")
    """Globs over layer names, optionally `@` and a module type; the default is all of the atlas."""
    names: dict[str, str] | None = None
    """Names of layers for readers, by their module or by `MODEL/MODULE`:
    `{features.12.expand3x3: fire 9}`. The default is the module's own."""
    citations: dict[str, str] | None = None
    """Works to cite for a model, by its label, and for the data set, under `dataset`: a key of a
    `.bib` of your own, or a whole BibTeX entry. The default is what the package knows of networks
    and data sets of torchvision and timm."""

    def check(self) -> None:
        """Check that no format is named twice, and that names can be drawn."""
        require(len(set(self.formats)) == len(self.formats), "formats must differ.")
        for layer, name in (self.names or {}).items():
            _check_drawable(f"the name of {layer}", name)


def _check_drawable(what: str, text: str) -> None:
    is_drawable = bool(text.strip()) and text.isprintable()
    require(is_drawable, f"{what} must be a text on one line, not {text!r}.")


@dataclass(frozen=True, kw_only=True)
class ChannelFigure(FigureSettings):
    """Base of figures that distinguish channels."""

    channels: Any = "all"
    """Channels of each layer: `all`, a range `"0:64"`, a list of numbers, class names or labels,
    `{label: "curve*"}` for a glob over class names and labels, `{random: n, seed: s}`, `{top: n}`,
    `{bottom: n, by: agreement}`, `{diverse: n}` or `{representatives: n}`. `by` defaults to
    agreement or selectivity."""


@dataclass(frozen=True, kw_only=True)
class Group(Record):
    """Channels that stand together under a bracket."""

    name: str
    """Text at the bracket, on one line."""
    channels: Any
    """Channels of each layer, as `figure.channels`."""

    def check(self) -> None:
        """Check that the name can be drawn."""
        _check_drawable("the name of a group", self.name)


@dataclass(frozen=True, kw_only=True)
class BracketedFigure(ChannelFigure):
    """Base of figures of ordered channels, with brackets over neighbours that belong together."""

    groups: tuple[Group, ...] | None = setting(None, needs="not be empty")
    """Groups of channels under brackets with their names, in place of `channels`:
    `{curves: [3, 17], colours: "0:8", strongest: {top: 6}}`, or a list such as
    `[{name: "curves & lines", channels: [3, 17]}]`."""
    order: str = "chosen"
    """Order of channels, or within each group: `chosen`, `index`, `similarity` of response, or a
    statistic, largest first."""
    clusters: int | None = setting(None, at_least=1)
    """Number of clusters of similar channels to bracket; the default is none. Needs
    order=similarity."""
    dendrogram: bool = False
    """Whether to draw the tree of similarity. Needs order=similarity, and no groups."""

    def check(self) -> None:
        """Check groups and clusters against the other settings."""
        super().check()
        if self.clusters is not None:
            require(self.order == "similarity", "clusters need figure.order=similarity.")
        if self.groups is not None:
            self._check_groups([group.name for group in self.groups])

    def _check_groups(self, names: list[str]) -> None:
        # Two selections of channels at once would leave open which of them is drawn.
        twice = next((name for name in names if names.count(name) > 1), None)
        require(twice is None, f"two groups are called {twice!r}.")
        remedy = "leave one of them out."
        require(self.channels == "all", f"groups stand in the place of channels: {remedy}")
        require(self.clusters is None, f"brackets are of groups or of clusters: {remedy}")


@register("images", kw_only=True)
class ImagesFigure(BracketedFigure):
    """Images in rows and columns."""

    rows: Axis = "channels"
    """Axis down the page: `models`, `layers`, `channels`, `seeds`, `variants` or `steps`."""
    columns: Axis | None = None
    """Axis across the page, as `rows`; by default rows are wrapped."""
    seeds: tuple[int, ...] | None = setting(None, needs="not be empty")
    """Seeds to show. The default is all where they are an axis, else the seed whose image agrees
    most with dataset images, or the first."""
    variants: tuple[str, ...] | None = setting(None, needs="not be empty")
    """Variants to show. The default is all where they are an axis, else the first."""
    steps: tuple[int, ...] | None = setting(None, needs="not be empty")
    """Steps to show. The default is all where they are an axis, else the finished image."""
    dataset_images: int | None = setting(None, at_least=0, at_most=9)
    """Number of each channel's strongest dataset images to show beside wrapped images or at the end
    of rows. The default is 4 where the atlas has any."""
    crop: bool = False
    """Whether dataset images are cropped to the receptive field of the channel's largest response.
    """
    tell: str | None = None
    """A statistic to write under each image; the default is none."""
    labels: bool = True
    """Whether images have labels."""
    across: int | None = setting(None, at_least=1)
    """Number of rows side by side; the default is what looks best."""
    tile: float | None = setting(None, above=0)
    """Width of an image in inches; the default is what looks best."""

    def check(self) -> None:
        """Check the axes, and what belongs to channels against them."""
        super().check()
        require(self.rows != self.columns, f"rows and columns are both {self.rows}.")
        for name in ("groups", "clusters"):
            along = "channels" in (self.rows, self.columns) or getattr(self, name) is None
            require(along, f"{name} need rows or columns of channels.")
        if self.dendrogram:
            self._check_dendrogram()
        require(
            self.rows == "channels" or not self.dataset_images,
            "photographs stand beside channels: take figure.rows=channels.",
        )

    def _check_dendrogram(self) -> None:
        similar = self.order == "similarity"
        require(similar, "a dendrogram needs figure.order=similarity.")
        require(self.groups is None, "a dendrogram is of all channels, not of groups: take one.")
        require(
            self.columns == "channels" or (self.rows == "channels" and self.columns is not None),
            "a dendrogram needs channels along one line: figure.columns=channels, or rows=channels "
            "and columns=seeds, variants or steps.",
        )


@register("traces", kw_only=True)
class TracesFigure(ChannelFigure):
    """Score against step: a faint line per channel, and their median."""

    scale: Literal["relative", "raw"] = "relative"
    """`relative` shows scores as a fraction of each channel's largest, `raw` as they were."""


@register("histograms", kw_only=True)
class HistogramsFigure(ChannelFigure):
    """Histograms of the activations of images and of dataset images."""


@register("responses", kw_only=True)
class ResponsesFigure(BracketedFigure):
    """The response of every channel of a layer to the image of every other."""

    order: str = "similarity"
    """Order of channels, or within each group: `similarity` of response, `chosen`, `index`, or a
    statistic, largest first."""
    dendrogram: bool = True
    """Whether to draw the tree of similarity, where that is the order of all channels."""
    numbers: bool = True
    """Whether to write the values into the matrix, where all of them have room."""


@register("profile", kw_only=True)
class ProfileFigure(FigureSettings):
    """Statistics of all layers in their order: medians, quartiles and extremes across depth."""

    statistics: tuple[str, ...] | None = setting(None, needs="not be empty")
    """Statistics to draw. The default is agreement, recognisability, selectivity, high_frequency,
    clipped and dead, as far as the atlas has them. One that never varies is excluded."""


@register("comparison", kw_only=True)
class ComparisonFigure(FigureSettings):
    """The channels that differ most, and least, between two models, side by side."""

    path: str | None = None
    """File that `atlas compare` wrote, in `figures/`; the default is the only one there."""
    most: int = setting(6, at_least=0)
    """Number of channels of each layer with the lowest similarity by index."""
    least: int = setting(2, at_least=0)
    """Number of channels of each layer with the highest similarity by index."""

    def check(self) -> None:
        """Check that there is something to show."""
        super().check()
        require(self.most + self.least > 0, "most and least are both 0.")


_OF_THE_WHOLE = ("file", "formats", "width", "height", "dpi", "font", "caption", "citations")
"""Settings of a composite figure that its panels share."""


@register("composite", kw_only=True)
class CompositeFigure(FigureSettings):
    """Several figures as the panels of one, with letters."""

    panels: tuple[FigureSettings, ...] = setting(needs="not be empty")
    """Panels a, b, c, ...: each a kind of figure with its settings, such as
    `{name: images, layers: [conv6], channels: {top: 8}}`. A panel without models, layers or names
    takes those of the whole figure."""
    layout: tuple[str, ...] | None = setting(None, needs="not be empty")
    """Rows of the page, each a text of the letters of its panels. In `[aab, aac]`, panel a takes
    two thirds of the width, and b stands above c beside it. The default gives each panel a row."""

    def check(self) -> None:
        """Check the panels' own settings, and that the layout has each panel once, in order."""
        super().check()
        require(len(self.panels) <= len(ascii_lowercase), "a figure has 26 panels at most.")
        for letter, panel in zip(ascii_lowercase, self.panels, strict=False):
            kind = not isinstance(panel, CompositeFigure)
            require(kind, f"panel {letter} is a composite figure itself: list its panels instead.")
            alone = not isinstance(panel, ComparisonFigure)
            require(alone, f"panel {letter} is a comparison, which is a figure of its own.")
            defaults = {field.name: field.default for field in fields(panel)}
            own = [key for key in _OF_THE_WHOLE if getattr(panel, key) != defaults[key]]
            remedy = f"set figure.{own[0]} instead." if own else ""
            require(not own, f"panel {letter} shares {', '.join(own)} with the others: {remedy}")
        self._check_layout(ascii_lowercase[: len(self.panels)])

    def _check_layout(self, known: str) -> None:
        in_order = "".join(dict.fromkeys("".join(self.rows))) == known
        require(
            in_order and all(map(self._is_block, known)),
            f"layout={list(self.rows)} must have the letters {', '.join(known)} in order, each in "
            f"one block, as in {list(known)}.",
        )

    def _is_block(self, letter: str) -> bool:
        """Whether a panel has the same part of consecutive rows."""
        numbers = [number for number, row in enumerate(self.rows) if letter in row]
        rows = [self.rows[number] for number in numbers]
        parts = {(len(row), row.find(letter), row.rfind(letter)) for row in rows}
        in_runs = all(letter * row.count(letter) in row for row in rows)
        return in_runs and len(parts) == 1 and numbers[-1] - numbers[0] + 1 == len(numbers)

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows of the page, by the letters of their panels."""
        return self.layout or tuple(ascii_lowercase[: len(self.panels)])


@register("again", kw_only=True)
class AgainFigure(Figure):
    """A figure made before, drawn again from its provenance."""

    path: str
    """File of the figure (.pdf, .svg, .png, .tiff), or the `.provenance.json` beside it."""


# --- what `atlas export` writes, and `atlas label` proposes ---------------------------------------


@dataclass(frozen=True)
class ExportSettings(Record):
    """A table with a row per image, and the images as files."""

    format: Literal["parquet", "jsonl", "csv"] = "parquet"
    """Format of the table. `parquet` needs `pip install 'layer-atlas[export]'`; `jsonl` has a JSON
    object per line; in `csv` lists are JSON."""
    images: Literal["png", "webp", "none"] = "png"
    """Format of the image files, both without loss; `none` writes the table alone."""
    folder: str | None = None
    """Folder that is written; the default is `export` in the output folder."""


@dataclass(frozen=True)
class LabelSettings(Record):
    """Labels that an encoder of images and texts proposes for channels, and search by words."""

    encoder: str = ""
    """Dotted name of an object with `encode_images` (a batch (N, 3, H, W) in [0, 1] to (N, D)) and
    `encode_texts` (a list of M texts to (M, D)), or of a callable that returns one."""
    args: dict[str, Any] | None = None
    """Keyword arguments of the callable; the default is none."""
    vocabulary: str | None = None
    """Text file with a label on each line, of which the best ones are proposed. null makes the
    embeddings of channels alone, which are enough for `labels.search`."""
    prompt: str = "{}"
    """Text that the encoder is given for a label, such as `a photo of a {}`."""
    kept: int = setting(5, at_least=1, at_most=64)
    """Number of labels per channel that are kept."""
    image_size: int = setting(224, at_least=1, at_most=4096)
    """Height and width of the images that the encoder is given, in pixels."""
    batch_size: int = setting(32, at_least=1)
    """Largest number of images that the encoder is given at once."""
    search: tuple[str, ...] = ()
    """Texts to search for: the channels whose images are most like each are printed. Labels that
    are there already are kept, where no vocabulary is named."""
    source: Literal["dataset", "optimized"] = "dataset"
    """Images that `labels.search` compares with the texts: the channels' strongest dataset images,
    or the optimized ones."""

    def check(self) -> None:
        """Check that the prompt has room for a label."""
        require(
            self.prompt.count("{}") == 1 and self.prompt.count("{") == 1,
            f"labels.prompt={self.prompt!r} needs one {{}}, where the label goes.",
        )
