"""Letters: texts are measured as they are drawn, and cut where they must be."""

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from layer_atlas.config.outputs import TracesFigure
from layer_atlas.errors import UserError
from layer_atlas.presentation.layout.figure import FontMetrics, check_font, style

LETTERS = FontMetrics("DejaVu Sans", 300)


def test_widths_are_those_that_are_drawn() -> None:
    with style(TracesFigure()):
        figure = Figure(dpi=300)
        FigureCanvasAgg(figure)
        text = figure.text(0, 0, "features.12 $x_1$", fontsize=7)
        drawn = text.get_window_extent().width
    assert LETTERS.width("features.12 $x_1$", 7) == pytest.approx(drawn, abs=2)


def test_a_size_is_the_largest_at_which_all_have_room() -> None:
    room = LETTERS.width("2047", 6.0)
    assert LETTERS.size(["3", "2047"], room, 7, 5) == pytest.approx(6.0, rel=0.01)
    assert LETTERS.size(["3"], room, 7, 5) == 7
    assert LETTERS.size(["a very long name"], room, 7, 5) == 5
    assert LETTERS.size([], room, 7, 5) == 7


@pytest.mark.parametrize("keep", ["start", "end"])
@pytest.mark.parametrize("room", [0, 20, 60, 200, 4000])
def test_what_is_left_of_a_text_has_room(keep: str, room: int) -> None:
    name = "features.denseblock4.denselayer16.conv2"
    short = LETTERS.shortened(name, 7, room, keep)  # type: ignore[arg-type]
    assert LETTERS.width(short, 7) <= room
    if room == 4000:
        assert short == name
    elif short:
        kept = short.strip("…")
        assert name.startswith(kept) if keep == "start" else name.endswith(kept)
        longer = name[: len(kept) + 2] if keep == "start" else name[-len(kept) - 2 :]
        assert LETTERS.width(longer + "…", 7) > room


def test_texts_are_broken_between_words() -> None:
    lines = LETTERS.wrapped("one two three four five", 7, LETTERS.width("three four", 7))
    assert lines == ["one two", "three four", "five"]
    assert LETTERS.wrapped("", 7, 100) == []


def test_of_too_many_lines_the_last_tells_the_rest_as_far_as_it_can() -> None:
    room = LETTERS.width("three four", 7)
    assert LETTERS.wrapped("one two three four five", 7, room, 3)[2] == "five"
    first, second = LETTERS.wrapped("one two three four five", 7, room, 2)
    assert (first, second[:6], second[-1]) == ("one two", "three ", "…")
    assert LETTERS.width(second, 7) <= room
    assert LETTERS.holds("one two three four five", 7, room, 3)
    assert not LETTERS.holds("one two three four five", 7, room, 2)
    assert not LETTERS.holds("three-and-a-half extraordinarily", 7, room, 9)


def test_words_are_broken_behind_hyphens_alone() -> None:
    room = LETTERS.width("frequency", 7) * 1.01
    assert LETTERS.wrapped("high-frequency", 7, room) == ["high-", "frequency"]
    assert LETTERS.wrapped("a - b -1.5 to-", 7, 4000) == ["a - b -1.5 to-"]
    assert LETTERS.wrapped("a -1.5", 7, LETTERS.width("-1.5", 7)) == ["a", "-1.5"]


def test_a_font_that_is_not_there_is_told() -> None:
    check_font("DejaVu Sans")
    with pytest.raises(
        UserError, match=r"unknown figure\.font 'DejaVuu Sans'; choose from: DejaVu"
    ):
        check_font("DejaVuu Sans")
