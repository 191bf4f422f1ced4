"""A rendered figure and its files: the same pages in all formats, each with its provenance.

No file holds a date, so that a figure made again is the same, byte for byte. PDFs get their fonts
from matplotlib; SVG files bring along the letters that they use, because their texts would
otherwise be set in whatever font a reader has, with other widths.
"""

import base64
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

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


class Writer(Protocol):
    """Pages in one format."""

    def add(self, page: "RenderedPage") -> None:
        """Take the next page."""
        ...

    def finish(self) -> list[bytes]:
        """The files: one for all pages, or one for each."""
        ...


class RenderedPage:
    """A page, and its pixels for the formats that need them."""

    def __init__(self, canvas: FigureCanvas) -> None:
        self.canvas, self.figure = canvas, canvas.figure

    @cached_property
    def picture(self) -> Image.Image:
        """The page as an RGB picture."""
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()  # type: ignore[no-untyped-call]
        pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
        return Image.fromarray(pixels[..., :3])

    @property
    def dpi(self) -> tuple[int, int]:
        """Pixels per inch."""
        return self.canvas.font.dpi, self.canvas.font.dpi


class PdfWriter:
    """One file of all pages."""

    def __init__(self, title: str, provenance: str) -> None:
        self._buffer = io.BytesIO()
        metadata = {
            "Title": title,
            "Creator": _CREATOR,
            "Keywords": provenance,
            "CreationDate": None,
        }
        self._pages = PdfPages(self._buffer, metadata=metadata)

    def add(self, page: RenderedPage) -> None:
        """Take the next page."""
        self._pages.savefig(page.figure)  # type: ignore[no-untyped-call]

    def finish(self) -> list[bytes]:
        """The file."""
        self._pages.close()  # type: ignore[no-untyped-call]
        return [self._buffer.getvalue()]


class _PageWriter(ABC):
    """A file for every page."""

    def __init__(self, title: str, provenance: str) -> None:
        self.title, self.provenance = title, provenance
        self._files: list[bytes] = []

    def add(self, page: RenderedPage) -> None:
        """Take the next page."""
        buffer = io.BytesIO()
        self.save(page, buffer)
        self._files.append(buffer.getvalue())

    @abstractmethod
    def save(self, page: RenderedPage, buffer: io.BytesIO) -> None:
        """Write a page."""

    def finish(self) -> list[bytes]:
        """A file per page."""
        return self._files


class SvgWriter(_PageWriter):
    """SVG files, whose texts stay texts and bring their letters along."""

    def save(self, page: RenderedPage, buffer: io.BytesIO) -> None:
        """Write a page."""
        metadata = {"Title": self.title, "Creator": _CREATOR, "Description": self.provenance}
        bare = io.BytesIO()
        page.figure.savefig(bare, format="svg", metadata={**metadata, "Date": None})
        before, end, after = bare.getvalue().partition(b"</style>")
        buffer.write(b"".join([before, font_faces(page.figure).encode(), end, after]))


class PngWriter(_PageWriter):
    """PNG files."""

    def save(self, page: RenderedPage, buffer: io.BytesIO) -> None:
        """Write a page."""
        metadata = PngInfo()
        metadata.add_text("Title", self.title)
        metadata.add_text("Software", _CREATOR)
        metadata.add_text(KEY, self.provenance)
        page.picture.save(buffer, "PNG", dpi=page.dpi, pnginfo=metadata, compress_level=4)


class TiffWriter(_PageWriter):
    """TIFF files, which some publishers ask for."""

    def save(self, page: RenderedPage, buffer: io.BytesIO) -> None:
        """Write a page."""
        metadata: dict[str, Any] = {"description": self.provenance, "software": _CREATOR}
        page.picture.save(buffer, "TIFF", dpi=page.dpi, compression="tiff_lzw", **metadata)


_WRITERS: dict[Format, Callable[[str, str], Writer]] = {
    "pdf": PdfWriter,
    "svg": SvgWriter,
    "png": PngWriter,
    "tiff": TiffWriter,
}


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
    writers = {name: _WRITERS[name](title, provenance) for name in formats}
    for canvas in pages:
        page = RenderedPage(canvas)
        for writer in writers.values():
            writer.add(page)
    return {
        f"-{number}.{name}" if len(files) > 1 else f".{name}": data
        for name, files in ((name, writer.finish()) for name, writer in writers.items())
        for number, data in enumerate(files, 1)
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
