"""A rendered figure and its files: the same pages in all formats, each with its provenance.

No file holds a date, so that a figure made again is the same, byte for byte. PDFs get their fonts
from matplotlib; SVG files bring along the letters that they use, because their texts would
otherwise be set in whatever font a reader has, with other widths.
"""

import base64
import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from fontTools import subset
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.text import Text
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from layer_atlas.config.figures import Format
from layer_atlas.presentation.figures.provenance import KEY
from layer_atlas.presentation.figures.selection import Selection
from layer_atlas.presentation.layout.figure import FigureCanvas


@dataclass(frozen=True)
class RenderedFigure:
    """A figure whose pages are drawn one by one, as they are read."""

    pages: Iterator[FigureCanvas]
    caption: str
    """Caption in a few sentences."""
    methods: str
    """Sentences on how targets were chosen and ordered and numbers computed."""
    selections: tuple[Selection, ...]
    """The layers and their channels."""


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
    return b"".join([before, font_faces(page.figure).encode(), end, after])


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
) -> dict[str, bytes]:
    """Render the files of a figure, by the ends of their names, such as `.pdf` or `-2.png`.

    Args:
        pages: drawn one by one; none is kept.
        formats: `pdf` is one file, others are one per page, numbered if there are several.
        title: title in the metadata.
        provenance: an ASCII text that all files hold.
    """
    files: dict[Format, list[bytes]] = {name: [] for name in formats}
    buffer = io.BytesIO()
    metadata = {"Title": title, "Creator": _CREATOR, "Keywords": provenance, "CreationDate": None}
    # One PDF of all pages is open while the other formats are encoded page by page.
    document = PdfPages(buffer, metadata=metadata) if "pdf" in files else None
    for page in map(RenderedPage, pages):
        for name, encode in _ENCODERS.items():
            if name in files:
                files[name].append(encode(page, title, provenance))
        if document is not None:
            document.savefig(page.figure)  # type: ignore[no-untyped-call]
    if document is not None:
        document.close()  # type: ignore[no-untyped-call]
        files["pdf"] = [buffer.getvalue()]
    return {
        f"-{number}.{name}" if len(done) > 1 else f".{name}": data
        for name, done in files.items()
        for number, data in enumerate(done, 1)
    }


def font_faces(figure: Figure) -> str:
    """CSS rules with every font of a figure, cut down to its letters."""
    return "\n".join(
        f"@font-face {{font-family: '{family}'; font-weight: {weight}; "
        f"src: url(data:font/ttf;base64,{base64.b64encode(data).decode()})}}"
        for family, weight, data in _fonts(figure)
    )


def _fonts(figure: Figure) -> Iterator[tuple[str, str, bytes]]:
    """Yield family, weight and TrueType file of each font."""
    used: dict[tuple[str, str], set[str]] = {}
    for text in figure.findobj(Text):
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
