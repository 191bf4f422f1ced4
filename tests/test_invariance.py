"""One job, one image: whatever else is made beside it, in whatever order, on whatever workers.

Contract 4.1 of the design, on a CPU: the bits of a job do not depend on batch size, batch-mates,
place in the batch, number of threads, shard, order or number of workers.
"""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import TINY, assert_same_atlas, atlas, datasets, run_here

from layer_atlas.config.config import ModelConfig
from layer_atlas.config.objectives import ChannelObjective
from layer_atlas.config.optimizers import Adam
from layer_atlas.config.parameterizations import Fourier, Maco, Pixel
from layer_atlas.config.recipe import Recipe, Regularizers, SpectrumInit, Transforms
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import load_network
from layer_atlas.visualization.optimization.renderer import LayerRenderer, Renderer

RECIPE = Recipe(
    objective=ChannelObjective(),
    parameterization=Fourier(),
    transforms=Transforms(),
    optimizer=Adam(steps=3, leaky_steps=1),
    image_size=(48, 48),
    precision="fp32",
)
EVERY_TRANSFORM = Transforms(
    flip=0.5,
    perspective=0.2,
    crop=(0.5, 1.0),
    brightness=(0.8, 1.2),
    contrast=(0.8, 1.2),
    saturation=(0.8, 1.2),
    blur=(0.0, 1.0),
    noise=(0.0, 0.1),
    cutout=(0.0, 0.3),
)
CHANNELS = list(range(32))
RECIPES = {
    "fourier fp32": RECIPE,
    "fourier bf16": dataclasses.replace(RECIPE, precision="bf16"),
    "pixel bf16": dataclasses.replace(RECIPE, precision="bf16", parameterization=Pixel()),
    "fourier fp32, odd size": dataclasses.replace(RECIPE, image_size=(45, 45)),
    "maco bf16": dataclasses.replace(RECIPE, precision="bf16", parameterization=Maco(alpha=True)),
    "maco fp32, odd size": dataclasses.replace(
        RECIPE, parameterization=Maco(), image_size=(45, 45)
    ),
    "regularized, from spectrum, every transform": dataclasses.replace(
        RECIPE,
        transforms=EVERY_TRANSFORM,
        parameterization=Fourier(alpha=True),
        regularizers=Regularizers(0.1, 0.1, 0.1, 0.1, blur=0.5, clip=0.01),
        init=SpectrumInit(),
        image_size=(45, 45),
    ),
}


def make_bench(recipe: Recipe) -> LayerRenderer:
    network = load_network(ModelConfig("demo"))
    layers = describe_layers(network.module, network.example(recipe.image_size))
    info = next(layer for layer in layers if layer.name == "conv5")
    return Renderer(network, recipe, torch.device("cpu")).layer(info)


def make(
    renderer: LayerRenderer, channels: list[int], batch: int, threads: int
) -> dict[str, np.ndarray]:
    """Make jobs in batches of a size; returns the arrays in order of channels."""
    torch.set_num_threads(threads)
    keys = [hashlib.sha256(str(channel).encode()).hexdigest() for channel in channels]
    parts = [
        renderer.make(keys[i : i + batch], channels[i : i + batch])
        for i in range(0, len(channels), batch)
    ]
    merged = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
    order = np.argsort(channels)
    return {name: merged[name][order] for name in merged if name != "trace_step"}


@pytest.fixture(autouse=True)
def _restore_threads() -> object:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_bits_do_not_depend_on_batch_size_order_or_threads(recipe: Recipe) -> None:
    renderer = make_bench(recipe)
    reference = make(renderer, CHANNELS, batch=32, threads=2)
    subset = [3, 19, 20, 31]
    cases = {
        "batches of 7": make(renderer, CHANNELS, 7, 2),
        "one thread": make(renderer, CHANNELS, 32, 1),
        "other order, batches of 8": make(renderer, CHANNELS[::-1], 8, 1),
    }
    for name, arrays in cases.items():
        for dataset, values in arrays.items():
            assert values.tobytes() == reference[dataset].tobytes(), f"{name}: {dataset}"
    alone = make(renderer, subset, 1, 2)
    for dataset, values in alone.items():
        assert values.tobytes() == reference[dataset][subset].tobytes(), f"batch of 1: {dataset}"


def test_seeds_and_channels_get_images_of_their_own() -> None:
    renderer = make_bench(RECIPE)
    keys = [hashlib.sha256(bytes([i])).hexdigest() for i in range(3)]
    images = renderer.make(keys, [4, 4, 5])["image"].astype(float)
    assert np.abs(images[0] - images[1]).mean() > 5
    assert np.abs(images[0] - images[2]).mean() > 5


@pytest.mark.slow
def test_bits_do_not_depend_on_workers_shards_or_selection(tmp_path: Path) -> None:
    overrides = [o for o in TINY if not o.startswith(("executor", "shard_size"))]
    two_workers = ("executor.devices=[cpu,cpu]", "shard_size=8")
    one_worker = ("executor.devices=[cpu]", "shard_size=12", "batch_size=5")
    assert atlas("run", tmp_path, *overrides, *two_workers, "name=a")[0] == 0
    torch.set_num_threads(2)
    assert run_here(tmp_path, *overrides, *one_worker, "name=b") == 0
    assert_same_atlas(tmp_path / "a" / "atlas.h5", tmp_path / "b" / "atlas.h5")

    half = ("channels=[22,20,0,2,4,6,8,10,12,14,16,18]", "layers=[conv2]")
    assert run_here(tmp_path, *overrides, "shard_size=8", *half, "name=c") == 0
    whole, part = datasets(tmp_path / "a" / "atlas.h5"), datasets(tmp_path / "c" / "atlas.h5")
    for name in ("image", "activation", "activation_robust", "response", "trace", "status"):
        assert part[f"demo/conv2/{name}"].tobytes() == whole[f"demo/conv2/{name}"][:24:2].tobytes()
