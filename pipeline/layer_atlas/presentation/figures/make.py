"""Draw a figure from an atlas, and write its files with caption, methods and provenance.

The pages are the same in all formats. The provenance is kept beside and in the files, so that a
figure can be made again. No file holds a date: then it is the same, byte for byte. PDFs get their
fonts from matplotlib; SVG files bring along the letters that they use, because their texts would
otherwise be set in whatever font a reader has, with other widths.
"""

import base64
import html
import io
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import scipy.cluster.hierarchy  # noqa: F401 - what is not installed is reported before drawing
from fontTools import subset
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.text import Text
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from layer_atlas import __version__
from layer_atlas.atlas.reader import Atlas, open_atlas
from layer_atlas.config.inputs import user_file
from layer_atlas.config.outputs import AgainFigure, Figure, FigureSettings, Format
from layer_atlas.config.records import build, canonical_json, plain
from layer_atlas.errors import UserError, unknown
from layer_atlas.presentation.collate import read_summary
from layer_atlas.presentation.figures.comparison import draw_comparison
from layer_atlas.presentation.figures.composite import PANELS, draw_composite
from layer_atlas.presentation.figures.latex import figure_environment, merged_bibliography
from layer_atlas.presentation.figures.methods import texts_of
from layer_atlas.presentation.figures.selection import RenderedFigure
from layer_atlas.presentation.layout.figure import FigureCanvas, style
from layer_atlas.store.files import write_atomically, write_json
from layer_atlas.store.folder import OutputFolder, safe_name

KINDS: dict[str, Callable[..., RenderedFigure]] = {
    **PANELS,
    "composite": draw_composite,
    "comparison": draw_comparison,
}
"""Drawing function of each kind of figure."""

BIBLIOGRAPHY = "references.bib"


def make_figure(folder: OutputFolder, figure: Figure) -> list[str]:
    """Draw a figure and write its files to the output folder.

    Args:
        folder: the output folder.
        figure: settings of the figure.
    Returns: lines that list the files.
    Raises:
        UserError: the atlas lacks what the settings name, or there is no room for it.
        StorageError: the disk is full or fails.
    """
    notes = []
    with open_atlas(folder.atlas) as atlas:
        if isinstance(figure, AgainFigure):
            before = read_provenance(figure)
            figure = before.figure
            # Settings repeat a figure exactly only on the same atlas.
            if before.atlas["content"] != atlas.content:
                notes.append("note: the atlas has changed since; the figure may look different")
        elif isinstance(figure, FigureSettings) and figure.names is None:
            summary = read_summary(folder)
            figure = replace(figure, names=summary.settings.names if summary else None)
        if not any(atlas[name].has_images for name in atlas):
            raise UserError(
                f"no image of {str(folder.root)!r} is made yet; start its run again, then draw."
            )
        assert isinstance(figure, FigureSettings)  # as all figures are that are drawn from an atlas
        return _draw(folder, atlas, figure) + notes


def _draw(folder: OutputFolder, atlas: Atlas, settings: FigureSettings) -> list[str]:
    name = settings.file or settings.name
    if safe_name(name) != name:
        raise UserError(
            f"figure.file={name!r} cannot be the name of a file: use letters, digits, - and _. "
            f"Figures are in {str(folder.figures)!r}."
        )
    with style(settings):
        rendered = KINDS[settings.name](atlas, settings)
        settings = with_names_shown(settings, rendered)
        provenance = provenance_of(folder.root.name, atlas, settings, rendered)
        title = settings.title or f"{settings.name} of {folder.root.name}"
        files, pages = files_of(rendered.pages, settings.formats, title, provenance.text)
    for end, data in files.items():
        write_atomically(folder.figures / f"{name}{end}", data)
    _remove_others(folder, name, files)
    write_json(folder.figures / f"{name}.provenance.json", json.loads(provenance.text))
    texts = texts_of(atlas, rendered, settings.citations)
    note, ends = f"% {provenance.command}\n", list(files)
    beside = {
        ".tex": note + figure_environment(name, texts.caption, settings.width, ends, pages),
        ".caption.tex": f"{note}{texts.caption}\n",
        ".methods.tex": texts.latex,
        ".methods.md": texts.markdown,
    }
    for end, text in beside.items():
        write_atomically(folder.figures / f"{name}{end}", text.encode())
    _add_to_bibliography(folder.figures / BIBLIOGRAPHY, texts.entries)
    return [*_summary(folder, name, files), *_beside(name, beside)]


def _add_to_bibliography(path: Path, entries: Sequence[str]) -> None:
    """Add what a figure cites to the bibliography of all figures of the folder."""
    before = path.read_text() if path.exists() else ""
    write_atomically(path, merged_bibliography(before, entries).encode())


def _beside(name: str, ends: Iterable[str]) -> list[str]:
    """A line that lists the files beside the figure."""
    names = [f"{name}{end}" for end in (*ends, ".provenance.json")]
    return [f"beside it: {', '.join(names)}, {BIBLIOGRAPHY}"]


def _remove_others(folder: OutputFolder, name: str, files: dict[str, bytes]) -> None:
    """Remove pages that an earlier figure of this name had, in the formats written now."""
    formats = "|".join({end.rpartition(".")[2] for end in files})
    pages = re.compile(rf"{re.escape(name)}((-\d+)?\.({formats}))")
    for path in folder.figures.iterdir():
        found = pages.fullmatch(path.name)
        if found and found[1] not in files:
            path.unlink(missing_ok=True)


def _summary(folder: OutputFolder, name: str, files: dict[str, bytes]) -> list[str]:
    """Lines that list the files, one for each format."""
    formats: dict[str, list[str]] = {}
    for end in files:
        formats.setdefault(end.rpartition(".")[2], []).append(f"{name}{end}")
    lines = []
    for kind, names in formats.items():
        size = sum(len(data) for end, data in files.items() if end.endswith(f".{kind}"))
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(f"{folder.figures / names[0]}{more}  ({size / 1e6:.1f} MB)")
    return lines


# --- formats --------------------------------------------------------------------------------------


_CREATOR = "Layer Atlas"


class RenderedPage:
    """A page, and its pixels for the formats that need them."""

    def __init__(self, canvas: FigureCanvas) -> None:
        self.figure, self.dpi = canvas.figure, (canvas.font.dpi, canvas.font.dpi)

    @cached_property
    def picture(self) -> Image.Image:
        """The page as an RGB picture."""
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        return Image.fromarray(pixels[..., :3])


def _svg(page: RenderedPage, title: str, provenance: str) -> bytes:
    """Encode a page as SVG, whose texts stay texts and bring their letters along."""
    metadata = {"Title": title, "Creator": _CREATOR, "Description": provenance, "Date": None}
    bare = io.BytesIO()
    page.figure.savefig(bare, format="svg", metadata=metadata)
    before, end, after = bare.getvalue().partition(b"</style>")
    return b"".join([before, _font_faces(page).encode(), end, after])


def _png(page: RenderedPage, title: str, provenance: str) -> bytes:
    metadata = PngInfo()
    for key, text in (("Title", title), ("Software", _CREATOR), (KEY, provenance)):
        metadata.add_text(key, text)
    return _saved(page, "PNG", pnginfo=metadata, compress_level=4)


def _tiff(page: RenderedPage, _title: str, provenance: str) -> bytes:
    metadata = {"description": provenance, "software": _CREATOR}
    return _saved(page, "TIFF", compression="tiff_lzw", **metadata)


def _saved(page: RenderedPage, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    page.picture.save(buffer, kind, dpi=page.dpi, **options)
    return buffer.getvalue()


_ENCODERS: dict[Format, Callable[[RenderedPage, str, str], bytes]] = {
    "svg": _svg,
    "png": _png,
    "tiff": _tiff,
}
"""Formats with a file for each page."""


def files_of(
    pages: Iterable[FigureCanvas], formats: Iterable[Format], title: str, provenance: str
) -> tuple[dict[str, bytes], int]:
    """Render the files of a figure, by the ends of their names, such as `.pdf` or `-2.png`.

    Args:
        pages: drawn one by one; none is kept.
        formats: `pdf` is one file, others are one per page, numbered if there are several.
        title: title in the metadata.
        provenance: an ASCII text that all files hold.
    Returns: the files, and the number of pages.
    """
    count = 0
    files: dict[Format, list[bytes]] = {name: [] for name in formats}
    buffer = io.BytesIO()
    metadata = {"Title": title, "Creator": _CREATOR, "Keywords": provenance, "CreationDate": None}
    # One PDF of all pages is open while the other formats are encoded page by page.
    document = PdfPages(buffer, metadata=metadata) if "pdf" in files else None
    for page in map(RenderedPage, pages):
        count += 1
        for name, encode in _ENCODERS.items():
            if name in files:
                files[name].append(encode(page, title, provenance))
        if document is not None:
            document.savefig(page.figure)  # type: ignore[no-untyped-call]
    if document is not None:
        document.close()  # type: ignore[no-untyped-call]
        files["pdf"] = [buffer.getvalue()]
    by_ending = {
        f"-{number}.{name}" if len(done) > 1 else f".{name}": data
        for name, done in files.items()
        for number, data in enumerate(done, 1)
    }
    return by_ending, count


def _font_faces(page: RenderedPage) -> str:
    """CSS rules with every font of a page, cut down to its letters."""
    return "\n".join(
        f"@font-face {{font-family: '{family}'; font-weight: {weight}; "
        f"src: url(data:font/ttf;base64,{base64.b64encode(data).decode()})}}"
        for family, weight, data in _fonts(page)
    )


def _fonts(page: RenderedPage) -> Iterator[tuple[str, str, bytes]]:
    """Yield family, weight and TrueType file of each font."""
    used: dict[tuple[str, str], set[str]] = {}
    for text in page.figure.findobj(Text):
        assert isinstance(text, Text)
        font = str(text.get_fontfamily()[0]), str(text.get_fontweight())
        used.setdefault(font, set()).update(text.get_text())
    for (family, weight), letters in sorted(used.items()):
        if letters:
            path = findfont(FontProperties(family=family, weight=weight))
            yield family, weight, _subset(path, "".join(sorted(letters)))


_TABLES = {"cmap", "glyf", "head", "hhea", "hmtx", "kern", "loca", "maxp", "name", "post", "OS/2"}
"""Tables of a TrueType font that viewers need."""


def _subset(path: str, letters: str) -> bytes:
    """Reduce a font to these letters."""
    options = subset.Options(recalc_timestamp=False, hinting=False)
    options.font_number = 0  # of a collection
    with subset.load_font(path, options) as font:
        options.drop_tables = sorted(set(font.keys()) - _TABLES)
        cutter = subset.Subsetter(options)
        cutter.populate(text=letters)
        cutter.subset(font)
        buffer = io.BytesIO()
        subset.save_font(font, buffer, options)
    return buffer.getvalue()


# --- provenance -----------------------------------------------------------------------------------


SCHEMA = "layer-atlas-figure/1"
KEY = "provenance"
"""Key of the text within a PNG."""

_PACKAGES = ("matplotlib", "fonttools", "scipy", "numpy", "pillow", "h5py")


@dataclass(frozen=True)
class Provenance:
    """Everything that decides how a figure looks; without paths, because figures are published."""

    schema: str
    command: str
    """Command that makes the figure from the output folder alone."""
    name: str
    """Name of the output folder."""
    figure: FigureSettings
    """Settings of the figure."""
    atlas: dict[str, Any]
    """Digest of the atlas's content, and the versions that made it."""
    layers: dict[str, Any]
    """Source and digest of the network, recipe, seeds, channels and groups of each layer."""
    versions: dict[str, str]
    """Versions of the packages that drew the figure."""

    @property
    def text(self) -> str:
        """The provenance as JSON, on one line."""
        return canonical_json(plain(self))


def provenance_of(
    name: str, atlas: Atlas, settings: FigureSettings, rendered: RenderedFigure
) -> Provenance:
    """The provenance of a figure of an output folder of this name."""
    return Provenance(
        schema=SCHEMA,
        command=command_of(name, settings),
        name=name,
        figure=settings,
        atlas={"content": atlas.content, "versions": atlas.versions},
        layers={
            place: {
                "source": str(selection.layer.model.facts["source"]),
                "weights_sha256": str(selection.layer.model.facts["weights_sha256"]),
                "recipe": selection.layer.recipe,
                "seeds": selection.layer.seeds,
                "channels": list(selection.channels),
                "groups": selection.members,
            }
            for place, selection in zip(_places(rendered), rendered.selections, strict=True)
        },
        versions={"layer-atlas": __version__, **_versions()},
    )


def with_names_shown(settings: FigureSettings, rendered: RenderedFigure) -> FigureSettings:
    """Return settings with the labels of shown channels alone: a network may have a million."""
    layers = {place for one in rendered.selections for place in (one.layer.name, one.layer.title)}
    shown = {
        f"{place}:{one.layer.numbers[one.layer.row(channel)]}"
        for one in rendered.selections
        for channel in one.channels
        for place in (one.layer.name, one.layer.title)
    }
    kept = {k: v for k, v in (settings.names or {}).items() if ":" not in k or k in layers | shown}
    return replace(settings, names=kept or None) if settings.names else settings


def _places(rendered: RenderedFigure) -> list[str]:
    """Titles of the layers, behind the letters of their panels if there are any."""
    titles = [selection.layer.title for selection in rendered.selections]
    pairs = zip(rendered.letters, titles, strict=False)
    return [f"{letter} {title}" for letter, title in pairs] if rendered.letters else titles


def _versions() -> dict[str, str]:
    return {package: metadata.version(package) for package in _PACKAGES}


# --- the command ---------------------------------------------------------------------------------


def command_of(name: str, settings: FigureSettings) -> str:
    """The command that makes a figure; defaults are omitted."""
    overrides = [f"name={name}", f"figure={settings.name}"]
    overrides += [f"figure.{key}={hydra_value(value)}" for key, value in _set(settings).items()]
    return " ".join(["atlas", "figure", *map(shlex.quote, overrides)])


def _set(settings: FigureSettings) -> dict[str, Any]:
    """The settings of a figure, and of its panels, that are not defaults, as plain data."""
    values = {field.name: getattr(settings, field.name) for field in fields(settings)}
    defaults = {field.name: field.default for field in fields(settings)}
    given = {k: plain(v) for k, v in values.items() if v != defaults[k] and k != "name"}
    if "panels" in given:
        given["panels"] = [{"name": panel.name, **_set(panel)} for panel in values["panels"]]
    return given


def hydra_value(value: Any) -> str:
    """Write a value in the grammar of Hydra's command line."""
    if isinstance(value, dict):
        return (
            "{"
            + ", ".join(f"{key}: {hydra_value(item)}" for key, item in sorted(value.items()))
            + "}"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(hydra_value, value)) + "]"
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value not in _WORDS else _quoted(value)
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else str(value)


_PLAIN = re.compile(r"[A-Za-z_*][\w.*@/-]*", re.ASCII)
_WORDS = ("null", "true", "false", "inf", "nan")


def _quoted(text: str) -> str:
    """Quote a text, and escape interpolations in it."""
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    text = re.sub(r'(\\*)"', r'\1\1\\"', text)
    return '"' + re.sub(r"(\\+)$", r"\1\1", text) + '"'


# --- again ---------------------------------------------------------------------------------------


def read_provenance(again: AgainFigure) -> Provenance:
    """Read the provenance in a figure or beside it.

    Raises:
        UserError: there is no such file, or it holds no provenance.
    """
    data = user_file(again.path, "figure").read_bytes()
    try:
        values = json.loads(_text_in(data))
        schema = values["schema"]
    except (ValueError, KeyError, TypeError, OSError) as error:  # Pillow raises OSError
        raise UserError(
            f"{again.path!r} has no record of how it was made; use the .provenance.json beside a "
            "figure, or a figure (.pdf, .svg, .png, .tiff) that `atlas figure` made."
        ) from error
    if schema != SCHEMA:
        raise unknown(f"schema of {again.path!r}", schema, [SCHEMA])
    return build(Provenance, values)


def _text_in(data: bytes) -> str:
    """Extract the provenance from a file, by its first bytes."""
    if data.startswith(b"%PDF"):
        return _text_in_pdf(data)
    if data.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            picture.load()
            return str(picture.info[KEY])
    if data[:4] in (b"II*\0", b"MM\0*"):
        with Image.open(io.BytesIO(data), formats=["TIFF"]) as picture:
            return str(picture.tag_v2[_DESCRIPTION])  # type: ignore[attr-defined]
    text = data.decode()
    selection = re.search(r"<dc:description>(.*?)</dc:description>", text, re.DOTALL)
    return html.unescape(selection[1]) if selection else text


_DESCRIPTION = 270
"""Tag of the description in a TIFF file."""


def _text_in_pdf(data: bytes) -> str:
    """Extract the keywords of a PDF: a literal string with escaped characters."""
    selection = re.search(rb"/Keywords \(((?:[^\\()]|\\.)*)\)", data, re.DOTALL)
    if not selection:
        raise ValueError("no keywords")
    return re.sub(rb"\\(.)", rb"\1", selection[1], flags=re.DOTALL).decode("ascii")
