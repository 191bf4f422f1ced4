"""Letters: how wide a text is on paper, and what is left of it where it has to be shorter.

Lengths are in dots, of which a figure has `dpi` to the inch; letters are measured in points.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

from matplotlib.font_manager import FontProperties, fontManager
from matplotlib.textpath import text_to_path

from layer_atlas.errors import unknown

POINTS_PER_INCH = 72
LINE = 1.35
"""Height of a line, in sizes of its letters."""

_PIECE = re.compile(r" ?[^ ]+?(?:(?<=\w-)(?=\w)|(?= )|$)")
"""A word, or a part of it up to a hyphen, with the blank before it."""
_MEASURED_AT = 10.0
_TRUETYPE = (".ttf", ".ttc")

Weight = Literal["normal", "bold"]


def check_font(family: str) -> None:
    """Raise UserError unless a TrueType font of this family is installed.

    Other fonts cannot be put into a PDF as TrueType, which publishers ask for.
    """
    known = {f.name for f in fontManager.ttflist if Path(f.fname).suffix.lower() in _TRUETYPE}
    if family not in known:
        raise unknown("figure.font", family, known)


@dataclass(frozen=True)
class FontMetrics:
    """A font on paper of so many dots per inch."""

    family: str
    dpi: int

    def dots(self, points: float) -> float:
        """A length in points as dots."""
        return points * self.dpi / POINTS_PER_INCH

    def line(self, points: float) -> int:
        """Height of a line."""
        return round(self.dots(points) * LINE)

    def points(self, line: int) -> float:
        """Size of the letters of a line of this height."""
        return line / LINE * POINTS_PER_INCH / self.dpi

    def width(self, text: str, points: float, weight: Weight = "normal") -> float:
        """Width of a text."""
        return _width(self.family, weight, text) * self.dots(points) / _MEASURED_AT

    def widest(self, texts: Iterable[str], points: float, weight: Weight = "normal") -> float:
        """Width of the widest of some texts; 0 of none."""
        return max((self.width(text, points, weight) for text in texts), default=0.0)

    def size(self, texts: Iterable[str], room: float, most: float, least: float) -> float:
        """The largest size between two at which all texts have room, or else the least."""
        wide = self.widest(texts, most)
        return most if wide <= room else max(least, most * room / wide)

    def shortened(
        self, text: str, points: float, room: float, keep: Literal["start", "end"] = "start"
    ) -> str:
        """The text, or as much of its start or its end as there is room for, and an ellipsis."""
        # One that comes out at exactly its room was made to fit it.
        room *= 1 + 1e-9
        if self.width(text, points) <= room:
            return text
        low, high = 0, len(text) - 1
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.width(_cut(text, middle, keep), points) <= room
            low, high = (middle, high) if fits else (low, middle - 1)
        return _cut(text, low, keep) if low else ""

    def wrapped(self, text: str, points: float, room: float, most: int | None = None) -> list[str]:
        """A text in lines, broken between words; the last of at most so many tells the rest."""
        lines = self._broken(text, points, room)
        if most is not None and len(lines) > most:
            lines[most - 1 :] = ["".join(lines[most - 1 :])]
        return [self.shortened(line.strip(), points, room) for line in lines]

    def holds(self, text: str, points: float, room: float, most: int) -> bool:
        """Whether there is room for all of a text in at most so many lines."""
        lines = self._broken(text, points, room)
        return len(lines) <= most and self.widest(map(str.strip, lines), points) <= room

    def _broken(self, text: str, points: float, room: float) -> list[str]:
        """A text in lines that are too long where a word is, each with the blank before it."""
        lines: list[str] = []
        for piece in _PIECE.findall(" ".join(text.split())):
            if lines and self.width((lines[-1] + piece).strip(), points) <= room:
                lines[-1] += piece
            else:
                lines.append(piece)
        return lines


def _cut(text: str, length: int, keep: str) -> str:
    return text[:length].rstrip() + "…" if keep == "start" else "…" + text[len(text) - length :]


@lru_cache(65536)
def _width(family: str, weight: Weight, text: str) -> float:
    """In points, of letters of ten points."""
    font = FontProperties(family=family, weight=weight, size=_MEASURED_AT)
    width, _, _ = text_to_path.get_text_width_height_descent(text, font, ismath=False)
    return float(width)
