"""The files of a figure: the same pages in all formats, each saying whence it comes.

No file holds a date, so that a figure made again is the same, byte for byte.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import PdfPages
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from layer_atlas.config.figures import Format
from layer_atlas.presentation.figures.paper.fonts import font_faces
from layer_atlas.presentation.figures.paper.sheet import Sheet
from layer_atlas.presentation.figures.provenance import KEY

_CREATOR = "Layer Atlas"


class Writer(Protocol):
    """Pages in one format."""

    def add(self, sheet: "Rendered") -> None:
        """Take the next page."""
        ...

    def finish(self) -> list[bytes]:
        """The files: one for all pages, or one for each."""
        ...


class Rendered:
    """A page, and its pixels for the formats that need them."""

    def __init__(self, sheet: Sheet) -> None:
        self.sheet, self.figure = sheet, sheet.figure

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
        return self.sheet.letters.dpi, self.sheet.letters.dpi


class PdfWriter:
    """One file of all pages."""

    def __init__(self, title: str, provenance: str) -> None:
        self._buffer = io.BytesIO()
        told = {"Title": title, "Creator": _CREATOR, "Keywords": provenance, "CreationDate": None}
        self._pages = PdfPages(self._buffer, metadata=told)

    def add(self, sheet: Rendered) -> None:
        """Take the next page."""
        self._pages.savefig(sheet.figure)  # type: ignore[no-untyped-call]

    def finish(self) -> list[bytes]:
        """The file."""
        self._pages.close()  # type: ignore[no-untyped-call]
        return [self._buffer.getvalue()]


class _PageWriter(ABC):
    """A file for every page."""

    def __init__(self, title: str, provenance: str) -> None:
        self.title, self.provenance = title, provenance
        self._files: list[bytes] = []

    def add(self, sheet: Rendered) -> None:
        """Take the next page."""
        buffer = io.BytesIO()
        self.save(sheet, buffer)
        self._files.append(buffer.getvalue())

    @abstractmethod
    def save(self, sheet: Rendered, buffer: io.BytesIO) -> None:
        """Write a page."""

    def finish(self) -> list[bytes]:
        """A file per page."""
        return self._files


class SvgWriter(_PageWriter):
    """Words stay words, and bring their letters along."""

    def save(self, sheet: Rendered, buffer: io.BytesIO) -> None:
        """Write a page."""
        told = {"Title": self.title, "Creator": _CREATOR, "Description": self.provenance}
        bare = io.BytesIO()
        sheet.figure.savefig(bare, format="svg", metadata={**told, "Date": None})
        before, end, after = bare.getvalue().partition(b"</style>")
        buffer.write(b"".join([before, font_faces(sheet.figure).encode(), end, after]))


class PngWriter(_PageWriter):
    """Pixels, packed without loss."""

    def save(self, sheet: Rendered, buffer: io.BytesIO) -> None:
        """Write a page."""
        told = PngInfo()
        told.add_text("Title", self.title)
        told.add_text("Software", _CREATOR)
        told.add_text(KEY, self.provenance)
        sheet.picture.save(buffer, "PNG", dpi=sheet.dpi, pnginfo=told, compress_level=4)


class TiffWriter(_PageWriter):
    """The same for publishers who ask for it."""

    def save(self, sheet: Rendered, buffer: io.BytesIO) -> None:
        """Write a page."""
        told: dict[str, Any] = {"description": self.provenance, "software": _CREATOR}
        sheet.picture.save(buffer, "TIFF", dpi=sheet.dpi, compression="tiff_lzw", **told)


_WRITERS: dict[Format, Callable[[str, str], Writer]] = {
    "pdf": PdfWriter,
    "svg": SvgWriter,
    "png": PngWriter,
    "tiff": TiffWriter,
}


def files_of(
    pages: Iterable[Sheet], formats: Iterable[Format], title: str, provenance: str
) -> dict[str, bytes]:
    """The files of a figure by the ends of their names, such as `.pdf` or `-2.png`.

    Args:
        pages: drawn one by one, and none kept.
        formats: `pdf` is one file, others are one per page, numbered if there are several.
        title: what viewers may call it.
        provenance: a text in ASCII that all of them hold.
    """
    writers = {name: _WRITERS[name](title, provenance) for name in formats}
    for page in pages:
        rendered = Rendered(page)
        for writer in writers.values():
            writer.add(rendered)
    return {
        f"-{number}.{name}" if len(files) > 1 else f".{name}": data
        for name, files in ((name, writer.finish()) for name, writer in writers.items())
        for number, data in enumerate(files, 1)
    }
