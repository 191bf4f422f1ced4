"""Fitting texts to their room: sizes of letters, shortening, wrapping; the same for every font."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import replace

from layer_atlas.errors import sanitize
from layer_atlas.presentation.layout.page import Align, Keep, Point, Text

LINE = 1.35
"""Height of a line, in sizes of its letters."""

_PIECE = re.compile(r" ?[^ ]+?(?:(?<=\w-)(?=\w)|(?= )|$)")
"""A word, or a part of it up to a hyphen, with the blank before it."""


class Font(ABC):
    """Measures texts; lengths are in dots, sizes of letters in the unit of the back end."""

    @abstractmethod
    def width(self, text: str, size: float, bold: bool = False) -> float:
        """Width of a text, as it is."""

    @abstractmethod
    def line(self, size: float) -> int:
        """Height of a line."""

    @abstractmethod
    def size(self, texts: Iterable[str], room: float, most: float, least: float) -> float:
        """The largest size between two at which all texts have room, or else the least."""

    def drawable(self, text: str) -> str:
        """The text on one line, with nothing in it that the font lacks."""
        return sanitize(text)

    def widest(self, texts: Iterable[str], size: float) -> float:
        """Width of the widest of some texts; 0 if there are none."""
        return max((self.width(text, size) for text in texts), default=0.0)

    def fitted(self, text: Text) -> Text:
        """The text as it is drawn: smaller where that helps, then cut short."""
        words, size = self.drawable(text.words), text.size
        if text.least is not None:
            size = self.size([words], text.room, text.size, text.least)
        words = self._shortened(words, size, text.room, text.keep, text.bold)
        return replace(text, words=words, size=size)

    def shortened(self, text: str, size: float, room: float, keep: Keep = "start") -> str:
        """The text, or as much of its start or end as there is room for, and an ellipsis."""
        return self._shortened(self.drawable(text), size, room, keep, bold=False)

    def _shortened(self, text: str, size: float, room: float, keep: Keep, bold: bool) -> str:
        # Letters whose size was computed from this room come out at exactly its width.
        room *= 1 + 1e-9
        if self.width(text, size, bold) <= room:
            return text
        low, high = 0, len(text) - 1
        while low < high:
            middle = (low + high + 1) // 2
            fits = self.width(_cut(text, middle, keep), size, bold) <= room
            low, high = (middle, high) if fits else (low, middle - 1)
        return _cut(text, low, keep) if low else ""

    def wrapped(self, text: str, size: float, room: float, most: int | None = None) -> list[str]:
        """Break a text into lines between words; the last of at most so many holds the rest."""
        lines = self._broken(text, size, room)
        if most is not None and len(lines) > most:
            lines[most - 1 :] = ["".join(lines[most - 1 :])]
        return [self.shortened(line.strip(), size, room) for line in lines]

    def holds(self, text: str, size: float, room: float, most: int) -> bool:
        """Whether all of a text has room in at most so many lines."""
        lines = self._broken(text, size, room)
        return len(lines) <= most and self.widest(map(str.strip, lines), size) <= room

    def _broken(self, text: str, size: float, room: float) -> list[str]:
        """Break a text into lines, each with the blank before it; single words may be too long."""
        lines: list[str] = []
        for piece in _PIECE.findall(" ".join(text.split())):
            if lines and self.width((lines[-1] + piece).strip(), size) <= room:
                lines[-1] += piece
            else:
                lines.append(piece)
        return lines

    def without_common_word(self, texts: Sequence[str], size: float, room: float) -> list[str]:
        """The texts without a first word that all share, if there is no room for it."""
        # A single number below an image is plain enough; two kinds of words are not.
        shorter = [text.partition(" ")[2] for text in texts]
        common = len({text.split(" ")[0] for text in texts}) == 1 and all(shorter)
        return shorter if common and self.widest(texts, size) > room else list(texts)

    def placed(
        self,
        point: Point,
        words: str,
        size: float,
        room: float,
        align: Align = "left",
        **look: str | bool,
    ) -> Text:
        """A text in a band of one line that begins, ends or has its middle at x and begins at y."""
        (x, y), height = point, self.line(size)
        left = x - room * {"left": 0.0, "center": 0.5, "right": 1.0}[align]
        box = left, y, left + room, y + height
        return Text(box, words, size, align=align, **look)  # type: ignore[arg-type]

    def turned(self, middle: Point, words: str, size: float, room: float) -> Text:
        """A text that reads upwards, with its middle at a place."""
        (x, y), half = middle, self.line(size) / 2
        return Text((x - half, y - room / 2, x + half, y + room / 2), words, size, turned=True)


def _cut(text: str, length: int, keep: Keep) -> str:
    return text[:length].rstrip() + "…" if keep == "start" else "…" + text[len(text) - length :]
