"""The letters that a figure uses, out of the fonts that have them, for files that bring them along.

PDFs get theirs from matplotlib; this is for SVG, whose words would else be set in whatever font a
reader has, with other widths.
"""

import base64
import io
from collections.abc import Iterator

from fontTools import subset
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.text import Text


def font_faces(figure: Figure) -> str:
    """Rules of CSS that hold every font of a figure, cut down to its letters."""
    return "\n".join(
        f"@font-face {{font-family: '{family}'; font-weight: {weight}; "
        f"src: url(data:font/ttf;base64,{base64.b64encode(data).decode()})}}"
        for family, weight, data in _fonts(figure)
    )


def _fonts(figure: Figure) -> Iterator[tuple[str, str, bytes]]:
    """Family, weight and TrueType file of each font."""
    used: dict[tuple[str, str], set[str]] = {}
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        font = str(text.get_fontfamily()[0]), str(text.get_fontweight())
        used.setdefault(font, set()).update(text.get_text())
    for (family, weight), letters in sorted(used.items()):
        if letters:
            path = findfont(FontProperties(family=family, weight=weight))
            yield family, weight, _cut(path, "".join(sorted(letters)))


_TABLES = {"cmap", "glyf", "head", "hhea", "hmtx", "kern", "loca", "maxp", "name", "post", "OS/2"}
"""What a TrueType font is made of; others are of no use here."""


def _cut(path: str, letters: str) -> bytes:
    """A font with these letters alone."""
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
