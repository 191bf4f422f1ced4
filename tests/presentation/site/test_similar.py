"""Which channels are alike: known families, and the same for layers of any width."""

from pathlib import Path

import numpy as np
import pytest
from atlases import FAMILIES, made_up

from layer_atlas.atlas.reader import Layer, open_atlas
from layer_atlas.presentation import similarity as similar
from layer_atlas.presentation.similarity import NEIGHBOURS, nearest


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Layer:
    file = made_up(tmp_path_factory.mktemp("alike"), {"a": 60, "one": 1}, (0, 1))
    return open_atlas(file)["toy/a"]


def zeros(layer: Layer) -> np.ndarray:
    return np.zeros(len(layer.channels), np.intp)


def test_the_nearest_are_of_the_family_and_never_the_channel_itself(layer: Layer) -> None:
    rows, cosines = nearest(layer, zeros(layer))
    assert rows.shape == cosines.shape == (60, NEIGHBOURS)
    for channel, (some, alike) in enumerate(zip(rows, cosines, strict=True)):
        family = set(range(channel % FAMILIES, 60, FAMILIES)) - {channel}
        assert set(some[: len(family)]) == family
        assert (np.diff(alike) <= 0).all()


def test_cosines_are_those_of_standardised_responses(layer: Layer) -> None:
    responses = layer["response"][:, 0]
    standard = (responses - responses.mean(axis=0)) / responses.std(axis=0)
    unit = standard / np.linalg.norm(standard, axis=1, keepdims=True)
    rows, cosines = nearest(layer, zeros(layer))
    known = np.take_along_axis(unit @ unit.T, rows, axis=1)
    assert cosines == pytest.approx(known, abs=1e-5)


def test_block_by_block_is_the_same(layer: Layer, monkeypatch: pytest.MonkeyPatch) -> None:
    lead = np.arange(60) % 2
    whole = nearest(layer, lead)
    monkeypatch.setattr(similar, "_BLOCK_BYTES", 4 * 60 * 7)
    blocks = nearest(layer, lead)
    assert np.array_equal(whole[0], blocks[0])
    assert whole[1] == pytest.approx(blocks[1], abs=1e-6)


def test_missing_images_are_like_none(tmp_path: Path) -> None:
    file = made_up(tmp_path / "holes", {"a": 20}, status={3: "missing"}, shard_size=1)
    with open_atlas(file) as atlas:
        layer = atlas["toy/a"]
        cosines = nearest(layer, np.zeros(20, np.intp))[1]
    assert (cosines[3] == 0).all()
    assert (cosines[4, :3] > 0.5).all()


def test_a_layer_of_one_channel_has_no_neighbours(layer: Layer) -> None:
    with open_atlas(layer.group.file.filename) as atlas:
        rows, cosines = nearest(atlas["toy/one"], np.zeros(1, np.intp))
    assert rows.shape == cosines.shape == (1, 0)
