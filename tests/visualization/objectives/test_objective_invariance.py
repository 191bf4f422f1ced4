"""Every objective keeps the promises of one job: its bits are its own, whatever is beside it."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_invariance import RECIPE

from layer_atlas.config.config import ModelConfig
from layer_atlas.config.objectives import (
    AccentuationObjective,
    CaricatureObjective,
    ChannelObjective,
    CustomObjective,
    DirectionObjective,
    DiversityObjective,
    FacetsObjective,
    InterpolationObjective,
    InversionObjective,
    JointObjective,
    LayerObjective,
    LogitObjective,
    NeuronObjective,
    Objective,
    ProbabilityObjective,
    PrototypeObjective,
    StrongestImagesObjective,
    Term,
)
from layer_atlas.config.parameterizations import Fourier, Parameterization, Pixel
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import Network, load_network
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.plan.plan import LayerRef
from layer_atlas.visualization.optimization.renderer import LayerRenderer, Renderer

PHOTOGRAPH, VECTORS = "photograph.png", "vectors.npy"
OBJECTIVES: dict[str, Objective] = {
    "channel": ChannelObjective(sign="negative"),
    "both signs": ChannelObjective(sign="both"),
    "neuron": NeuronObjective(position=(1, 2)),
    "random directions": DirectionObjective(cosine_power=2.0),
    "directions of a file": DirectionObjective(vectors=VECTORS),
    "logit": LogitObjective(),
    "probability": ProbabilityObjective(),
    "layer": LayerObjective(),
    "custom": CustomObjective(
        function="tests.visualization.objectives.test_objective_invariance.strongest"
    ),
    "joint": JointObjective(terms=(Term("conv5"), Term("conv3", weight=-0.5), Term("conv5"))),
    "diversity": DiversityObjective(images=3),
    "interpolation": InterpolationObjective(images=3),
    "caricature": CaricatureObjective(photograph=PHOTOGRAPH),
    "inversion": InversionObjective(photograph=PHOTOGRAPH),
    "accentuation": AccentuationObjective(photograph=PHOTOGRAPH),
    "prototype": PrototypeObjective(top=3),
    "facets": FacetsObjective(top=3, facets=2),
}


def strongest(activations: torch.Tensor, channel: torch.Tensor) -> torch.Tensor:
    return activations[torch.arange(len(channel)), channel].amax(dim=1)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    noise = np.random.default_rng(0)
    small = Image.fromarray(noise.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    small.resize((60, 50), Image.Resampling.BICUBIC).save(folder / PHOTOGRAPH)
    np.save(folder / VECTORS, noise.normal(size=(40, 64)).astype(np.float32))
    return folder


def layers_of(network: Network, size: tuple[int, int]) -> dict[str, LayerInfo]:
    return {info.name: info for info in describe_layers(network.module, network.example(size))}


def make_bench(
    objective: Objective, parameterization: Parameterization, files: Path
) -> LayerRenderer:
    recipe = replace(RECIPE, objective=objective, parameterization=parameterization)
    recipe = replace(recipe, image_size=(32, 36))
    network = load_network(ModelConfig("demo"))
    other = load_network(ModelConfig("demo", label="other", weights="none"))
    layers = layers_of(network, recipe.image_size)
    taps = []
    if isinstance(objective, JointObjective):
        taps = [
            LayerRef("demo", network.identity, layers["conv3"]),
            LayerRef("other", other.identity, layers["conv5"]),
        ]
    if isinstance(objective, StrongestImagesObjective):
        taps = [LayerRef("demo", network.identity, layers[name]) for name in ("conv2", "conv3")]
    others = {"other": other} if isinstance(objective, JointObjective) else {}
    find = (files / "x").with_name
    renderer = Renderer(network, recipe, torch.device("cpu"), others, find)
    return renderer.layer(layers["conv5"], taps)


@pytest.mark.parametrize("parameterization", [Fourier(), Pixel()], ids=["fourier", "pixel"])
@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
def test_bits_do_not_depend_on_batch_size_order_or_threads(
    objective: Objective, parameterization: Parameterization, files: Path
) -> None:
    renderer = make_bench(objective, parameterization, files)
    count = int(np.prod(renderer.objective.sizes))
    # A layer has one target, which may be climbed from many seeds.
    targets = [number * 3 % count for number in range(16)]
    keys = [hashlib.sha256(bytes([number])).hexdigest() for number in range(16)]
    images = torch.rand(16, 3, 3, 32, 36, generator=torch.Generator().manual_seed(0))
    torch.set_num_threads(2)
    reference = renderer.make(keys, targets, dataset_images=images)
    torch.set_num_threads(1)
    backwards = [
        renderer.make(
            keys[::-1][i : i + 5],
            targets[::-1][i : i + 5],
            dataset_images=images.flip(0)[i : i + 5],
        )
        for i in (0, 5, 10)
    ]
    for name, values in reference.items():
        if name != "trace_step":
            again = np.concatenate([part[name] for part in backwards])
            assert again.tobytes() == values[:0:-1].tobytes(), name
