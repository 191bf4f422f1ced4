"""Sweeps whose every image is its own noise and every number its own, so that no two can be swapped
without being seen; and photographs of the same kind in their atlas."""

import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from toys import fail, layer_info, make_plan, make_recipe, make_result

from layer_atlas.atlas.gather import LayerView, layer_views
from layer_atlas.atlas.hdf5 import write_atlas
from layer_atlas.config.objectives import ChannelObjective
from layer_atlas.config.recipe import Recipe
from layer_atlas.plan.jobs import Shard, ShardResult
from layer_atlas.plan.plan import Plan
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.shards import commit

Pixels = NDArray[np.uint8]
LIGHTEST = 230
"""No noise is as light as the paper."""


def noise(draw: np.random.Generator, height: int, width: int, colours: int = 3) -> Pixels:
    """Smooth noise (H, W, colours): still itself when it is made smaller or larger."""
    coarse = draw.integers(0, LIGHTEST, (5, 5, colours), np.uint8)
    bands = [Image.fromarray(band).resize((width, height)) for band in np.moveaxis(coarse, -1, 0)]
    return np.stack(bands, axis=-1).clip(0, LIGHTEST)


def recipe_of(size: tuple[int, int], sign: Any = "positive", snapshots: int = 0) -> Recipe:
    recipe = make_recipe(image_size=size)
    return replace(recipe, objective=ChannelObjective(sign=sign), snapshots=snapshots)


def plan_of(channels: Mapping[str, tuple[int, ...]], n: int = 40, **settings: Any) -> Plan:
    """A plan of layers of n channels, of which some are wanted."""
    plan = make_plan(*(layer_info(name, n) for name in channels), **{"shard_size": 1, **settings})
    (model,) = plan.models
    wanted = zip(model.layers, channels.values(), strict=True)
    layers = tuple(replace(layer, targets=numbers) for layer, numbers in wanted)
    return replace(plan, models=(replace(model, layers=layers),))


def fill(
    folder: OutputFolder, plan: Plan, fates: Mapping[tuple[int, int], str] | None = None
) -> LayerView:
    """Commit a noisy result for every shard, and collate the atlas; returns its first layer.

    Args:
        folder: where the sweep is.
        plan: its shards are of one channel each.
        fates: by channel and seed, where that is not `ok`.
    """
    for number, shard in enumerate(plan.shards()):
        (channel,) = shard.targets
        fate = (fates or {}).get((channel, shard.series.seed), "ok")
        if fate == "failed":
            fail(folder, shard)
        elif fate != "missing":
            n = plan.models[0].layers[0].info.n_channels
            commit(folder, shard, _noisy(shard, n, fate, np.random.default_rng(number)))
    views = list(layer_views(folder, plan))
    write_atlas(folder, views, {"config": "", "versions": '{"torch": "2"}'}, "digest")
    return views[0]


def _noisy(shard: Shard, n: int, fate: str, draw: np.random.Generator) -> ShardResult:
    result = make_result(shard, n, dict.fromkeys(shard.targets, fate))
    arrays = {name: _noise_like(array, draw) for name, array in result.arrays.items()}
    if "snapshot" in arrays:  # the last one is the image
        arrays["image"] = arrays["snapshot"][..., -1, :, :, :]
    return ShardResult(arrays, result.facts)


def _noise_like(array: NDArray[Any], draw: np.random.Generator) -> NDArray[Any]:
    """Noise in the place of pictures and of numbers; what counts stays as it is."""
    if array.dtype.kind == "f":
        return draw.normal(size=array.shape).astype(array.dtype)
    if array.ndim < 4:
        return array
    pictures = [noise(draw, *array.shape[-3:]) for _ in range(int(np.prod(array.shape[:-3])))]
    return np.stack(pictures).reshape(array.shape)


def add_photographs(
    atlas: Path, strongest: int = 4, weakest: int = 3, saliency: int = 2, side: int = 32
) -> None:
    """Give all layers of an atlas noisy photographs, maps, boxes, and what follows from them."""
    with h5py.File(atlas, "r+") as file:
        for number, group in enumerate(file["toy"].values()):
            draw, count = np.random.default_rng(100 + number), len(group["channel"])
            dataset = group.create_group("dataset")
            dataset.attrs["photographs"] = 500
            kinds = {"top_jpeg": strongest, "bottom_jpeg": weakest}
            for name, n in ((name, n) for name, n in kinds.items() if n):
                files = dataset.create_dataset(name, (count, n), h5py.vlen_dtype(np.uint8))
                for place in np.ndindex(files.shape):
                    files[place] = _jpeg(noise(draw, side, side))
            maps = [noise(draw, side, side, 1)[..., 0] for _ in range(count * saliency)]
            if maps:
                dataset["top_saliency"] = np.reshape(maps, (count, saliency, side, side))
            box = np.sort(draw.integers(0, side, (count, strongest, 2, 2)), axis=2)
            dataset["top_view_box"] = np.add(box, [[0, 0], [1, 1]]).reshape(count, strongest, 4)
            _add_numbers(group, draw)


def _jpeg(pixels: Pixels) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return np.frombuffer(buffer.getvalue(), np.uint8)


def _add_numbers(group: h5py.Group, draw: np.random.Generator) -> None:
    jobs, dataset = group["status"].shape, group["dataset"]
    answers = np.sort(draw.normal(size=(jobs[0], 300)) ** 3, axis=1)
    dataset["level"] = np.asarray([0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    dataset["quantile"] = np.quantile(answers, dataset["level"], axis=1).T
    dataset["min"], dataset["max"] = answers[:, 0], answers[:, -1]
    dataset["mean"], dataset["std"] = answers.mean(axis=1), answers.std(axis=1)
    made = np.isfinite(np.reshape(group["activation"], (*jobs, -1))[..., 0])
    for name in ("agreement", "percentile"):
        group[name] = np.where(made, draw.uniform(-1, 100, jobs), np.nan).astype(np.float32)
    group["agreement_rank"] = np.where(made, draw.integers(1, 99, jobs), 0)
    best = draw.integers(0, jobs[1], jobs[0])
    group["best_seed_index"] = np.where(made[np.arange(jobs[0]), best], best, -1)
