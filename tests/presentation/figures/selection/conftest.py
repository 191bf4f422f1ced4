"""An atlas to choose from."""

import numpy as np
import pytest
from atlases import made_up

from layer_atlas import open_atlas
from layer_atlas.atlas.reader import Atlas, Layer


@pytest.fixture(scope="session")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Atlas:
    """Two layers and two seeds; one channel is dead, one missing."""
    fates = {3: "dead", 7: "missing"}
    layers = {"block.conv": 40, "block.fc": 12}
    return open_atlas(
        made_up(tmp_path_factory.mktemp("atlas"), layers, (0, 5), fates, shard_size=1)
    )


@pytest.fixture
def layer(atlas: Atlas) -> Layer:
    """The larger layer."""
    return atlas["toy/block.conv"]


@pytest.fixture
def activations(layer: Layer) -> dict[int, float]:
    """Of the first seed of its channels, as far as there are any."""
    values = dict(zip(layer.channels, layer["activation"][:, 0].tolist(), strict=True))
    return {channel: value for channel, value in values.items() if np.isfinite(value)}
