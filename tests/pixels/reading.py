"""Read a picture as people do: where its tiles are, which image each is most like, what is written.

Nothing here knows how pictures are laid out or drawn, but for the font of their words.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]
Key = TypeVar("Key", bound=Hashable)

_SIZES = range(9, 24)
"""Of letters, in pixels."""
_SHIFTS = (0.0, 0.5, 0.25, 0.75, 0.125, 0.375, 0.625, 0.875)
"""Places between pixels where words may begin."""


def in_colour(pixels: Pixels) -> Pixels:
    """What is to be seen of pixels (H, W, colours): grey, red and green, or the first three."""
    shown = np.zeros((*pixels.shape[:2], 3), np.uint8)
    colours = pixels.shape[2]
    shown[..., : min(colours, 3)] = pixels[..., :3]
    return np.repeat(pixels, 3, axis=2) if colours == 1 else shown


def tiles(picture: Pixels, least: int = 250) -> list[Box]:
    """The boxes (left, top, right, bottom) of all tiles, in reading order: filled rectangles."""
    inked = ndimage.binary_fill_holes((picture != 255).any(axis=2))  # frames are white
    blobs, _ = ndimage.label(inked)
    found = []
    for number, (down, across) in enumerate(ndimage.find_objects(blobs), 1):
        area = (down.stop - down.start) * (across.stop - across.start)
        if area >= least and (blobs[down, across] == number).sum() > 0.9 * area:
            found.append((across.start, down.start, across.stop, down.stop))
    return sorted(found, key=lambda box: (box[1], box[0]))


def cut(picture: Pixels, box: Box) -> Pixels:
    left, top, right, bottom = box
    return picture[top:bottom, left:right]


def most_like(shown: Pixels, candidates: Mapping[Key, Pixels], worst: float = 3.0) -> Key | None:
    """The candidate that a tile shows, at whichever size; `None` if it is like none of them.

    Args:
        shown: (H, W, 3).
        candidates: pictures (h, w, 3).
        worst: mean difference up to which two are alike.
    """
    size = shown.shape[1], shown.shape[0]
    apart = {
        key: np.abs(np.asarray(Image.fromarray(pixels).resize(size)).astype(int) - shown).mean()
        for key, pixels in candidates.items()
    }
    best = min(apart, key=apart.__getitem__)
    return best if apart[best] <= worst else None


# --- words ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Word:
    """Something that is written."""

    left: int
    top: int
    words: str | None
    """`None`: none of the candidates."""
    red: bool


def texts(picture: Pixels, box: Box, candidates: Iterable[str]) -> Iterator[Word]:
    """What is written in a part of a picture, line by line; each is one of the candidates."""
    left, top, _, _ = box
    part, known = cut(picture, box), sorted(set(candidates))
    for first, last in _runs((part < 255).any(axis=(1, 2)), 1):
        line = part[first:last]
        red = line[..., 0].astype(int) - line[..., 1] > 30
        runs = _runs((line < 255).any(axis=(0, 2)), 3)
        while runs:
            colour = bool(red[:, slice(*runs[0])].any())
            alike = [run for run in runs if red[:, slice(*run)].any() == colour]
            count, word = _longest(line, alike, known)
            yield Word(left + runs[0][0], top + first, word, colour)
            runs = [run for run in runs if run not in alike[:count]]


def _longest(line: Pixels, runs: list[tuple[int, int]], known: list[str]) -> tuple[int, str | None]:
    """How many runs from the first one on are one of the known texts, and which."""
    for count in range(len(runs), 0, -1):
        word = _recognised(line[:, runs[0][0] : runs[count - 1][1]], known)
        if word is not None:
            return count, word
    return 1, None


def _recognised(ink: Pixels, known: list[str]) -> str | None:
    """The text that ink is, at any size and in any colour."""
    dark = 255 - ink[..., 1].astype(float)  # green is dark in every ink
    dark = _trimmed(dark)
    best, least = None, 0.05
    near = [
        (text, size)
        for text, size in product(known, _SIZES)
        if abs(_length(text, size) - dark.shape[1]) < 8
    ]
    for shift in _SHIFTS:
        for text, size in near:
            rendered = _rendered(text, size, shift)
            if rendered.shape == dark.shape:
                apart = float(np.abs(rendered - dark).mean())
                best, least = (text, apart) if apart < least else (best, least)
        if least < 0.005:
            break
    return best


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


@cache
def _length(text: str, size: int) -> float:
    return _font(size).getlength(text)


@cache
def _rendered(text: str, size: int, shift: float) -> NDArray[np.float64]:
    """A text, so far to the right of whole pixels."""
    canvas = Image.new("L", (round(_length(text, size)) + 12, 2 * size))
    ImageDraw.Draw(canvas).text((4 + shift, 2), text, 255, _font(size))
    return _trimmed(np.asarray(canvas, np.float64))


def _trimmed(ink: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ink without what is empty around it, from 0 to 1."""
    rows, columns = (np.flatnonzero(ink.max(axis=axis)) for axis in (1, 0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] / ink.max()


def _runs(there: NDArray[np.bool_], gap: int) -> list[tuple[int, int]]:
    """Where something begins and ends along a line; smaller gaps belong to it."""
    places = np.flatnonzero(there)
    if not len(places):
        return []
    breaks = np.flatnonzero(np.diff(places) > gap)
    starts, ends = [0, *(breaks + 1)], [*breaks, len(places) - 1]
    return [(int(places[a]), int(places[b]) + 1) for a, b in zip(starts, ends, strict=True)]
