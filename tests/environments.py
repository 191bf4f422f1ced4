"""Shards made with versions and devices of one's choice."""

from dataclasses import replace
from pathlib import Path

from toys import make_result

from layer_atlas.config.records import plain
from layer_atlas.plan.environment import Device, Environment
from layer_atlas.plan.jobs import Shard, ShardResult
from layer_atlas.plan.plan import Plan
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.shards import commit, read_shard


def made_by(torch: str = "2.11.0", device: str = "NVIDIA H200") -> Environment:
    """An environment of this version of torch, on this device."""
    return Environment({"torch": torch}, Device(device, "9.0", {"CUDA": "13.0"}))


OLD, NEW, OTHER = made_by(), made_by("2.15.0"), made_by("2.15.0", "NVIDIA A100")


def wanting(plan: Plan, environment: Environment | None) -> Plan:
    """The same plan, of which only images of an environment count."""
    models = (replace(model, environment=environment) for model in plan.models)
    return replace(plan, models=tuple(models))


def make(folder: OutputFolder, shard: Shard, environment: Environment | None) -> None:
    """Commit made-up results; without an environment as versions did that recorded none."""
    facts = {} if environment is None else {"environment": plain(environment)}
    commit(folder, shard, ShardResult(make_result(shard).arrays, facts))


def pretend(folder: OutputFolder, plan: Plan, path: Path, environment: Environment | None) -> None:
    """Write a shard that was made in earnest again, as if made with another environment."""
    shard = next(each for each in plan.shards() if folder.shard(each) == path)
    model = next(each for each in plan.models if each.label == shard.model)
    layer = next(each for each in model.layers if each.info.name == shard.series.layer)
    file = read_shard(path, model, layer)
    facts = {**file.header.facts, "environment": environment and plain(environment)}
    commit(folder, shard, ShardResult(file.arrays, facts))
