"""Statistics across depth: percentiles of layers, models side by side, no constant panels."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from atlases import made_up
from figure_pages import check

from layer_atlas import open_atlas
from layer_atlas.atlas.reader import Atlas
from layer_atlas.config.outputs import ProfileFigure
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.profile import (
    DEAD,
    distinct_names,
    draw_profile,
    limits_of,
    spread,
)
from layer_atlas.presentation.figures.selection import LayerData
from layer_atlas.presentation.layout.figure import COLOURS, style


def test_percentiles_are_of_the_images_that_were_made(tmp_path: Path) -> None:
    atlas = open_atlas(made_up(tmp_path, {"a": 9}, status={2: "missing"}, shard_size=1))
    layer = atlas["toy/a"]
    values = np.delete(layer["activation"][:, 0], 2)
    expected = np.percentile(values, [5, 25, 50, 75, 95])
    assert spread(LayerData(layer), "activation") == pytest.approx(expected)
    assert np.isnan(spread(LayerData(layer), "agreement")).all()


def test_the_share_of_the_dead(tmp_path: Path) -> None:
    fates = {2: "dead", 5: "dead"}
    atlas = open_atlas(made_up(tmp_path, {"a": 8}, status=fates, shard_size=1))
    assert spread(LayerData(atlas["toy/a"]), DEAD) == pytest.approx([0.25] * 5)


def test_statistics_that_no_layer_has_are_told(tmp_path: Path) -> None:
    atlas = open_atlas(made_up(tmp_path, {"a": 3}))
    with pytest.raises(UserError, match="choose from: activation"):
        draw_profile(atlas, ProfileFigure(statistics=("activatoin",)))


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["conv1"], ["conv1"]),
        (["a.1.conv", "a.2.conv"], ["1", "2"]),
        (["a.1.conv", "a.1.fc"], ["conv", "fc"]),
        (["l.0.c1", "l.1.c2"], ["0.c1", "1.c2"]),
        (["a", "a.b"], ["a", "a.b"]),
        (["f.a.conv", "f.conv"], ["a.conv", "conv"]),
    ],
)
def test_names_keep_what_tells_them_apart(names: list[str], short: list[str]) -> None:
    assert distinct_names(names) == short


def test_axes_have_room_for_all_values() -> None:
    low, high = limits_of(np.asarray([[0.4, 0.9]]))
    assert low < 0 < 0.9 < high  # 0 is near, so it is shown
    low, high = limits_of(np.asarray([[10.0, 11.0, np.nan]]))
    assert 9 < low < 10 < 11 < high < 12
    assert limits_of(np.zeros((1, 5))) == (-0.05, 1.0)
    assert limits_of(np.full((1, 5), np.nan)) == (-0.05, 1.0)
    assert limits_of(np.full((1, 5), -2.0)) == (-3.0, -1.0)


def two_models(root: Path, renamed: bool = False) -> Atlas:
    """Two models with layers a and b; on request those of the second are called c and d."""
    with h5py.File(made_up(root, {"a": 9, "b": 12}), "a") as file:
        file.copy("toy", "other")
        file["other"].attrs["name"] = "other"
        for old, new in (("a", "c"), ("b", "d")):
            layer = file[f"other/{old}"]
            layer["activation"][...] += 100
            if renamed:
                layer.attrs["name"] = new
    return open_atlas(root / "atlas.h5")


@pytest.mark.parametrize(("renamed", "places"), [(False, 2), (True, 4)])
@pytest.mark.parametrize("width", ["column", "text"])
def test_models_stand_side_by_side_in_one_panel(
    tmp_path: Path, renamed: bool, places: int, width: str
) -> None:
    atlas = two_models(tmp_path, renamed)
    settings = ProfileFigure(statistics=("activation", "high_frequency"), width=width)  # type: ignore[arg-type]
    with style(settings):
        (page,) = draw_profile(atlas, settings).pages
        words = check(page)
    axes = [a for a in page.figure.axes if a.get_xlim() == (-0.5, places - 0.5)]
    assert len(axes) == 2  # a panel per statistic
    assert {"toy", "other"} <= set(words)
    # The lines through the medians come before the markers, which have none.
    lines = [line for line in axes[0].lines if line.get_linestyle() == "-"]
    assert [line.get_color() for line in lines] == list(COLOURS[:2])
    for line, model in zip(lines, ("toy", "other"), strict=True):
        x, y = line.get_data()
        layers = atlas.models[model].layers.values()
        assert y == pytest.approx([np.median(layer["activation"][:, 0]) for layer in layers])
        # At the middle of a layer's slot if the model has it alone, else beside the other's.
        shift = 0 if renamed else {"toy": -0.165, "other": 0.165}[model]
        start = 2 if renamed and model == "other" else 0
        assert x == pytest.approx(start + np.arange(2) + shift)


def test_a_statistic_that_never_varies_has_no_panel(tmp_path: Path) -> None:
    file = made_up(tmp_path, {"a": 9, "b": 12})
    with h5py.File(file, "a") as atlas:
        for name in ("a", "b"):
            atlas[f"toy/{name}/clipped"][...] = 0.25
            atlas[f"toy/{name}/high_frequency"][...] = {"a": 0.1, "b": 0.2}[name]
    atlas, settings = open_atlas(file), ProfileFigure()
    with style(settings):
        drawn = draw_profile(atlas, settings)
        (page,) = drawn.pages
        words = check(page)
    # Different constants in different layers are a profile.
    assert "high frequency" in words
    assert not {"clipped", "dead"} & set(words)
    told = "Not shown, because every channel has the same value: clipped (0.25), dead (0)."
    assert told in drawn.caption
    alone = draw_profile(atlas, ProfileFigure(statistics=("dead",)))
    assert "Not shown" not in alone.caption  # nothing else was asked for
