"""Paper of the size that settings ask for, with a title above and a caption below."""

from dataclasses import dataclass
from functools import cached_property

from layer_atlas.config.figures import FigureSettings
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.paper.letters import FontMetrics
from layer_atlas.presentation.figures.paper.sheet import FAINT, Format, Sheet, format_of


@dataclass(frozen=True)
class PageSpec:
    """What sheets are cut from; all lengths in dots."""

    settings: FigureSettings
    words: str = ""
    """What a caption says that is to come by itself."""

    @cached_property
    def format(self) -> Format:
        """Its size in inches, and sizes of letters."""
        return format_of(self.settings)

    @cached_property
    def letters(self) -> FontMetrics:
        """Its font."""
        return FontMetrics(self.settings.font, self.settings.dpi)

    def dots(self, inches: float) -> int:
        """A length in inches as dots."""
        return round(inches * self.settings.dpi)

    @property
    def margin(self) -> int:
        """Left free on each side."""
        return self.dots(self.format.margin)

    @property
    def width(self) -> int:
        """Between the margins."""
        return self.dots(self.format.width) - 2 * self.margin

    @property
    def gap(self) -> int:
        """Between things that belong together: 2.5 points."""
        return round(self.letters.dots(2.5))

    @property
    def height(self) -> int:
        """Most of a page, without margins, title and caption; raises UserError if none is left."""
        left = self.dots(self.format.height) - 2 * self.margin - self._above - self._below
        if left < self.dots(0.5):
            raise UserError("title and caption leave no room: take a larger figure.height.")
        return left

    def sheet(self, height: int, first: bool = True, last: bool = True) -> Sheet:
        """A sheet with so much room for what is to be shown; places count from where that begins.

        Title and caption are on the first and the last sheet.
        """
        top = self.margin + (self._above if first else 0)
        bottom = self.margin + (self._below if last else 0)
        size = self.width + 2 * self.margin, top + height + bottom
        sheet = Sheet(size, (self.margin, top), self.letters)
        if first:
            self._write_title(sheet)
        if last:
            self._write_caption(sheet, height + 2 * self.gap)
        return sheet

    @property
    def _above(self) -> int:
        return self.letters.line(self.format.text) + 2 * self.gap if self.settings.title else 0

    @property
    def _below(self) -> int:
        line = self.letters.line(self.format.small)
        return len(self._caption) * line + 2 * self.gap if self._caption else 0

    @cached_property
    def _caption(self) -> list[str]:
        asked = self.settings.caption
        words = self.words if asked == "auto" else asked or ""
        return self.letters.wrapped(words, self.format.small, self.width)

    def _write_title(self, sheet: Sheet) -> None:
        size = self.format.text
        # Bold letters are wider by about a tenth.
        words = self.letters.shortened(self.settings.title or "", size, self.width / 1.15)
        sheet.text((0, -self._above), words, size, weight="bold")

    def _write_caption(self, sheet: Sheet, top: int) -> None:
        size, line = self.format.small, self.letters.line(self.format.small)
        for number, words in enumerate(self._caption):
            sheet.text((0, top + number * line), words, size, colour=FAINT)
