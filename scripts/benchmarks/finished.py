"""A finished sweep of any size, made in a minute: real files, though no image in them was climbed.

Every shard is a sealed file under its own name, with the right header, identity, channels and
digest; all images are grey, and of the statistics there is no more than a shard must have. The
manifest is written as a run writes it, and the atlas by the module that collates, but for what
would fill the disk. So the commands find nothing to do by their own rules.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import h5py
import numpy as np
from numpy.typing import NDArray
from torch import nn

from pipeline.collate.brief import write_brief
from pipeline.collate.gather import LayerView, Piece, layer_views
from pipeline.collate.hdf5 import write_atlas
from pipeline.collate.run import content_of
from pipeline.errors import EXIT_OK
from pipeline.jobs import STATUS, Shard
from pipeline.plan import Plan
from pipeline.settings.compose import with_config
from pipeline.settings.config import CollateSettings, Config
from pipeline.settings.records import canonical_json
from pipeline.store import sealed_file
from pipeline.store.folder import OutputFolder, output_folder, prepare
from pipeline.store.manifest import plan_of, read_manifest, write_manifest
from pipeline.store.shard_file import PICTURES, SCHEMA
from pipeline.store.stored import Numbers, write_pictures
from pipeline.sweep import prepare_plan


def wide_network(layers: int, channels: int) -> nn.Module:
    """Many layers of many channels that cost next to nothing: vectors, and a number per channel."""
    wide = {f"layer{i}": nn.PReLU(channels) for i in range(layers)}
    first = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, channels))
    return nn.Sequential(OrderedDict({"first": first, **wide}))


def make_finished(overrides: Sequence[str]) -> None:
    """Write the output folder of a sweep as if it had been run."""
    with_config(_make, overrides)


def _make(config: Config) -> int:
    plan, devices = prepare_plan(config)
    folder = output_folder(config.output_root, config.name)
    prepare(folder, 0)
    write_manifest(folder, config, plan, devices)
    for model in plan.models:
        for layer in model.layers:
            folder.layer(model.label, layer.info.name).mkdir(parents=True)
            for seed in plan.seeds:
                _write_series(folder, list(plan.layer_shards(model, layer, seed)))
    _write_atlas(folder, config.collate)
    return EXIT_OK


# --- shards --------------------------------------------------------------------------------------


def _write_series(folder: OutputFolder, shards: Sequence[Shard]) -> None:
    """Write the shards of a layer and seed, which differ in their channels alone."""
    moulds: dict[int, _Mould] = {}
    for shard in reversed(shards):  # so that moulds have room for the longest numbers
        mould = moulds.get(len(shard.channels)) or _Mould.of(shard)
        moulds[len(shard.channels)] = mould
        # Not made durable, unlike those of a real run: that would take most of the time.
        folder.shard(shard).write_bytes(mould.cast(shard))


@dataclass(frozen=True)
class _Mould:
    """A sealed shard that others are cast from."""

    table: bytes
    """Where its arrays lie."""
    body: bytes
    """The file without its user block."""
    user_block: int
    place: int
    """Where in the body the channels' numbers are."""

    @staticmethod
    def of(shard: Shard) -> "_Mould":
        data = sealed_file.seal(_header(shard), partial(_fill, shard=shard))
        sealed = sealed_file.unseal(data, SCHEMA)
        user_block = sealed.header["user_block"]
        channel = sealed.arrays["channel"]
        assert isinstance(channel, Numbers)
        table = data.split(b"\n", 3)[2]
        return _Mould(table, data[user_block:], user_block, channel.start)

    def cast(self, shard: Shard) -> bytes:
        """The file of another shard of the same series, with as many channels."""
        numbers = np.asarray(shard.channels, dtype=np.int64).tobytes()
        block = sealed_file.opening(_header(shard), self.user_block) + self.table + b"\n"
        body = self.body[: self.place] + numbers + self.body[self.place + len(numbers) :]
        return sealed_file.stamped(block.ljust(self.user_block) + body)


def _header(shard: Shard) -> dict[str, object]:
    whose = {"series": shard.series.key, "channels": shard.channels}
    return {"schema": SCHEMA, **whose, "facts": {"seconds_per_job": 0.06, "device": "cpu"}}


def _fill(file: h5py.File, shard: Shard) -> None:
    """The datasets of a shard, as `shard_file` lays them out."""
    n, size = len(shard.channels), shard.series.recipe.image_size
    file.attrs["identity"] = canonical_json(shard.series.identity)
    file["channel"] = np.asarray(shard.channels, dtype=np.int64)
    file["status"] = np.full(n, STATUS["ok"], np.uint8)
    file["activation"] = np.ones(n, np.float32)
    grey = np.full((n, *size, len(shard.series.network.mean)), 128, np.uint8)
    write_pictures(file, "image", grey, PICTURES["image"])


# --- atlas ---------------------------------------------------------------------------------------


class _Told(LayerView):
    """A layer whose jobs all went well, without a look at them."""

    def pieces(self) -> Iterator[Piece]:
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
    write_brief(folder, views, settings)
