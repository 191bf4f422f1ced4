"""One shard as one sealed file; its header says whose jobs are inside."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import h5py
import numpy as np

from layer_atlas.config.config import LARGEST_SHARD
from layer_atlas.config.recipe import recorded_steps, snapshot_steps
from layer_atlas.config.records import canonical_json
from layer_atlas.plan.jobs import STATUS, Shard, ShardResult
from layer_atlas.plan.plan import LayerPlan, ModelPlan
from layer_atlas.store import checksummed_file as sealed_file
from layer_atlas.store.arrays import Pictures, write_pictures
from layer_atlas.store.checksummed_file import CorruptFile
from layer_atlas.store.frames import Frame, fitting, most_bytes, read_arrays

SCHEMA = "layer-atlas-shard/2"

PICTURES = {"image": 3, "snapshot": 3, "alpha": 2}
"""Arrays of pictures, and how many axes each picture has: they are packed one by one."""


@dataclass(frozen=True)
class Header:
    """Whose jobs a shard file holds."""

    series: str
    channels: tuple[int, ...]
    facts: dict[str, Any]
    """How it was made, as far as is told."""


@dataclass(frozen=True)
class ShardFile:
    """A shard that was read, but for its pictures."""

    header: Header
    result: ShardResult
    """All but the pictures."""
    pictures: dict[str, Pictures]

    def packed(self, name: str, row: int) -> Iterator[tuple[tuple[int, ...], bytes]]:
        """The pictures of a job, packed as they are.

        Returns: where among the axes after that of the jobs each begins, and its bytes.
        """
        stored, axes = self.pictures[name], PICTURES[name]
        places = np.ndindex(stored.shape[1:-axes])
        for place, picture in zip(places, stored.packed(row), strict=True):
            yield (*place, *(0,) * axes), picture


def encode(shard: Shard, result: ShardResult) -> bytes:
    """The bytes of a shard file."""

    def fill(file: h5py.File) -> None:
        file.attrs["identity"] = canonical_json(shard.series.identity)
        for name, array in result.arrays.items():
            if name in PICTURES:
                write_pictures(file, name, array, PICTURES[name])
            else:
                file[name] = array
        file["status"].attrs["meaning"] = canonical_json(STATUS)

    whose = {"series": shard.series.key, "channels": shard.targets}
    return sealed_file.seal({"schema": SCHEMA, **whose, "facts": result.facts}, fill)


def read_header(data: bytes) -> Header:
    """Parse the header at the beginning of a shard file; raises CorruptFile."""
    return _header(sealed_file.read_header(data, SCHEMA))


def _header(values: Mapping[str, Any]) -> Header:
    series, channels, facts = (values.get(name) for name in ("series", "channels", "facts"))
    if not isinstance(series, str) or not isinstance(channels, list) or not isinstance(facts, dict):
        raise CorruptFile("the header is not that of a shard")
    if not all(type(channel) is int and 0 <= channel < 2**63 for channel in channels):
        raise CorruptFile("the header names channels that cannot be")
    if not 1 <= len(set(channels)) == len(channels) <= LARGEST_SHARD:
        raise CorruptFile(f"the header names {len(channels)} channels, or one twice")
    return Header(series, tuple(channels), facts)


def decode(data: bytes, model: ModelPlan, layer: LayerPlan) -> ShardFile:
    """Check a shard file and read it, but for its pictures.

    Args:
        data: the file.
        model, layer: whose jobs it must hold.
    Raises:
        CorruptFile: the digest does not match, or what it covers is not of such jobs.
    """
    sealed = sealed_file.unseal(data, SCHEMA)
    header = _header(sealed.header)
    frames = shard_frames(model, layer, len(header.channels))
    stored = fitting(sealed.arrays, frames)
    pictures = {name: a for name, a in stored.items() if isinstance(a, Pictures)}
    for array in pictures.values():
        _check(array)
    numbers = {name: a for name, a in stored.items() if name not in pictures}
    result = ShardResult(read_arrays(numbers, frames), header.facts)
    if result.arrays["channel"].tolist() != list(header.channels):
        raise CorruptFile("the channels are not those of the header")
    return ShardFile(header, result, pictures)


def _check(pictures: Pictures) -> None:
    try:
        pictures.check()
    except ValueError as error:
        raise CorruptFile(str(error)) from error


# --- what there is in a shard --------------------------------------------------------------------


def job_frames(model: ModelPlan, layer: LayerPlan) -> dict[str, Frame]:
    """What there is of each job of a layer, as frames without the axis of jobs.

    Shards that were made before a statistic was thought of lack it.
    """
    recipe, parts = model.recipe, len(layer.target_space.sizes)
    variants = () if recipe.variants == 1 else (recipe.variants,)
    numbers = {
        **dict.fromkeys(("activation", "activation_robust", "activation_max"), ()),
        **dict.fromkeys(("high_frequency", "clipped"), ()),
        "trace": (len(recorded_steps(recipe)),),
        "response": (layer.info.n_channels,),
        **({"part_activation": (parts,)} if parts > 1 else {}),
    }
    return {
        "status": Frame("u1", (), range(STATUS["diverged"] + 1)),
        "start": Frame("u1", (), needed=False),
        **{
            name: Frame("f4", (*variants, *shape), needed=name == "activation")
            for name, shape in numbers.items()
        },
        **_picture_frames(model, variants),
    }


def _picture_frames(model: ModelPlan, variants: tuple[int, ...]) -> dict[str, Frame]:
    recipe, size = model.recipe, model.recipe.image_size
    image = (*size, model.colours)
    frames = {"image": Frame("u1", (*variants, *image), packed=True)}
    if kept := snapshot_steps(recipe):
        frames["snapshot"] = Frame("u1", (*variants, len(kept), *image), packed=True)
    if recipe.parameterization.alpha:
        frames["alpha"] = Frame("u1", (*variants, *size), packed=True)
    return frames


def shard_frames(model: ModelPlan, layer: LayerPlan, n: int) -> dict[str, Frame]:
    """What there is in a shard of n jobs of a layer, as far as anybody reads it."""
    frames = job_frames(model, layer)
    of_jobs = {name: replace(f, shape=(n, *f.shape)) for name, f in frames.items()}
    return {"channel": Frame("i8", (n,)), **of_jobs}


def most_shard_bytes(model: ModelPlan, layer: LayerPlan, n: int) -> int:
    """What the file of a shard of n jobs of a layer takes at most."""
    return most_bytes(shard_frames(model, layer, n).values())
