"""Settings of figures: those of the YAML files are those of the records, and mistakes are told."""

from typing import Any, get_args

import pytest
from toys import composed

from pipeline.errors import UserError
from pipeline.settings.figures import AgainFigure, Drawable
from pipeline.settings.records import choice_name


@pytest.mark.parametrize("record", get_args(Drawable), ids=choice_name)
def test_defaults_are_those_of_the_record(record: Any) -> None:
    assert composed(f"figure={choice_name(record)}").figure == record()


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
        ("figure.photographs=10", "photographs must be 0 to 9"),
        ("figure.layers=[]", "layers must not be empty"),
        ("figure.across=0", "across must be 1 or more"),
    ],
)
def test_mistakes_are_told(override: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        composed(override)


def test_clusters_need_channels() -> None:
    with pytest.raises(UserError, match="clusters need rows or columns of channels"):
        composed(
            "figure.order=similarity",
            "figure.clusters=3",
            "figure.rows=seeds",
            "figure.columns=variants",
        )


def test_a_tree_needs_channels_along_a_line() -> None:
    with pytest.raises(UserError, match="needs channels along one line"):
        composed("figure.order=similarity", "figure.dendrogram=true")
