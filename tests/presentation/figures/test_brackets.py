"""Brackets: every name keeps to its own, whatever it is called and however short that is."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest
from matplotlib.text import Text

from layer_atlas.config.outputs import ImagesFigure
from layer_atlas.presentation.figures.brackets import (
    Bracket,
    bracket_room,
    draw_above,
    draw_beside,
    lines_needed,
    longest,
    runs,
)
from layer_atlas.presentation.layout.figure import PageSpec, style

SETTINGS = ImagesFigure()
PAPER = PageSpec(SETTINGS)
NAMES = ["high-frequency textures", "a", "Grüße & 50 %", "features.denseblock4.denselayer16.conv2"]
EDGE = 500


def brackets(names: Sequence[str], length: float, lines: int = 1) -> list[Bracket]:
    """Neighbours of one length, as close together as images are."""
    step, room = length + PAPER.gap, bracket_room(PAPER, lines)
    return [Bracket(x, i * step, i * step + length, EDGE, room) for i, x in enumerate(names)]


def drawn(draw: Callable[..., None], found: Sequence[Bracket]) -> list[tuple[Text, np.ndarray]]:
    """Every text with its box (left, top, right, bottom), in dots."""
    with style(SETTINGS):
        canvas = PAPER.canvas(EDGE + 400)
        draw(canvas, PAPER, found)
        canvas.figure.draw_without_rendering()
        texts = [text for text in canvas.figure.findobj(Text) if text.get_text()]
        boxes = [text.get_window_extent().extents for text in texts]
    (left, top), (_, height) = canvas.origin, canvas.size
    turned = [(a - left, height - d - top, c - left, height - b - top) for a, b, c, d in boxes]
    return list(zip(texts, map(np.asarray, turned), strict=True))


def test_runs_are_of_neighbours() -> None:
    assert runs(["a", "a", "", "b", "a"]) == [("a", [0, 1]), ("b", [3]), ("a", [4])]


@pytest.mark.parametrize("lines", [1, 2, 3])
@pytest.mark.parametrize("length", [30, 72, 120, 260])
@pytest.mark.parametrize(("draw", "along"), [(draw_above, 0), (draw_beside, 1)])
def test_names_keep_to_their_brackets_and_their_room(
    draw: Callable[..., None], along: int, length: float, lines: int
) -> None:
    found = brackets(NAMES, length, lines)
    for _, box in drawn(draw, found):
        inside = [x for x in found if x.start - 1 <= box[along] and box[along + 2] <= x.end + 1]
        assert len(inside) == 1
        # Descenders reach below the line of letters, where the bracket is drawn apart from them.
        assert EDGE - found[0].room - 1 <= box[1 - along]
        assert box[3 - along] <= EDGE


def test_a_name_is_broken_between_words_and_at_hyphens_and_then_shortened() -> None:
    def words(length: float) -> list[str]:
        found = brackets(["high-frequency textures"], length, 3)
        return [text.get_text() for text, _ in drawn(draw_above, found)]

    assert words(700) == ["high-frequency textures"]
    assert words(270) == ["high-frequency", "textures"]
    assert words(150) == ["high-", "frequency", "textures"]
    first, second, _ = words(90)
    assert first == "high-"
    assert second.startswith("fr")
    assert second.endswith("…")


def test_as_many_lines_are_needed_as_names_have_at_letters_of_about_the_usual_size() -> None:
    assert lines_needed(PAPER, []) == 0
    assert [lines_needed(PAPER, brackets(NAMES[:1], long)) for long in (700, 270, 150)] == [1, 2, 3]
    # What cannot be read in any number of lines takes up no more than one.
    hopeless = brackets(["w" * 40], 90)
    assert lines_needed(PAPER, hopeless) == 1
    assert lines_needed(PAPER, hopeless + brackets(NAMES[:1], 270)) == 2


def test_letters_are_of_one_size_but_where_names_have_no_room() -> None:
    sizes = [
        text.get_fontsize()
        for text, _ in drawn(draw_above, [*brackets(["curves", "colours of all kinds"], 230)])
    ]
    assert len(set(sizes)) == 1
    assert PAPER.format.least < sizes[0] < PAPER.format.small
    short, long = brackets(["a name"], 60)[0], Bracket("a name", 200, 600, EDGE, 99)
    sizes = [text.get_fontsize() for text, _ in drawn(draw_above, [short, long])]
    assert sizes == [PAPER.format.least, PAPER.format.small]


def test_of_a_group_that_is_broken_its_longest_bracket_counts() -> None:
    short, long, other = (Bracket(x, 0, n, EDGE, 49) for x, n in (("a", 50), ("a", 90), ("b", 9)))
    assert longest([short, long, other]) == {"a": long, "b": other}
    assert longest([long, short]) == {"a": long}


def test_neighbours_are_apart_though_names_fill_their_brackets() -> None:
    length = PAPER.font.width("mmmm", PAPER.format.small) + 1
    boxes = [box for _, box in drawn(draw_above, brackets(["mmmm"] * 6, length))]
    assert all(b[0] - a[2] > 1.8 * PAPER.gap for a, b in pairwise(boxes))
