"""Images beside photographs: in the deviations of each channel, and photographs from quantiles."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from atlases import add_photographs, made_up

from layer_atlas import open_atlas
from layer_atlas.presentation.figures.plots import (
    Distributions,
    distributions_of,
    pooled,
)
from layer_atlas.presentation.figures.selection import LayerData, Selection


def test_responses_are_counted_in_deviations_of_the_channel(tmp_path: Path) -> None:
    file = made_up(tmp_path, {"a": 4})
    add_photographs(file)
    with h5py.File(file, "a") as atlas:
        dataset = atlas["toy/a/dataset"]
        dataset["mean"][...], dataset["std"][...] = [0, 10, 0, 1], [1, 5, 0, 2]
        dataset["max"][...] = [2, 20, 0, 9]
        atlas["toy/a/activation"][:, 0] = [3, 30, 8, 5]
    found = distributions_of(Selection(LayerData(open_atlas(file)["toy/a"]), (0, 1, 2, 3)))
    # Channel 2 never varies over photographs: there is nothing to measure by.
    assert found.images == pytest.approx([3, 4, 2])
    assert found.strongest == pytest.approx([2, 2, 4])
    assert found.dataset_images.shape == (3, 8)
    assert found.levels[[0, -1]] == pytest.approx([0, 1])


def test_photographs_are_spread_evenly_between_quantiles() -> None:
    # Half of the photographs between 0 and 1, half between 1 and 4; of the other channel all
    # between 0 and 2.
    found = Distributions(
        levels=np.asarray([0.0, 0.5, 1.0]),
        dataset_images=np.asarray([[0.0, 1.0, 4.0], [0.0, 1.0, 2.0]]),
        strongest=np.zeros(2),
        images=np.zeros(2),
    )
    edges = np.arcsinh([-1.0, 0.0, 1.0, 2.0, 4.0])
    assert pooled(found, edges) == pytest.approx([0, 0.5, (1 / 6 + 1 / 2) / 2, (1 / 3) / 2])


def test_all_photographs_are_in_some_bin() -> None:
    rng = np.random.default_rng(0)
    lines = np.sort(rng.normal(size=(5, 8)), axis=1)
    found = Distributions(np.linspace(0, 1, 8), lines, np.zeros(5), np.zeros(5))
    assert pooled(found, np.linspace(-4, 4, 30)).sum() == pytest.approx(1)
