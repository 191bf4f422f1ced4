"""Toy networks with hand-set weights, a small recipe and a small store, shared by the tests."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from numpy.typing import NDArray
from torch import Tensor, nn

from layer_atlas.config.config import Config, config_folder, make_config
from layer_atlas.config.inputs import nowhere
from layer_atlas.config.objectives import ChannelObjective
from layer_atlas.config.optimizers import Adam
from layer_atlas.config.parameterizations import Fourier, Pixel
from layer_atlas.config.recipe import Recipe, Transforms, recorded_steps, snapshot_steps
from layer_atlas.config.records import plain
from layer_atlas.datasets.sources import Entry, Listing, look_through, write_listing
from layer_atlas.datasets.statistics import summarise
from layer_atlas.datasets.statistics_files import write_arrays
from layer_atlas.datasets.tasks import LayerStatistics, blocks_of
from layer_atlas.models.introspection import describe_layers
from layer_atlas.plan.jobs import (
    STATUS,
    UNKNOWN,
    LayerInfo,
    NetworkIdentity,
    Origin,
    Product,
    Series,
    Shard,
    ShardResult,
    Task,
)
from layer_atlas.plan.plan import DatasetPlan, LayerPlan, ModelPlan, Plan
from layer_atlas.plan.targets import TargetSpace
from layer_atlas.store.files import decode
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import SCHEMA as MANIFEST_SCHEMA
from layer_atlas.store.quarantine import Failure, write_failure
from layer_atlas.store.shards import SCHEMA, commit
from layer_atlas.sweep.stages import Sweep
from layer_atlas.visualization.objectives import Objective, ObjectiveContext, make_objective

STILL = Transforms(jitter=0.0, scale=(1.0, 1.0), rotate=0.0)
RED, GREEN, BLUE = 0, 1, 2


def composed(*overrides: str) -> Config:
    """The config that a command line with these overrides would make."""
    return _composed(Path.cwd(), overrides)


@cache
def _composed(folder: Path, overrides: tuple[str, ...]) -> Config:
    """The same, once per working folder: composing takes a quarter of a second."""
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return make_config(compose("config", overrides=list(overrides)))


def make_recipe(
    parameterization: Fourier | Pixel | None = None,
    transforms: Transforms = STILL,
    image_size: int | tuple[int, int] = 16,
    **adam: Any,
) -> Recipe:
    settings = {"steps": 12, "learning_rate": 0.3, "leaky_steps": 4, **adam}
    return Recipe(
        objective=ChannelObjective(),
        parameterization=parameterization or Fourier(),
        transforms=transforms,
        optimizer=Adam(**settings),
        image_size=(image_size, image_size) if isinstance(image_size, int) else image_size,
        precision="fp32",
    )


# --- networks ------------------------------------------------------------------------------------


def pointwise(weight: Iterable[Iterable[float]], bias: Iterable[float] | None = None) -> nn.Conv2d:
    """A 1x1 convolution with the given matrix, (channels out) x (channels in)."""
    matrix = torch.tensor([list(row) for row in weight])
    conv = nn.Conv2d(matrix.shape[1], matrix.shape[0], 1)
    with torch.no_grad():
        conv.weight.copy_(matrix[:, :, None, None])
        conv.bias.copy_(torch.zeros(len(matrix)) if bias is None else torch.tensor(list(bias)))
    return conv.requires_grad_(False)


def colour_reader() -> nn.Conv2d:
    """Its channels are the colours of its input."""
    return pointwise([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])


def random_network(*modules: nn.Module) -> nn.Sequential:
    """A chain in eval mode, frozen, whose random weights are the same every time."""
    network = nn.Sequential(*modules).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            lowest = 0.1 if name.endswith("running_var") else -0.4
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + lowest)
    return network


def example(size: int = 16, batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def layer_of(network: nn.Module, name: str, size: int = 16) -> LayerInfo:
    return {info.name: info for info in describe_layers(network, example(size))}[name]


def surroundings(
    *layers: LayerInfo, size: tuple[int, int] = (16, 16), **changes: Any
) -> ObjectiveContext:
    """What an objective knows of layers whose activations it does not ask for."""
    told = ObjectiveContext(
        layers=layers or (layer_info(),),
        activations=lambda images: [],
        find=nowhere,
        colours=3,
        size=(16, 16),
        device=torch.device("cpu"),
    )
    return replace(told, **changes)


def channel_mean() -> Objective:
    """The mean of a channel of any layer."""
    return make_objective(ChannelObjective(), surroundings())


# --- stores --------------------------------------------------------------------------------------

IDENTITY = NetworkIdentity("toy", "c0ffee" * 10, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def layer_info(name: str = "block.conv", n_channels: int = 6, **changes: Any) -> LayerInfo:
    info = LayerInfo(
        name=name,
        module_type="Conv2d",
        kinds=("Conv2d", "_ConvNd"),
        n_channels=n_channels,
        shape=(n_channels, 4, 4),
        channel_axis=1,
        calls=1,
        flops=1000,
        flops_before=3000,
        flops_share=0.25,
    )
    return replace(info, **changes)


def make_plan(
    *layers: LayerInfo,
    channels: tuple[int, ...] | None = None,
    seeds: tuple[int, ...] = (0,),
    shard_size: int = 2,
    recipe: Recipe | None = None,
    label: str = "toy",
    colours: int = 3,
    targets: TargetSpace | None = None,
    selection: Any = None,
    origin: Origin = UNKNOWN,
) -> Plan:
    """A plan of one model; all channels of every layer unless told."""
    wanted = tuple(
        LayerPlan(info, tuple(range(info.n_channels)) if channels is None else channels, targets)
        for info in (layers or (layer_info(),))
    )
    network = replace(IDENTITY, mean=(0.5,) * colours, std=(0.25,) * colours)
    model = ModelPlan(label, network, 64, recipe or make_recipe(), wanted, origin)
    return Plan((model,), seeds, shard_size, selection=selection)


def make_study_plan(**changes: Any) -> DatasetPlan:
    """Photographs for a plan of toys."""
    plan = DatasetPlan(
        source="folder photos",
        listing="0" * 64,
        count=150,
        top=4,
        bottom=3,
        reference=100,
        examples=2,
        saliency=None,
    )
    return replace(plan, **changes)


def make_listing(folder: OutputFolder, names: Iterable[str], **changes: Any) -> DatasetPlan:
    """Photographs of these names, with their list on disk."""
    entries = [Entry(name, 7) for name in names]
    listing, count = look_through(entries)
    write_listing(entries, folder.listing(listing))
    return make_study_plan(listing=listing, count=count, **changes)


def fill_study(
    folder: OutputFolder,
    statistics: LayerStatistics,
    mean: NDArray[Any],
    place: NDArray[Any],
    boxes: NDArray[Any],
) -> list[Product]:
    """Commit the blocks and the receptive fields of a study; returns the products.

    Args:
        mean: (n, K) answers to photographs of 64 x 32 pixels; NaN where one cannot be read.
        place: (n, K) positions of the largest.
        boxes: (L, 4) receptive fields.
    """
    products = [statistics.field]
    write_arrays(folder, statistics.field, {"box": boxes.astype(np.int64)})
    for block in blocks_of((statistics,), Listing(folder.listing(statistics.plan.listing))):
        here = slice(block.start, block.stop)
        arrays = summarise(
            mean[here].astype(np.float32),
            mean[here].astype(np.float32),
            place[here].astype(np.int32),
            readable=np.isfinite(mean[here]).all(axis=1),
            first=block.start,
            kept=np.arange(block.start, block.stop) % statistics.plan.stride == 0,
            top=statistics.plan.top,
            bottom=statistics.plan.bottom,
        )
        arrays["size"] = np.tile(np.asarray([[64, 32]], np.int32), (block.units, 1))
        products.append(statistics.block(block.start, block.dataset_images))
        write_arrays(folder, products[-1], arrays)
    return products


def make_series(**changes: Any) -> Series:
    return replace(Series("toy", IDENTITY, "block.conv", 0, make_recipe()), **changes)


def make_result(
    shard: Shard,
    n_channels: int = 6,
    status: Mapping[int, str] | None = None,
    parts: int = 1,
) -> ShardResult:
    """Arrays that tell their job: image filled with 10 * channel + seed, activation likewise.

    Further variants tell 3 more each; images on the way tell 20 more each; further parts 7 more.
    """
    recipe, seed = shard.series.recipe, shard.series.seed
    channel, steps = np.asarray(shard.targets), recorded_steps(recipe)
    told = (10 * channel + seed).astype(np.float32)
    if recipe.variants > 1:
        told = told[:, None] + 3 * np.arange(recipe.variants, dtype=np.float32)
    codes = [STATUS[(status or {}).get(c, "ok")] for c in shard.targets]
    arrays = {
        "target": channel,
        "image": _filled(told, shard),
        "status": np.asarray(codes, np.uint8),
        "activation": told,
        "activation_robust": told - 0.5,
        "activation_max": told + 0.5,
        "high_frequency": told / 1000,
        "clipped": told / 2000,
        "trace": told[..., None] + np.arange(len(steps), dtype=np.float32),
        "trace_step": np.asarray(steps),
        "response": told[..., None] + np.arange(n_channels, dtype=np.float32) / 100,
    }
    if kept := snapshot_steps(recipe):
        arrays["snapshot"] = _filled(told[..., None] + 20 * np.arange(len(kept)), shard)
        arrays["snapshot_step"] = np.asarray(kept)
    if parts > 1:
        arrays["part_activation"] = told[..., None] + 7 * np.arange(parts, dtype=np.float32)
    return ShardResult(arrays, {"seconds_per_job": 0.5, "device": "toy"})


def _filled(values: NDArray[Any], shard: Shard) -> NDArray[np.uint8]:
    """A picture of each value."""
    series = shard.series
    picture = (*series.recipe.image_size, len(series.network.mean))
    flat = values[..., None, None, None].astype(np.uint8)
    return np.broadcast_to(flat, (*values.shape, *picture)).copy()


def fill_store(
    folder: OutputFolder, plan: Plan, status: Mapping[int, str] | None = None
) -> list[Path]:
    """Commit made-up results for every shard of a plan; returns the files.

    Args:
        status: what became of some channels, if not `ok`. Of a shard with a `failed` channel there
            is a record of failure instead, and of one with a `missing` channel nothing.
    """
    paths = []
    for shard in plan.shards():
        words = {(status or {}).get(channel) for channel in shard.targets}
        if "failed" in words:
            fail(folder, shard)
        elif "missing" not in words:
            layers = {layer.info.name: layer for m in plan.models for layer in m.layers}
            layer = layers[shard.series.layer]
            parts = len(layer.target_space.sizes)
            result = make_result(shard, layer.info.n_channels, status, parts)
            commit(folder, shard, result)
            paths.append(folder.shard(shard))
    return paths


def stored_arrays(path: Path, schema: str = SCHEMA) -> dict[str, NDArray[Any]]:
    """All arrays of a checksummed file."""
    return decode(path.read_bytes(), schema).arrays


def fail(
    folder: OutputFolder,
    task: Task,
    attempts: int = 3,
    given_up: bool = True,
    said: str = "",
    when: str = "2026-01-01",
) -> None:
    """Write down that all attempts at a task failed; they were made one minute after the other."""
    for attempt in range(attempts):
        failure = Failure(
            task=task.key,
            what=str(task),
            request=task.request(),
            attempt=attempt + 1,
            given_up=given_up and attempt == attempts - 1,
            how="exit code 1",
            when=f"{when} 00:{attempt:02}:00",
            worker=f"worker-{attempt:08}",
            host="somewhere",
            log=f"logs/worker-{attempt:08}.log",
            said=said,
            files=tuple(folder.relative(folder.product(product)) for product in task.products),
        )
        write_failure(folder, failure)


@cache
def toy_config() -> Config:
    """A config that knows how to load none of the toys."""
    return composed("models=[{name: toy, target: toys.none}]")


def make_manifest(plan: Plan) -> dict[str, Any]:
    """The manifest of a plan of toys."""
    config = plain(toy_config())
    told = {"schema": MANIFEST_SCHEMA, "config": config, "plan": plain(plan), "devices": ["cpu"]}
    return {**told, "versions": {}, "timings": {}}


def make_sweep(plan: Plan, folder: OutputFolder, *overrides: str) -> Sweep:
    """A sweep of a plan of toys; its config knows how to load none of them."""
    config = composed("models=[{name: toy, target: toys.none}]", *overrides)
    return Sweep(config, plan, folder, ["cpu"])


def correlations(images: torch.Tensor, others: torch.Tensor) -> list[torch.Tensor]:
    """The correlation of each image with its counterpart, both (B, C, H, W)."""
    pairs = zip(images.flatten(1), others.flatten(1), strict=True)
    return [torch.corrcoef(torch.stack(pair))[0, 1] for pair in pairs]
