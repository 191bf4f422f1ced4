"""Tasks over a dataset: statistics of the responses to all images, and examples cut out of a few.

For the statistics every image is shown to all layers at once, block by block. The examples are the
dataset images with the highest and lowest activations, cut to the view and mapped. The judge, whose
responses to the dataset are known, is shown the finished images too, shard by shard.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layer_atlas.atlas.gather import LayerView
from layer_atlas.config.datasets import DatasetConfig, SaliencyMethod
from layer_atlas.config.records import digest
from layer_atlas.datasets.activation_map import joined_samples, sample_arrays
from layer_atlas.datasets.image_files import as_jpeg, joined
from layer_atlas.datasets.sources import Entry, Listing, View, open_dataset, stream_views
from layer_atlas.datasets.statistics import DatasetStats, summarise
from layer_atlas.datasets.statistics_files import write_arrays
from layer_atlas.datasets.tasks import (
    BlockRequest,
    Examples,
    Judging,
    LayerSamples,
    StatisticsBlock,
    statistics_of,
)
from layer_atlas.models.activations import ChannelActivations, SampledActivations
from layer_atlas.models.device_model import Observe, Sample
from layer_atlas.models.forwards import Forward
from layer_atlas.models.pixels import from_bytes, recoloured, resized, to_bytes
from layer_atlas.plan.jobs import LayerInfo, Product, Shard
from layer_atlas.plan.plan import DatasetPlan, ModelPlan, Plan, required_environments
from layer_atlas.store.files import Arrays
from layer_atlas.store.resume import DoneIndex
from layer_atlas.sweep.tasks import Bundle, Commit, ImageCache, LayerTargets, WorkerContext
from layer_atlas.sweep.tasks.optimize import ShardRequest
from layer_atlas.visualization import rng
from layer_atlas.visualization.optimization.memory import if_it_fits
from layer_atlas.visualization.saliency import activation_maps, saliency_maps

logger = logging.getLogger(__name__)

BATCH = 64
"""Images per forward pass; the length of a block is a multiple of it."""


@dataclass(frozen=True)
class DatasetBundle(Bundle):
    """Base of bundles that always have a dataset."""

    dataset_plan: DatasetPlan
    dataset: DatasetConfig


@dataclass(frozen=True)
class StatisticsBundle(DatasetBundle):
    """Blocks of images for one model."""

    requests: tuple[BlockRequest, ...]

    def run(self, context: WorkerContext) -> None:
        """Show the missing blocks and commit the activations.

        Raises:
            StorageError: the disk is full or fails.
        """
        waiting = [block for block in self.blocks() if not context.folder.is_done(block)]
        of_samples = self.plan.recipe.objective.of_dataset
        dataset_pass = (SamplingPass if of_samples else DatasetPass)(context, self, waiting)
        for block in context.until_drained(waiting):
            dataset_pass.run(block)

    def blocks(self) -> list[StatisticsBlock]:
        """The tasks, in order."""
        return [
            StatisticsBlock(
                r.start,
                r.stop,
                r.dataset_images,
                tuple(statistics_of(self.plan, layer, self.dataset_plan) for layer in r.layers),
            )
            for r in self.requests
        ]


Batches = Iterator[tuple[range, list[View]]]
"""Indices of up to a batch of images in the listing, and their views, batch by batch."""


class DatasetPass:
    """Shows dataset images to the layers of a network, block by block."""

    def __init__(
        self, context: WorkerContext, bundle: StatisticsBundle, blocks: Sequence[StatisticsBlock]
    ) -> None:
        self.context, self.plan = context, bundle.dataset_plan
        self.infos = {layer.info.name: layer.info for layer in bundle.plan.layers}
        self.dataset_images = open_dataset(bundle.dataset)
        self.listing = Listing(context.folder.listing(bundle.dataset_plan.listing))
        self.size = bundle.plan.dataset_image_size
        # One stream through all blocks, so that reading ahead does not stop at their ends.
        self.views = self._read(blocks)

    def run(self, block: StatisticsBlock) -> None:
        """Show one block and have it committed; raises errors of earlier commits."""
        heartbeat = self.context.heartbeat
        heartbeat.begin([block])
        begun, busy, done = time.monotonic(), heartbeat.facts["busy"], heartbeat.facts["done"]
        infos = [self.infos[statistics.layer] for statistics in block.layer_statistics]

        def batches() -> Batches:
            for start in range(block.start, block.stop, BATCH):
                index = range(start, min(start + BATCH, block.stop))
                yield index, list(islice(self.views, len(index)))
                seen = index.stop - block.start
                heartbeat.tick(done=done + seen, busy=busy + time.monotonic() - begun)

        files = self._files(block, infos, batches())
        self.context.committer.submit([block.key], lambda: self._commit(files))

    def _files(
        self, block: StatisticsBlock, infos: Sequence[LayerInfo], batches: Batches
    ) -> dict[Product, Arrays]:
        """Compute the files of a block."""
        observe = self.context.renderer.network.observer(infos)
        parts = [self._observe(observe, views) for _, views in batches]
        return {**self._summaries(block, parts), **self._fields(block, infos)}

    def _pixels(self, views: Sequence[View]) -> Tensor:
        """The views of up to a batch, padded to a whole one: (BATCH, size, size, 3)."""
        # Unreadable images stay black; `readable` excludes them.
        pixels = np.zeros((BATCH, self.size, self.size, 3), np.uint8)
        for row, view in enumerate(views):
            if view.pixels is not None:
                pixels[row] = view.pixels
        return torch.from_numpy(pixels)

    def _observe(self, observe: Observe, views: Sequence[View]) -> "BatchActivations":
        """Show some images."""
        n = len(views)
        activations = observe_in_parts(observe, self._pixels(views))
        return BatchActivations(
            readable=np.asarray([view.pixels is not None for view in views]),
            size=np.asarray([(view.width, view.height) for view in views], np.int32),
            layers={
                name: ChannelActivations(*(part[:n].cpu() for part in vars(layer).values()))
                for name, layer in activations.items()
            },
        )

    def _summaries(
        self, block: StatisticsBlock, parts: Sequence["BatchActivations"]
    ) -> dict[Product, Arrays]:
        index = np.arange(block.start, block.stop)
        files = {}
        for statistics in block.layer_statistics:
            block_activations = _joined([part.layers[statistics.layer] for part in parts])
            arrays = summarise(
                block_activations.mean.numpy(),
                block_activations.peak.numpy(),
                block_activations.place.numpy().astype(np.int32),
                readable=np.concatenate([part.readable for part in parts]),
                first=block.start,
                kept=index % self.plan.stride == 0,
                top=self.plan.top,
                bottom=self.plan.bottom,
            )
            arrays["size"] = np.concatenate([part.size for part in parts])
            files[statistics.block(block.start, block.dataset_images)] = arrays
        return files

    def _fields(self, block: StatisticsBlock, infos: Sequence[LayerInfo]) -> dict[Product, Arrays]:
        """Receptive fields; the worker of the first block finds them."""
        wanted = {s.layer: s.field for s in block.layer_statistics if s.field is not None}
        # They do not depend on images, so one worker per layer suffices.
        if block.start > 0 or not wanted:
            return {}
        fields = self.context.renderer.network.receptive_fields(infos)
        return {field: {"box": fields[name].cpu().numpy()} for name, field in wanted.items()}

    def _read(self, blocks: Sequence[StatisticsBlock]) -> Iterator[View]:
        """The views of all images of the blocks, read ahead."""
        numbered = (
            pair
            for block in blocks
            for pair in enumerate(self.listing.block(block.start, block.stop), block.start)
        )
        return stream_views(self.dataset_images, numbered, self.size, torch.get_num_threads())

    def _commit(self, files: dict[Product, Arrays]) -> None:
        for product, arrays in files.items():
            # A kill between two files of a block leaves one of them, and it stays as it is.
            if not self.context.folder.exists(product):
                write_arrays(self.context.folder, product, arrays)


class SamplingPass(DatasetPass):
    """Shows dataset images, and keeps the activations of one position of each."""

    def _files(
        self, block: StatisticsBlock, infos: Sequence[LayerInfo], batches: Batches
    ) -> dict[Product, Arrays]:
        samples = {s.layer: s for s in block.layer_statistics if isinstance(s, LayerSamples)}
        labels = any(s.objective.labels for s in samples.values())
        sample = self.context.renderer.network.sampler(infos, labels)
        parts: dict[str, list[Arrays]] = {name: [] for name in samples}
        for index, views in batches:
            entries = self.listing.block(index.start, index.stop)
            places = {info.name: self._places(info, samples[info.name], entries) for info in infos}
            pictures = [view.pixels for view in views]
            for name, found in sample_in_parts(sample, self._pixels(views), places).items():
                # The batch may be padded.
                rows = places[name], found.vector, found.attribution
                place, vector, scores = (t[: len(index)].cpu().numpy() for t in rows)
                parts[name].append(sample_arrays(index, place, vector, scores, pictures))
        files = {
            s.block(block.start, block.dataset_images): joined_samples(parts[name])
            for name, s in samples.items()
        }
        return {**files, **self._fields(block, infos)}

    def _places(self, info: LayerInfo, samples: LayerSamples, entries: Sequence[Entry]) -> Tensor:
        """Draw a flat position for each image of a batch, padded to a whole one: (BATCH,) int64.

        The image and the layer alone decide it: not its number, block or worker.
        """
        seed = samples.objective.seed
        keys = [digest({"image": e, "layer": info.name, "seed": seed}) for e in entries]
        drawn = rng.uniform(rng.keys(keys), rng.POSITION, 1, 1)[:, 0, 0].double()
        places = (drawn * info.positions).long().clamp_max(info.positions - 1)
        return torch.cat([places, places.new_zeros(BATCH - len(places))])


def sample_in_parts(
    sample: Sample, views: Tensor, places: dict[str, Tensor]
) -> dict[str, SampledActivations]:
    """Sample layers on views; halves the batch where memory does not suffice."""
    found = if_it_fits(lambda: sample(views, places), least=len(views) == 1)
    if found is not None:
        return found
    middle = len(views) // 2
    halves = [
        sample_in_parts(sample, views[half], {name: p[half] for name, p in places.items()})
        for half in (slice(middle), slice(middle, None))
    ]
    return {
        name: SampledActivations(
            torch.cat([half[name].vector for half in halves]),
            torch.cat([half[name].attribution for half in halves]),
        )
        for name in halves[0]
    }


def observe_in_parts(observe: Observe, views: Tensor) -> dict[str, ChannelActivations]:
    """Observe layers on views; halves the batch where memory does not suffice.

    Raises:
        RuntimeError: there is no memory for a single view.
    """
    activations = if_it_fits(lambda: observe(views), least=len(views) == 1)
    if activations is not None:
        return activations
    halves = [observe_in_parts(observe, half) for half in views.tensor_split(2)]
    return {name: _joined([half[name] for half in halves]) for name in halves[0]}


def _joined(parts: Sequence[ChannelActivations]) -> ChannelActivations:
    fields = zip(*(vars(part).values() for part in parts), strict=True)
    return ChannelActivations(*(torch.cat(tensors) for tensors in fields))


@dataclass(frozen=True)
class BatchActivations:
    """The activations of layers on a batch of images."""

    readable: NDArray[np.bool_]
    """(n,)"""
    size: NDArray[np.int32]
    """(n, 2) width and height of the images."""
    layers: dict[str, ChannelActivations]
    """(n, K) of each layer."""


_RANKINGS = ("strongest", "weakest")

Images = dict[int, NDArray[np.uint8]]
"""Dataset images (H, W, 3) by their index in the listing."""


@dataclass(frozen=True)
class ExamplesBundle(DatasetBundle):
    """Examples of one model's channels, layers back to back."""

    requests: tuple[LayerTargets, ...]

    def run(self, context: WorkerContext) -> None:
        """Pick and commit the missing examples.

        Raises:
            StorageError: the disk is full or fails.
        """
        writer = ExampleWriter(context, self)
        plan = self.dataset_plan
        tasks = (
            Examples(statistics_of(self.plan, r.layer, plan), r.targets, plan.saliency)
            for r in self.requests
        )
        context.do(tasks, writer.pick)


class ExampleWriter:
    """Picks the dataset images of channels, and computes their saliency and activation maps."""

    def __init__(self, context: WorkerContext, bundle: ExamplesBundle) -> None:
        self.context = context
        size = bundle.plan.dataset_image_size
        self.colours = len(bundle.plan.network.mean)
        self.cache = ImageCache(context.folder, bundle.dataset_plan, bundle.dataset, size)
        self.infos = {layer.info.name: layer.info for layer in bundle.plan.layers}
        # Truncating the network may take longer than the maps of a few channels.
        self.forward = lru_cache(maxsize=1)(self._forward)

    def pick(self, task: Examples) -> Commit:
        """Pick the images of one task, and compute their maps."""
        arrays = _pick(task, self.cache.dataset_stats(task.statistics))
        shown = np.concatenate([arrays[f"{name}_index"].ravel() for name in _RANKINGS])
        images = self.cache.images(shown.tolist())
        # Each image is stored once, however many channels of the task it stands for.
        arrays["picture_index"] = np.asarray(list(images), np.int64)
        if task.saliency is not None and images:
            mapped = arrays["strongest_index"][:, : task.saliency.dataset_images]
            arrays["saliency"] = self._maps(task, task.saliency, mapped, images)
        if task.map_size is not None and images:
            arrays |= self._activations(task, task.map_size, arrays["strongest_index"], images)
        return partial(self._commit, task, arrays, images)

    def _maps(
        self, task: Examples, method: SaliencyMethod, shown: NDArray[np.int64], images: Images
    ) -> NDArray[np.uint8]:
        """Saliency maps (n, s, H, W) of the images `shown` (n, s) of each channel."""
        pixels, channels = self._inputs(task, shown, images)
        keys = rng.keys(_map_keys(task, shown), channels.device)
        forward = self.forward(task.statistics.layer)
        maps = saliency_maps(forward, pixels, channels, method, keys)
        rounded = (maps * 255.0).round().to(torch.uint8).cpu().numpy()
        return rounded.reshape(*shown.shape, *rounded.shape[1:])

    def _activations(
        self, task: Examples, kept: tuple[int, int], shown: NDArray[np.int64], images: Images
    ) -> Arrays:
        """Activation maps (n, s, h, w) of the images `shown` (n, s), in 8 bits, and their bounds.

        The bounds (n, s, 2) are the values of 0 and 255; NaN where a rank has no image.
        """
        pixels, channels = self._inputs(task, shown, images)
        forward, info = self.forward(task.statistics.layer), task.statistics.info
        maps = activation_maps(forward, pixels, channels, info.map_size, kept)
        flat = maps.cpu().numpy().reshape(*shown.shape, -1)
        bounds = np.stack([flat.min(axis=-1), flat.max(axis=-1)], axis=-1)
        width = np.maximum(bounds[..., 1:] - bounds[..., :1], np.finfo(np.float32).tiny)
        levels = np.rint((flat - bounds[..., :1]) / width * 255.0).astype(np.uint8)
        bounds[~np.isin(shown, list(images))] = np.nan
        return {"activation": levels.reshape(*shown.shape, *kept), "activation_bounds": bounds}

    def _inputs(
        self, task: Examples, shown: NDArray[np.int64], images: Images
    ) -> tuple[Tensor, Tensor]:
        """The images `shown` (n, s) of each channel, (n s, C, H, W), and the channels (n s,)."""
        device = self.context.renderer.device
        black = np.zeros_like(next(iter(images.values())))
        pixels = np.stack([images.get(index, black) for index in shown.ravel().tolist()])
        inputs = recoloured(from_bytes(torch.from_numpy(pixels)).to(device), self.colours)
        return inputs, torch.tensor(np.repeat(task.targets, shown.shape[1]), device=device)

    def _commit(self, task: Examples, arrays: Arrays, images: Images) -> None:
        files = joined([as_jpeg(image) for image in images.values()])
        write_arrays(self.context.folder, task.products[0], {**arrays, **files})

    def _forward(self, layer: str) -> Forward:
        return self.context.renderer.network.exact_path([self.infos[layer]]).forward


def _pick(task: Examples, stats: DatasetStats) -> dict[str, NDArray[Any]]:
    """The examples of each channel by rank; fewer if the dataset has no more images."""
    channels = np.asarray(task.targets, np.int64)
    # A dataset may have fewer images than examples are asked for.
    n = min(task.statistics.plan.examples, stats.count)
    index = {
        name: ranking.index[channels, :n]
        for name, ranking in zip(_RANKINGS, (stats.top, stats.bottom), strict=True)
    }
    return {"target": channels, **{f"{name}_index": ranks for name, ranks in index.items()}}


def _map_keys(task: Examples, shown: NDArray[np.int64]) -> list[str]:
    """A random key per map: of layer statistics, channel and image."""
    # The words are part of the keys: other words would make other maps.
    return [
        digest({"study": task.statistics.product.key, "channel": channel, "photograph": index})
        for channel, indices in zip(task.targets, shown.tolist(), strict=True)
        for index in indices
    ]


# --- the judge ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JudgeBundle(DatasetBundle):
    """Shards of one model. The bundle's own plan is that of the judge."""

    judged: ModelPlan
    """The plan of the model that the images were made for, with the layers of the shards."""
    requests: tuple[ShardRequest, ...]

    def run(self, context: WorkerContext) -> None:
        """Show the images of the missing tasks to the judge, and commit their features.

        A task whose shard turns out to be corrupt is left: the driver makes the shard anew first.

        Raises:
            StorageError: the disk is full or fails.
        """
        (layer,) = self.plan.layers
        observe = context.renderer.network.observer([layer.info])
        index = DoneIndex(context.folder, required_environments([self.judged]))

        def judge(task: Judging) -> Commit | None:
            images = self._images(context, index, task.shard)
            if images is None:
                logger.warning("%s is corrupt and was set aside, to be made again", task.shard)
                return None
            arrays = {"feature": self._features(observe, images)}
            return partial(write_arrays, context.folder, task.products[0], arrays)

        context.do(self.tasks(), judge)

    def tasks(self) -> list[Judging]:
        """The tasks, in order."""
        judge = statistics_of(self.plan, self.plan.layers[0].info.name, self.dataset_plan)
        return [Judging(judge, request.shard(self.judged)) for request in self.requests]

    def _images(
        self, context: WorkerContext, index: DoneIndex, shard: Shard
    ) -> NDArray[np.uint8] | None:
        """Read the images (n, H, W, C) of a shard; `None` if one of its files is corrupt."""
        layers = {layer.info.name: layer for layer in self.judged.layers}
        layer = replace(layers[shard.series.layer], targets=shard.targets)
        model = replace(self.judged, layers=(layer,))
        plan = Plan((model,), (shard.series.seed,), len(shard.targets))
        view = LayerView(context.folder, plan, model, layer, index)
        height, width = view.image_size
        images = np.zeros((len(shard.targets), height, width, view.colours), np.uint8)
        read = np.zeros(len(images), np.bool_)
        for jobs in view.stored_jobs():
            images[jobs.rows] = jobs.arrays["image"]
            read[jobs.rows] = True
        return images if read.all() else None

    def _features(self, observe: Observe, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The mean response (n, K) of each channel of the judge's layer to images."""
        parts = [
            self._observed(observe, torch.from_numpy(images[start : start + BATCH]))
            for start in range(0, len(images), BATCH)
        ]
        return np.concatenate(parts)

    def _observed(self, observe: Observe, pixels: Tensor) -> NDArray[np.float32]:
        """The same of one batch, which is filled up: bits depend on the size of a batch."""
        size = self.plan.recipe.image_size
        images = from_bytes(pixels).expand(-1, 3, -1, -1)
        views = torch.zeros(BATCH, *size, 3, dtype=torch.uint8)
        # 8-bit at the judge's size, as it sees the dataset images.
        views[: len(pixels)] = to_bytes(resized(images, size))
        (response,) = observe_in_parts(observe, views).values()
        return response.mean[: len(pixels)].cpu().numpy()
