"""A finished sweep of any size, made in a minute: real files, but no optimized images.

Every shard is a file under its own name, with the right header, targets and digest, and with no
more statistics than a shard must have. The manifest is written as a run writes it. So the commands
find nothing to do by their own rules, once there is an atlas.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from layer_atlas.atlas.gather import LayerView, StoredJobs, layer_views
from layer_atlas.atlas.hdf5 import write_atlas
from layer_atlas.config.compose import with_config
from layer_atlas.config.config import CollateSettings, Config
from layer_atlas.errors import EXIT_OK
from layer_atlas.plan.jobs import STATUS, Shard, ShardResult
from layer_atlas.plan.plan import Plan
from layer_atlas.presentation.collate import content_of, write_summary
from layer_atlas.store.files import Arrays
from layer_atlas.store.folder import OutputFolder, output_folder, prepare
from layer_atlas.store.manifest import plan_of, read_manifest, write_manifest
from layer_atlas.store.shards import encode
from layer_atlas.sweep.run import prepare_plan


def wide_network(layers: int, channels: int) -> nn.Module:
    """Many layers of many channels that cost next to nothing: vectors, and a number per channel."""
    wide = {f"layer{i}": nn.PReLU(channels) for i in range(layers)}
    first = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, channels))
    return nn.Sequential(OrderedDict({"first": first, **wide}))


Paint = Callable[[tuple[int, ...]], NDArray[np.uint8]]
"""Makes the images of a shard, (N, H, W, colours)."""


def grey(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Images that take no time."""
    return np.full(shape, 128, np.uint8)


def clouds(shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Images like those of a sweep: smooth noise in all colours."""
    n, height, width, colours = shape
    coarse = np.random.default_rng(0).integers(0, 256, (n, 9, 9, colours), np.uint8)
    images = [Image.fromarray(c).resize((width, height), Image.Resampling.BICUBIC) for c in coarse]
    fine = np.random.default_rng(1).integers(0, 12, shape)
    return np.clip(np.stack(images) + fine, 0, 255).astype(np.uint8)


def make_store(overrides: Sequence[str], paint: Paint) -> None:
    """Write the output folder of a sweep as if it had been run, but for its atlas."""
    with_config(partial(_make_store, paint=paint), overrides)


def make_finished(overrides: Sequence[str]) -> None:
    """The same with grey images, and with what there is of an atlas but for its arrays."""
    make_store(overrides, grey)
    with_config(_make_atlas, overrides)


def _make_store(config: Config, paint: Paint) -> int:
    plan, devices = prepare_plan(config)
    folder = output_folder(config.output_root, config.name)
    prepare(folder, 0)
    write_manifest(folder, config, plan, devices)
    for model in plan.models:
        for layer in model.layers:
            folder.layer(model.label, layer.info.name).mkdir(parents=True)
            for seed in plan.seeds:
                _write_series(folder, list(plan.layer_shards(model, layer, seed)), paint)
    return EXIT_OK


def _make_atlas(config: Config) -> int:
    _write_atlas(output_folder(config.output_root, config.name), config.collate)
    return EXIT_OK


# --- shards --------------------------------------------------------------------------------------


def _write_series(folder: OutputFolder, shards: Sequence[Shard], paint: Paint) -> None:
    """Write the shards of a layer and seed, which differ in their targets alone."""
    facts = {"seconds_per_job": 0.06, "device": "cpu"}
    shared: dict[int, Arrays] = {}
    for shard in shards:
        n = len(shard.targets)
        shared[n] = shared.get(n) or _arrays(shard, paint)
        target = np.asarray(shard.targets, dtype=np.int64)
        result = ShardResult({"target": target, **shared[n]}, facts)
        # Not made durable, unlike those of a real run: that would take most of the time.
        folder.shard(shard).write_bytes(encode(shard, result))


def _arrays(shard: Shard, paint: Paint) -> Arrays:
    """The arrays that shards of one size share."""
    n, size = len(shard.targets), shard.series.recipe.image_size
    return {
        "status": np.full(n, STATUS["ok"], np.uint8),
        "activation": np.ones(n, np.float32),
        "image": paint((n, *size, len(shard.series.network.mean))),
    }


# --- atlas ---------------------------------------------------------------------------------------


class _Told(LayerView):
    """A layer whose jobs all went well, without a look at them."""

    def stored_jobs(self) -> Iterator[StoredJobs]:
        """None: nothing is copied."""
        yield from ()

    def initial_status(self) -> NDArray[np.uint8]:
        """All `ok`."""
        return np.full_like(super().initial_status(), STATUS["ok"])


def _write_atlas(folder: OutputFolder, settings: CollateSettings) -> None:
    """An atlas and montages that are current: of the shards that are there."""
    manifest = read_manifest(folder)
    plan: Plan = plan_of(manifest)
    views = [_Told(**vars(view)) for view in layer_views(folder, plan)]
    write_atlas(folder, views, {}, content_of(plan, views))
    for view in views:
        montage = folder.montage(view.model.label, view.layer.info.name)
        montage.parent.mkdir(parents=True, exist_ok=True)
        montage.touch()
    write_summary(folder, views, settings)
