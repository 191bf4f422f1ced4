"""Devices: those of this machine by name, those of a cluster by number."""

import pytest
import torch
from toys import layer_info, make_plan

from layer_atlas.config.executors import (
    CustomSettings,
    ExecutorSettings,
    LocalSettings,
    RaySettings,
    SlurmSettings,
)
from layer_atlas.errors import UserError
from layer_atlas.plan.environment import environment_here
from layer_atlas.plan.plan import Plan
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.planning.devices import (
    MOST_WORKERS,
    WorkerDevice,
    find_devices,
    resolve_precision,
    with_one_environment,
)
from tests.environments import made_by, make, wanting

HERE = environment_here("cpu", [])
CPU = WorkerDevice("cpu", HERE.device)


def names(settings: ExecutorSettings) -> list[str]:
    return [device.name for device in find_devices(settings)]


def test_devices_of_this_machine_are_those_that_are_named() -> None:
    assert find_devices(LocalSettings(devices="cpu")) == [CPU]
    assert names(LocalSettings(devices=("cpu", "cpu"))) == ["cpu", "cpu"]
    assert find_devices(LocalSettings())
    with pytest.raises(UserError, match=r"device 'cuda:93' is not on this machine .* cpu"):
        find_devices(LocalSettings(devices=("cpu", "cuda:93")))


def test_devices_of_a_cluster_are_one_per_worker() -> None:
    assert names(SlurmSettings(jobs=3)) == ["cuda"] * 3
    assert names(RaySettings(workers=2, gpus=0)) == ["cpu"] * 2
    assert names(RaySettings()) == ["cuda"]
    assert names(CustomSettings(target="m.X", workers=2)) == ["cuda"] * 2
    assert names(CustomSettings(target="m.X", gpus=0)) == ["cpu"]


@pytest.mark.parametrize("count", [MOST_WORKERS + 1, 2**62])
def test_more_workers_than_a_cluster_takes_are_refused(count: int) -> None:
    assert len(find_devices(SlurmSettings(jobs=MOST_WORKERS))) == MOST_WORKERS
    custom = CustomSettings(target="m.X", workers=count)
    for settings in (SlurmSettings(jobs=count), RaySettings(workers=count), custom):
        with pytest.raises(UserError, match=f"executor={settings.name} is asked for {count}"):
            find_devices(settings)


def test_a_precision_that_is_named_is_taken() -> None:
    elsewhere = WorkerDevice("cuda")
    assert resolve_precision("fp32", [elsewhere]) == "fp32"
    assert resolve_precision("auto", [elsewhere, elsewhere]) == "bf16"
    assert resolve_precision("auto", [CPU]) in ("bf16", "fp32")


PLAN = make_plan(layer_info("a"), shard_size=2)
TORCH = str(torch.__version__)


def wanted(folder: OutputFolder, settings: LocalSettings | SlurmSettings) -> Plan:
    return with_one_environment(PLAN, folder, settings, [CPU, CPU])


def test_workers_here_want_what_is_here(folder: OutputFolder) -> None:
    assert wanted(folder, LocalSettings()) == wanting(PLAN, HERE)


def test_devices_of_two_kinds_are_refused(folder: OutputFolder) -> None:
    kinds = [
        WorkerDevice("cuda:0", made_by().device),
        WorkerDevice("cuda:1", made_by(device="NVIDIA A100").device),
    ]
    with pytest.raises(UserError, match=r"cuda:1 is NVIDIA A100\. Choose executor\.devices=\[cuda"):
        with_one_environment(PLAN, folder, LocalSettings(), kinds)


def test_a_cluster_goes_on_with_the_device_that_made_most_with_these_versions(
    folder: OutputFolder,
) -> None:
    assert wanted(folder, SlurmSettings()).environments["toy"].device is None
    made = [made_by(TORCH, "A"), made_by(TORCH, "B"), made_by("1.0", "C")]
    shards = list(make_plan(layer_info("a", 6), shard_size=1).shards())
    for shard, environment in zip(shards, [made[2]] * 3 + [made[0]] + [made[1]] * 2, strict=True):
        make(folder, shard, environment)
    assert wanted(folder, SlurmSettings()) == wanting(PLAN, made[1])
