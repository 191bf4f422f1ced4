"""What evidence can and cannot show, as docs/statistics.md has it, on SqueezeNet 1.1.

Skipped where weights or photographs are not at hand, as test_real_network says.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from toys import STILL

from layer_atlas.config.config import ModelConfig
from layer_atlas.config.objectives import ChannelObjective
from layer_atlas.config.optimizers import Adam
from layer_atlas.config.parameterizations import Fourier, Pixel
from layer_atlas.config.recipe import Recipe, Transforms
from layer_atlas.datasets.evidence import agreement, make_reference, percentile, selectivity
from layer_atlas.datasets.statistics import DatasetStats, merge, summarise
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import load_network
from layer_atlas.models.pixels import from_bytes
from layer_atlas.plan.jobs import STATUS
from layer_atlas.visualization.optimization.renderer import LayerRenderer, Renderer
from tests.models.test_real_network import SHARED, WEIGHTS

SIZE, LAYER, BLOCK, K = 96, "features.12", 50, 512
CHANNELS = np.arange(0, K, 32)
DATASET_IMAGES = sorted((SHARED / "images" / "natural").glob("*.jpg"))
STANDARD = Recipe(
    objective=ChannelObjective(),
    parameterization=Fourier(),
    transforms=Transforms(),
    optimizer=Adam(steps=24, leaky_steps=8),
    image_size=(SIZE, SIZE),
    precision="fp32",
)

pytestmark = pytest.mark.skipif(
    not WEIGHTS.exists() or len(DATASET_IMAGES) < 100,
    reason=f"no weights at {WEIGHTS} or no photographs beside them",
)


@dataclass(frozen=True)
class Case:
    """Images of 16 channels, what the layer answers to them, and what it answers to photographs."""

    dataset_stats: DatasetStats
    made: dict[str, NDArray[Any]]

    def agreement(self, turn: int = 0) -> tuple[NDArray[Any], NDArray[Any]]:
        """Of each image with its own channel, or with that of an image `turn` places on."""
        channels = np.roll(CHANNELS, turn)
        return agreement(make_reference(self.dataset_stats.rows), self.made["response"], channels)

    def with_others(self) -> float:
        """Mean agreement of the images with the channels of all the other images."""
        return float(np.mean([self.agreement(turn)[0] for turn in range(1, len(CHANNELS))]))


def renderer(weights: str, recipe: Recipe = STANDARD) -> LayerRenderer:
    network = load_network(ModelConfig("squeezenet1_1", weights=weights))
    layers = describe_layers(network.module, network.example((SIZE, SIZE)))
    info = next(layer for layer in layers if layer.name == LAYER)
    return Renderer(network, recipe, torch.device("cpu")).layer(info)


def dataset_images() -> NDArray[np.uint8]:
    pictures = (Image.open(path).convert("RGB").resize((SIZE, SIZE)) for path in DATASET_IMAGES)
    return np.stack([np.asarray(picture) for picture in pictures])


@torch.no_grad()
def studied(layer: LayerRenderer, pixels: NDArray[np.uint8]) -> DatasetStats:
    blocks = []
    for first in range(0, len(pixels), BLOCK):
        responses = layer.exact(from_bytes(torch.from_numpy(pixels[first : first + BLOCK])))[0]
        peak, place = responses.max(dim=2)
        parts = (responses.mean(dim=2), peak, place.int())
        everyone = np.ones(len(responses), bool)
        arrays = (part.numpy() for part in parts)
        blocks.append(summarise(*arrays, everyone, first, everyone, top=9, bottom=9))
    return merge(blocks)


def made(layer: LayerRenderer) -> dict[str, NDArray[Any]]:
    keys = [hashlib.sha256(str(channel).encode()).hexdigest() for channel in CHANNELS]
    return layer.make(keys, CHANNELS.tolist())


@pytest.fixture(scope="module")
def trained() -> Case:
    layer = renderer(str(WEIGHTS))
    return Case(studied(layer, dataset_images()), made(layer))


@pytest.mark.slow
def test_images_agree_with_the_photographs_of_their_own_channel_and_hardly_with_others(
    trained: Case,
) -> None:
    agrees, rank = trained.agreement()
    shuffled = np.abs([trained.agreement(turn)[0] for turn in range(1, len(CHANNELS))])
    assert (trained.made["status"] == STATUS["ok"]).all()
    assert agrees.mean() > 0.35
    assert np.median(rank) <= 0.05 * K
    assert shuffled.mean() < 0.2
    assert agrees.mean() > 2 * trained.with_others() + 0.1


@pytest.mark.slow
def test_made_images_excite_their_channel_more_than_photographs_do_and_others_little(
    trained: Case,
) -> None:
    place = percentile(trained.dataset_stats, trained.made["activation"], CHANNELS)
    assert np.median(place) == 100
    assert place.min() > 95
    assert selectivity(trained.made["response"], CHANNELS).mean() > 0.8
    strongest = trained.dataset_stats.top.score[CHANNELS, 0]
    assert (percentile(trained.dataset_stats, strongest, CHANNELS) < 100).all()
    quartiles = trained.dataset_stats.quantiles([0.25, 0.75])[:, CHANNELS].astype(np.float32)
    live = quartiles[0] > 0
    assert np.allclose(percentile(trained.dataset_stats, quartiles[0], CHANNELS)[live], 25, atol=1)
    assert np.allclose(percentile(trained.dataset_stats, quartiles[1], CHANNELS)[live], 75, atol=1)


def test_noise_agrees_with_no_channel(trained: Case) -> None:
    shape = (len(CHANNELS), SIZE, SIZE, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    measured = renderer(str(WEIGHTS)).measure(noise, CHANNELS.tolist())
    agrees, rank = Case(trained.dataset_stats, measured).agreement()
    assert np.abs(agrees).mean() < 0.2
    assert np.median(rank) > 0.25 * K


@pytest.mark.slow
def test_agreement_does_not_find_out_fine_grained_images_but_their_high_frequencies_do(
    trained: Case,
) -> None:
    free = Recipe(**{**vars(STANDARD), "parameterization": Pixel(), "transforms": STILL})
    grainy = Case(trained.dataset_stats, made(renderer(str(WEIGHTS), free)))
    assert grainy.agreement()[0].mean() > 0.3
    assert grainy.made["high_frequency"].mean() > 0.5
    assert trained.made["high_frequency"].mean() < 0.2


@pytest.mark.slow
def test_agreement_is_high_in_a_random_network_too_but_there_it_is_so_with_any_channel(
    trained: Case,
) -> None:
    layer = renderer("none")
    random = Case(studied(layer, dataset_images()), made(layer))
    assert random.agreement()[0].mean() > 0.5
    assert random.with_others() > 0.5 * random.agreement()[0].mean()
    assert trained.with_others() < 0.5 * trained.agreement()[0].mean()
