"""Settings of figures: those of the YAML files are those of the records, and mistakes are told."""

from typing import Any

import pytest
from toys import composed

from layer_atlas.config.outputs import (
    AgainFigure,
    CompositeFigure,
    FigureSettings,
    Group,
    TracesFigure,
)
from layer_atlas.config.records import records_of
from layer_atlas.errors import UserError


@pytest.mark.parametrize("record", records_of(FigureSettings), ids=lambda r: r.name)
def test_defaults_are_those_of_the_record(record: Any) -> None:
    needed = {"panels": (TracesFigure(),)} if record is CompositeFigure else {}
    overrides = ["figure.panels=[{name: traces}]"] if needed else []
    assert composed(f"figure={record.name}", *overrides).figure == record(**needed)


def test_a_figure_made_before() -> None:
    assert composed("figure=again", "figure.path=a.png").figure == AgainFigure(path="a.png")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("figure.rows=rows", "unknown figure.rows"),
        ("figure.columns=channels", "rows and columns are both channels"),
        ("figure.width=0.5", "width must be 1 to 50"),
        ("figure.width=wide", "figure.width must be"),
        ("figure.formats=[]", "formats must not be empty"),
        ("figure.formats=[gif]", "unknown figure.formats"),
        ("figure.dpi=10", "dpi must be 50 to 1200"),
        ("figure.clusters=4", "clusters need figure.order=similarity"),
        ("figure.dendrogram=true", "a dendrogram needs figure.order=similarity"),
        ("figure.dataset_images=10", "dataset_images must be 0 to 9"),
        ("figure.layers=[]", "layers must not be empty"),
        ("figure.across=0", "across must be 1 or more"),
        ("figure.groups={}", "groups must not be empty"),
        ("figure.groups=curves", "must be names with the channels of each"),
        ("figure.groups=[{name: a}]", r"figure.groups\[0\].channels is missing"),
        ("figure.groups=[{name: ' ', channels: [1]}]", "must be a text on one line, not ' '"),
        ("figure.groups=[{name: 'a\tb', channels: [1]}]", "must be a text on one line"),
        ("figure.groups=[{name: a, channels: 1}, {name: a, channels: 2}]", "called 'a'"),
    ],
)
def test_mistakes_are_told(override: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        composed(override)


@pytest.mark.parametrize("bracketed", ["clusters=3", "groups={a: [1]}"])
def test_brackets_need_channels(bracketed: str) -> None:
    name = bracketed.partition("=")[0]
    with pytest.raises(UserError, match=f"{name} need rows or columns of channels"):
        composed(
            "figure.order=similarity",
            f"figure.{bracketed}",
            "figure.rows=seeds",
            "figure.columns=variants",
        )


@pytest.mark.parametrize("kind", ["images", "responses"])
def test_groups_by_name_are_a_list_in_their_order(kind: str) -> None:
    groups = '{wide curves: [3, 17], a: "0:8", 7: {top: 6, by: agreement}}'
    found = composed(f"figure={kind}", f"figure.groups={groups}").figure.groups
    assert found == (
        Group(name="wide curves", channels=[3, 17]),
        Group(name="a", channels="0:8"),
        Group(name="7", channels={"top": 6, "by": "agreement"}),
    )


def test_groups_may_have_any_name_in_a_list() -> None:
    (group,) = composed('figure.groups=[{name: "50 % & Größe", channels: all}]').figure.groups
    assert group == Group(name="50 % & Größe", channels="all")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ("figure.channels=[1]", "groups stand in the place of channels"),
        ("figure.clusters=3", "brackets are of groups or of clusters"),
        ("figure.dendrogram=true", "a dendrogram is of all channels, not of groups"),
    ],
)
def test_what_groups_exclude_is_told(other: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        composed("figure.groups={a: [1]}", "figure.order=similarity", other)


def test_a_tree_needs_channels_along_a_line() -> None:
    with pytest.raises(UserError, match="needs channels along one line"):
        composed("figure.order=similarity", "figure.dendrogram=true")
