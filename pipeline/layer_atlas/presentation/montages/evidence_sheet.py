"""Sheets of evidence: what channels' images show, beside photographs that excite the channels.

A row per channel, after the appendix of Olah et al., "Feature Visualization" (Distill, 2017): at
the left the optimised images with a caption below; then the photographs that excite the channel
most, each with its saliency below it (or, without saliency, in two lines); then those that excite
it least. All tiles are of one size, so that the scale of what they show can be compared. A sheet
is planned first, as boxes that do not overlap; what remains is to paint them.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from layer_atlas.atlas.drawing import (
    ALARM,
    FAINT,
    INK,
    LARGEST_SIDE,
    PAPER,
    RULE,
    Box,
    Text,
    Tile,
    font,
    paint_text,
    paint_tile,
    wrapped,
)
from layer_atlas.presentation.montages.evidence_row import EvidenceRow
from layer_atlas.presentation.montages.sheet_grid import Grid, Needs, Scale, plan_grid, row_height

__all__ = ["EvidenceRow", "Sheet", "draw_sheet", "pages", "plan_sheet", "rows_per_page"]

_NARROWEST = 400
"""Pixels; title and legend need some width."""


@dataclass(frozen=True)
class Sheet:
    """A planned sheet: everything in its place; no two boxes of tiles and texts overlap."""

    size: tuple[int, int]
    tiles: tuple[Tile, ...]
    texts: tuple[Text, ...]
    rules: tuple[Box, ...]
    """Thin lines between the rows."""


def draw_sheet(
    title: str,
    subtitle: str,
    rows: Sequence[EvidenceRow],
    tile: int,
    notes: Sequence[str] = (),
) -> Image.Image:
    """Draw a sheet: an RGB picture.

    Args:
        title: what is shown, such as model and layer.
        subtitle: how it was made.
        rows: at least one; `rows_per_page` tells how many a sheet takes.
        tile: largest side of images and photographs in pixels; smaller ones are shown as they are.
        notes: sentences to end the legend with, such as the meaning of the facts.
    Raises:
        ValueError: no rows.
    """
    sheet = plan_sheet(title, subtitle, rows, tile, notes)
    picture = Image.new("RGB", sheet.size, PAPER)
    draw = ImageDraw.Draw(picture)
    for rule in sheet.rules:
        draw.line(rule, fill=RULE)
    for placed in sheet.tiles:
        paint_tile(picture, placed)
    for text in sheet.texts:
        paint_text(draw, text)
    return picture


def pages(n_channels: int, per_page: int) -> list[range]:
    """Cut channels, by their places, into as few pages as can be, of about the same length."""
    n = math.ceil(n_channels / per_page)
    return [range(n_channels * i // n, n_channels * (i + 1) // n) for i in range(n)]


def rows_per_page(tile: int, facts: int) -> int:
    """How many rows with so many facts make a picture that viewers still open."""
    scale = Scale(tile)
    title_and_legend = 20 * scale.line
    row = row_height(scale, facts, words=True) + scale.space
    return max(1, (LARGEST_SIDE - title_and_legend) // row)


def plan_sheet(
    title: str, subtitle: str, rows: Sequence[EvidenceRow], tile: int, notes: Sequence[str] = ()
) -> Sheet:
    """Give everything that `draw_sheet` draws its place. Raises ValueError: no rows."""
    scale = Scale(_largest_tile(rows, tile))
    grid = plan_grid(scale, _needs(rows, scale))
    width = max(_NARROWEST, grid.right + scale.space)
    left, right = scale.space, width - scale.space
    texts = [*_titles(title, subtitle, scale, left, right)]
    texts += _heads(grid, texts[-1].box[3] + scale.line)
    tiles: list[Tile] = []
    top = texts[-1].box[3] + scale.gap
    rules = [(left, top, right - 1, top)]
    for row in rows:
        top += scale.space // 2
        tiles += _tiles(row, grid, top)
        texts += [*_fates(row, grid, top), *_caption(row, grid, top)]
        top += grid.row_height + scale.space // 2
        rules.append((left, top, right - 1, top))
    texts += _legend(rows, notes, scale, left, right, top + scale.line // 2)
    bottom = max(text.box[3] for text in texts) + scale.space
    return Sheet((width, bottom), tuple(tiles), tuple(texts), tuple(rules))


def _largest_tile(rows: Sequence[EvidenceRow], tile: int) -> int:
    """No tile is larger than the largest picture, and no sheet too wide to open."""
    if not rows:
        raise ValueError("a sheet takes at least one row.")
    sides = [image.shape[0] for row in rows for image in row.images if image is not None]
    sides += [p.shape[1] for row in rows for p in (row.strongest, row.weakest) if len(p)]
    across = max(len(row.images) + len(row.strongest) + len(row.weakest) for row in rows)
    return max(16, min(tile, LARGEST_SIDE // (across + 2), max(sides, default=tile)))


def _needs(rows: Sequence[EvidenceRow], scale: Scale) -> Needs:
    return Needs(
        images=max(len(row.images) for row in rows),
        strongest=max(len(row.strongest) for row in rows),
        weakest=max(len(row.weakest) for row in rows),
        facts=max(len(row.facts) for row in rows),
        saliency=any(row.saliency for row in rows),
        words=any(_words_below(row) for row in rows),
        caption=min(_caption_width(rows, scale), 15 * scale.text),
    )


def _words_below(row: EvidenceRow) -> dict[int, str]:
    """Words on images that are there, by place; where there is none, its square has the word."""
    pairs = zip(row.images, row.words, strict=True)
    return {i: word for i, (image, word) in enumerate(pairs) if word and image is not None}


def _caption_width(rows: Sequence[EvidenceRow], scale: Scale) -> float:
    number, letters = font(scale.number), font(scale.text)
    widths = [number.getlength(_number(row)) for row in rows]
    widths += [
        letters.getlength(name) + scale.text + letters.getlength(value)
        for row in rows
        for name, value in row.facts.items()
    ]
    return max(widths)


def _number(row: EvidenceRow) -> str:
    return f"channel {row.channel}"


def _titles(title: str, subtitle: str, scale: Scale, left: int, right: int) -> Iterator[Text]:
    middle = scale.space + round(scale.title * 1.4)
    yield Text((left, scale.space, right, middle), title, scale.title)
    yield Text((left, middle, right, middle + scale.line), subtitle, scale.text, FAINT)


def _heads(grid: Grid, top: int) -> Iterator[Text]:
    scale = grid.scale
    for column in grid.columns:
        box = (column.left, top, column.right, top + scale.line)
        yield Text(box, column.head, scale.text)
    if grid.needs.saliency:
        left, right = grid.strongest.left, grid.strongest.right
        below = (left, top + scale.line, right, top + 2 * scale.line)
        yield Text(below, "their saliency below", scale.text, FAINT)


def _tiles(row: EvidenceRow, grid: Grid, top: int) -> Iterator[Tile]:
    scale = grid.scale
    for i, (image, word) in enumerate(zip(row.images, row.words, strict=True)):
        yield Tile(grid.images.box(scale, top, i), image, word=word)
    for i, (photograph, frame) in enumerate(zip(row.strongest, row.frames, strict=True)):
        yield Tile(grid.strongest.box(scale, top, i), photograph, frame)
    for i, overlay in enumerate(row.saliency):
        yield Tile(grid.strongest.box(scale, top, grid.strongest.tiles + i), overlay)
    for i, photograph in enumerate(row.weakest):
        yield Tile(grid.weakest.box(scale, top, i), photograph)


def _fates(row: EvidenceRow, grid: Grid, top: int) -> Iterator[Text]:
    for i, word in _words_below(row).items():
        left, _, right, bottom = grid.images.box(grid.scale, top, i)
        top_of_word = bottom + grid.scale.gap
        box = (left, top_of_word, right, top_of_word + grid.scale.line)
        yield Text(box, word, grid.scale.text, ALARM)


def _caption(row: EvidenceRow, grid: Grid, top: int) -> Iterator[Text]:
    """The channel's number, and its facts in two columns."""
    scale = grid.scale
    left, top = grid.caption_corner(top)
    right = left + grid.caption_width
    below = top + scale.heading
    yield Text((left, top, right, below), _number(row), scale.number)
    for name, value in row.facts.items():
        widest = min(font(scale.text).getlength(value), 0.6 * grid.caption_width)
        middle = right - math.ceil(widest)
        yield Text((left, below, middle - scale.gap, below + scale.line), name, scale.text, FAINT)
        yield Text((middle, below, right, below + scale.line), value, scale.text, INK, "right")
        below += scale.line


def _legend(
    rows: Sequence[EvidenceRow],
    notes: Sequence[str],
    scale: Scale,
    left: int,
    right: int,
    top: int,
) -> Iterator[Text]:
    for line in wrapped(" ".join([*_explanations(rows), *notes]), scale.text, right - left):
        yield Text((left, top, right, top + scale.line), line, scale.text, FAINT)
        top += scale.line


def _explanations(rows: Sequence[EvidenceRow]) -> Iterator[str]:
    if any(len(row.strongest) + len(row.weakest) for row in rows):
        yield "Photographs from left to right, the most extreme first."
    if any(frame for row in rows for frame in row.frames):
        yield "Frames: the part of the photograph that the largest response is computed from."
    if any(row.saliency for row in rows):
        yield "Saliency: what drives the channel in the photograph above."
