"""Shards: what a shard file holds, how it is committed and read, and which jobs are done.

A shard that is present under its name is done; anything else is not. The folder is the only state:
a sweep resumes by reading it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layer_atlas.config.config import LARGEST_SHARD
from layer_atlas.config.objectives import FacetsObjective, Objective
from layer_atlas.config.recipe import recorded_steps, snapshot_steps
from layer_atlas.plan.environment import Environment, environment_in
from layer_atlas.plan.jobs import STATUS, Shard, ShardResult
from layer_atlas.plan.plan import LayerPlan, ModelPlan
from layer_atlas.store import files
from layer_atlas.store.files import (
    Arrays,
    ArraySpec,
    CorruptFile,
    conforming,
    read_at_most,
    write_atomically,
)
from layer_atlas.store.folder import OutputFolder

SCHEMA = "layer-atlas-shard/3"

IMAGE_AXES = {"image": 3, "snapshot": 3, "alpha": 2}
"""Arrays of images, and how many axes each image has; they are its last ones."""


_REQUIRED = {"target", "status", "activation", "image"}


@dataclass(frozen=True)
class Header:
    """Which jobs a shard file holds, and how they were made."""

    series: str
    """Key of the series."""
    targets: tuple[int, ...]
    facts: dict[str, Any]
    """How the jobs were made, as far as it was recorded."""


@dataclass(frozen=True)
class ShardFile:
    """A shard that was read and checked."""

    header: Header
    arrays: Arrays
    """Read-only arrays with a row per job; images are views into the bytes of the file."""


# --- one file ------------------------------------------------------------------------------------


def commit(folder: OutputFolder, shard: Shard, result: ShardResult) -> None:
    """Make a shard done. Raises StorageError."""
    write_atomically(folder.shard(shard), encode(shard, result))


def encode(shard: Shard, result: ShardResult) -> bytes:
    """Serialize a shard as a file. Raises KeyError if an array is missing that readers require."""
    # Committed without it, the shard would be set aside and computed again, for ever.
    if missing := _REQUIRED - result.arrays.keys():
        raise KeyError(f"a shard without {sorted(missing)}")
    series = shard.series
    record = {
        "series": series.key,
        "identity": series.identity,
        "targets": shard.targets,
        "facts": result.facts,
    }
    return files.encode(SCHEMA, record, result.arrays)


def read_shard(path: Path, model: ModelPlan, layer: LayerPlan) -> ShardFile:
    """Read a committed shard.

    Args:
        path: the file.
        model, layer: those whose jobs it must hold.
    Raises:
        CorruptFile: it is damaged, or does not hold such jobs.
        OSError: it does not exist or cannot be read.
    """
    # The header bounds how much is read, and is not trusted any further.
    n = len(read_header(path).targets)
    most = files.largest_file(shard_specs(model, layer, n).values())
    return decode(read_at_most(path, most), model, layer)


def decode(data: bytes, model: ModelPlan, layer: LayerPlan) -> ShardFile:
    """Check a shard file and find its arrays.

    Args:
        data: the file.
        model, layer: those whose jobs it must hold.
    Raises:
        CorruptFile: the digest does not match, or the content does not fit such jobs.
    """
    file = files.decode(data, SCHEMA)
    header = _header(file.record)
    arrays = conforming(file.arrays, shard_specs(model, layer, len(header.targets)))
    # The index of done jobs believes the header; a mismatch would file images under other targets.
    if arrays["target"].tolist() != list(header.targets):
        raise CorruptFile("the targets are not those of the header")
    return ShardFile(header, arrays)


def read_header(path: Path) -> Header:
    """Read which jobs a shard holds, without the rest of the file.

    Raises:
        CorruptFile: the header is not that of a shard.
        OSError: the file does not exist or cannot be read.
    """
    return _header(files.read_record(path, SCHEMA))


def _header(record: Mapping[str, Any]) -> Header:
    series, targets, facts = (record.get(name) for name in ("series", "targets", "facts"))
    if not isinstance(series, str) or not isinstance(targets, list) or not isinstance(facts, dict):
        raise CorruptFile("the header is not that of a shard")
    # `isinstance` would let a bool pass, and int64 has no room for more.
    if not all(type(target) is int and 0 <= target < 2**63 for target in targets):
        raise CorruptFile("the header names impossible targets")
    if not 1 <= len(set(targets)) == len(targets) <= LARGEST_SHARD:
        raise CorruptFile(f"the header names {len(targets)} targets, or one twice")
    return Header(series, tuple(targets), facts)


def read_environment(path: Path) -> Environment | None:
    """Read which environment made the jobs of a shard; `None` if that is unknown."""
    try:
        return environment_in(read_header(path).facts)
    except (CorruptFile, OSError):
        return None


# --- arrays of a shard ---------------------------------------------------------------------------


def job_specs(model: ModelPlan, layer: LayerPlan) -> dict[str, ArraySpec]:
    """Specs of what is stored of one job of a layer, without the axis of jobs.

    Only what every version has measured is required: a shard may be older than a statistic.
    """
    recipe, parts = model.recipe, len(layer.target_space.sizes)
    variants = () if recipe.variants == 1 else (recipe.variants,)
    image = (*recipe.image_size, model.colours)
    floats = {
        **dict.fromkeys(("activation", "activation_robust", "activation_max"), ()),
        **dict.fromkeys(("high_frequency", "clipped"), ()),
        "trace": (len(recorded_steps(recipe)),),
        "response": (layer.info.n_channels,),
        **({"part_activation": (parts,)} if parts > 1 else {}),
    }
    images = {
        "image": image,
        **({"snapshot": (len(kept), *image)} if (kept := snapshot_steps(recipe)) else {}),
        **({"alpha": recipe.image_size} if recipe.parameterization.alpha else {}),
    }
    return {
        "status": ArraySpec("u1", (), range(STATUS["diverged"] + 1)),
        "start": ArraySpec("u1", (), required=False),
        **{
            name: ArraySpec("f4", (*variants, *shape), required=name == "activation")
            for name, shape in floats.items()
        },
        **{name: ArraySpec("u1", (*variants, *shape)) for name, shape in images.items()},
        **_facet_specs(recipe.objective),
    }


def _facet_specs(objective: Objective) -> dict[str, ArraySpec]:
    if not isinstance(objective, FacetsObjective):
        return {}
    return {"facet": ArraySpec("u1", (objective.top,), range(1, objective.facets + 1))}


def shard_specs(model: ModelPlan, layer: LayerPlan, n: int) -> dict[str, ArraySpec]:
    """Specs of the arrays of a shard of n jobs of a layer."""
    specs = job_specs(model, layer)
    of_jobs = {name: replace(spec, shape=(n, *spec.shape)) for name, spec in specs.items()}
    return {"target": ArraySpec("i8", (n,)), **of_jobs}
