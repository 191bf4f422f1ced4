"""Statistics across depth: the percentiles of each layer, and names that tell layers apart."""

from pathlib import Path

import numpy as np
import pytest
from atlases import made_up

from layer_atlas import open_atlas
from layer_atlas.config.figures import ProfileFigure
from layer_atlas.errors import UserError
from layer_atlas.presentation.figures.profile import (
    DEAD,
    distinct_names,
    draw_profile,
    limits_of,
    spread,
)
from layer_atlas.presentation.figures.selection import LayerData


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
