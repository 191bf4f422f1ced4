"""Which environment `versions=strict` wants, here and on clusters."""

import pytest
import torch
from toys import layer_info, make_plan

from layer_atlas.config.executors import LocalSettings, SlurmSettings
from layer_atlas.errors import UserError
from layer_atlas.plan.environment import environment_here
from layer_atlas.plan.plan import Plan
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.scheduling import versions
from layer_atlas.sweep.scheduling.versions import with_one_environment
from tests.environments import made_by, make, wanting

PLAN = make_plan(layer_info("a"), shard_size=2)
TORCH = str(torch.__version__)
HERE = environment_here("cpu", [])


def wanted(folder: OutputFolder, settings: LocalSettings | SlurmSettings) -> Plan:
    return with_one_environment(PLAN, folder, settings, ["cpu", "cpu"])


def test_workers_here_want_what_is_here(folder: OutputFolder) -> None:
    assert wanted(folder, LocalSettings()) == wanting(PLAN, HERE)


def test_devices_of_two_kinds_are_refused(
    folder: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = {"cuda:0": made_by(), "cuda:1": made_by(device="NVIDIA A100")}
    monkeypatch.setattr(versions, "environment_here", lambda device, sources: kinds[device])
    with pytest.raises(UserError, match=r"cuda:1 is NVIDIA A100\. Choose executor\.devices=\[cuda"):
        with_one_environment(PLAN, folder, LocalSettings(), list(kinds))


def test_a_cluster_goes_on_with_the_device_that_made_most_with_these_versions(
    folder: OutputFolder,
) -> None:
    assert wanted(folder, SlurmSettings()).environments["toy"].device is None
    made = [made_by(TORCH, "A"), made_by(TORCH, "B"), made_by("1.0", "C")]
    shards = list(make_plan(layer_info("a", 6), shard_size=1).shards())
    for shard, environment in zip(shards, [made[2]] * 3 + [made[0]] + [made[1]] * 2, strict=True):
        make(folder, shard, environment)
    assert wanted(folder, SlurmSettings()) == wanting(PLAN, made[1])
