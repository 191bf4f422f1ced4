"""Composite figures: panels in their parts of a page, each under its letter, and one caption."""

import json
import shlex
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from atlases import add_photographs, made_up
from docs_pages import ROOT, blocks
from figure_pages import check, overlap, pictures, texts, within
from matplotlib.axes import Axes
from toys import composed

from layer_atlas import open_atlas
from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.compose import with_config
from layer_atlas.config.outputs import (
    AgainFigure,
    ComparisonFigure,
    CompositeFigure,
    HistogramsFigure,
    ImagesFigure,
    ProfileFigure,
    ResponsesFigure,
    TracesFigure,
)
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.composite import _inheriting, placed_panels
from layer_atlas.presentation.figures.make import KINDS, command_of, make_figure
from layer_atlas.presentation.figures.methods import texts_of
from layer_atlas.presentation.layout.figure import PageSpec, style
from layer_atlas.store.folder import OutputFolder

FOUR = (
    ImagesFigure(channels={"top": 8}),
    ResponsesFigure(channels="0:8", title="Responses"),
    TracesFigure(),
    ProfileFigure(statistics=("agreement", "activation")),
)


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    file = made_up(tmp_path_factory.mktemp("runs") / "toy", {"conv": 20, "fc": 9}, (0, 1))
    add_photographs(file)
    return open_atlas(file)


def figure(**settings: Any) -> CompositeFigure:
    usual = {"panels": FOUR, "layers": ("conv",), "dpi": 100}
    return CompositeFigure(**{**usual, **settings})


LAYOUTS = [
    figure(),
    figure(layout=("aab", "ccd")),
    figure(layout=("ab", "cd"), caption="auto", title="A title"),
    figure(width="column"),
    figure(width="column", layout=("a", "b", "cd"), height=6.0),
    figure(width="slide", layout=("abb", "cdd")),
    figure(layout=("aaab", "aaac", "dddd")),
    figure(layers=None, panels=(*FOUR[2:], HistogramsFigure()), layout=("ab", "cc")),
]


@pytest.mark.slow
@pytest.mark.parametrize("settings", LAYOUTS, ids=lambda s: f"{s.width}-{'.'.join(s.rows)}")
def test_letters_stand_outside_panels_and_nothing_overlaps(
    atlas: Atlas, settings: CompositeFigure
) -> None:
    with style(settings):
        (page,) = KINDS["composite"](atlas, settings).pages
        spec = PageSpec(settings, KINDS["composite"](atlas, settings).caption)
        _, placed = placed_panels(atlas, spec, [*_panels(settings)])
        words = check(page, numbers=True)
        letters = "abcd"[: len(settings.panels)]
        found = {word: box for word, box in zip(*texts(page), strict=True) if word in letters}
        assert "".join(found) == letters == "".join(one.slot.letter for one in placed)
        height = page.size[1]
        (x, y) = page.origin
        boxes = []
        for one in placed:
            left, top, right, bottom = one.box
            panel = np.asarray([[left + x, height - bottom - y, right + x, height - top - y]])
            letter = found[one.slot.letter][None]
            # To the left of the panel, and beside its upper edge.
            assert not overlap(letter, panel).any()
            assert letter[0, 2] <= panel[0, 0]
            assert 0 <= panel[0, 3] - letter[0, 3] < spec.font.line(spec.format.text)
            boxes.append(panel[0])
        assert not np.triu(overlap(np.asarray(boxes), np.asarray(boxes)), 1).any()
        edge = np.asarray([-1, -1, 1, 1])
        assert within(pictures(page), np.asarray(boxes) + edge).any(axis=1).all()
    assert page.figure.get_size_inches()[1] <= 9.01
    assert all(text.get_weight() == "bold" for text in page.figure.findobj(_is_letter(letters)))
    assert words


def _is_letter(letters: str) -> Any:
    return lambda item: hasattr(item, "get_weight") and item.get_text() in tuple(letters)


def _panels(settings: CompositeFigure) -> Any:
    return (_inheriting(settings, panel) for panel in settings.panels)


@pytest.mark.slow
def test_a_panel_is_the_figure_that_it_would_be_alone(atlas: Atlas) -> None:
    """Curves have the same values, in the place of the panel."""
    alone, together = TracesFigure(dpi=100, layers=("conv",)), figure(layout=("ab", "cd"))
    lines = []
    for settings in (alone, together):
        with style(settings):
            (page,) = KINDS[settings.name](atlas, settings).pages
            (axes,) = [a for a in page.figure.axes if _has_curves(a)]
            lines.append([line.get_xydata() for line in axes.lines])
    assert len(lines[0]) == 1
    assert np.array_equal(lines[0], lines[1])


def _has_curves(axes: Axes) -> bool:
    return len(axes.collections) > 0 and len(axes.lines) == 1 and axes.get_xlim()[0] == 0


def test_captions_and_methods_name_the_panels(atlas: Atlas) -> None:
    settings = figure(names={"conv": "first block"})
    with style(settings):
        drawn = KINDS["composite"](atlas, settings)
        alone = [KINDS[p.name](atlas, p).caption for p in _panels(settings)]
    lettered = zip("abcd", alone, strict=True)
    assert drawn.caption == " ".join(f"({letter}) {caption}" for letter, caption in lettered)
    assert "8 channels with the largest agreement among all 20 channels of first block" in alone[0]
    methods = texts_of(atlas, drawn).markdown
    for letter in "abcd":
        assert methods.count(f"Panel ({letter}) shows") == 1
    assert "first block (module conv, Conv2d)" in methods
    # 20 channels are shown, some of them in several panels.
    assert "Of the images of 20 channels, none failed." in methods


@pytest.mark.slow
def test_a_composite_figure_is_made_again_byte_for_byte(tmp_path: Path) -> None:
    made_up(tmp_path / "toy", {"conv": 6})
    folder = OutputFolder(tmp_path / "toy")
    settings = figure(
        panels=(ImagesFigure(channels={"top": 3}), TracesFigure(layers=("c*",))),
        layout=("aab",),
        formats=("pdf", "svg", "png"),
        names={"conv": "a name"},
    )
    make_figure(folder, settings)
    before = {path.name: path.read_bytes() for path in folder.figures.iterdir()}
    assert len(before) == 9
    make_figure(folder, AgainFigure(path=str(folder.figures / "composite.svg")))
    assert {path.name: path.read_bytes() for path in folder.figures.iterdir()} == before
    layers = json.loads(before["composite.provenance.json"])["layers"]
    # Readers see the name that was given; provenance has the module's own.
    assert list(layers) == ["a toy/conv", "b toy/conv"]
    assert len(layers["a toy/conv"]["channels"]) == 3
    config = composed(*shlex.split(command_of("toy", settings))[2:])
    assert config.figure == settings


def test_a_file_may_hold_a_composite_figure(tmp_path: Path) -> None:
    (tmp_path / "fig1.yaml").write_text(
        "name: toy\nfigure:\n  name: composite\n  layout: [ab]\n  names: {features.12: fire 9}\n"
        "  panels:\n  - {name: images, groups: {curves: [3], rest: '4:8'}}\n  - {name: traces}\n"
    )
    found = []
    with_config(lambda config: found.append(config.figure) or 0, [str(tmp_path / "fig1.yaml")])
    (settings,) = found
    assert [panel.name for panel in settings.panels] == ["images", "traces"]
    assert [group.name for group in settings.panels[0].groups] == ["curves", "rest"]
    assert settings.names == {"features.12": "fire 9"}


def test_the_file_of_the_documentation_is_a_composite_figure(tmp_path: Path) -> None:
    (text,) = (block for block in blocks(ROOT / "docs" / "figures.md", "yaml"))
    (tmp_path / "figure1.yaml").write_text(text)
    found: list[Any] = []
    with_config(lambda config: found.append(config.figure) or 0, [str(tmp_path / "figure1.yaml")])
    assert [panel.name for panel in found[0].panels] == ["images", "responses", "traces", "profile"]
    assert found[0].rows == ("aaaaa", "bbbcc", "bbbdd")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layout": ("ab", "c")}, r"must have the letters a, b, c, d in order"),
        ({"layout": ("aba", "cd")}, r"must have the letters"),
        ({"layout": ("ab", "bcd")}, r"must have the letters"),
        ({"layout": ("ba", "cd")}, r"must have the letters"),
        ({"layout": ("aab", "acd")}, r"each in one block"),
        ({"layout": ("ab", "cd", "cb")}, r"each in one block"),
        ({"panels": ()}, "panels must not be empty"),
        ({"panels": (ImagesFigure(width="column"),)}, r"panel a shares width .* figure.width"),
        ({"panels": (figure(),)}, "panel a is a composite figure itself"),
        (
            {"panels": (ComparisonFigure(),)},
            "panel a is a comparison, which is a figure of its own",
        ),
    ],
)
def test_mistakes_in_a_layout_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        figure(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"panels": (ImagesFigure(), TracesFigure(channels={"tpo": 3}))},
            "panel b of the fig",
        ),
        ({"layout": ("abcd",), "width": "column"}, "is narrower than 0.8 inches"),
        ({"height": 2.0, "width": "column"}, "panels are .* inches higher than the page"),
    ],
)
def test_panels_without_room_are_refused(
    atlas: Atlas, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        list(KINDS["composite"](atlas, figure(**settings)).pages)


def test_a_name_for_nothing_is_refused(atlas: Atlas, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown layer of figure.names 'cnov'"):
        KINDS["traces"](atlas, TracesFigure(names={"cnov": "first"}))
    with pytest.raises(UserError, match=r"calls two layers of toy 'same'"):
        KINDS["traces"](atlas, TracesFigure(names={"conv": "same", "fc": "same"}))
    with h5py.File(made_up(tmp_path, {"a": 3}), "a") as file:
        file.copy("toy", "other")
        file["other"].attrs["name"] = "other"
    both = open_atlas(tmp_path / "atlas.h5")
    # A name for one model's layer precedes that for layers of its name.
    caption = KINDS["traces"](both, TracesFigure(names={"a": "early", "other/a": "late"})).caption
    assert "3 of early of toy, 3 of late of other" in caption
