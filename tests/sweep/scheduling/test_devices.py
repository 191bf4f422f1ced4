"""Devices: those of this machine by name, those of a cluster by number."""

import pytest

from layer_atlas.config.executors import CustomSettings, LocalSettings, RaySettings, SlurmSettings
from layer_atlas.errors import UserError
from layer_atlas.sweep.scheduling.devices import MOST_WORKERS, find_devices, resolve_precision


def test_devices_of_this_machine_are_those_that_are_named() -> None:
    assert find_devices(LocalSettings(devices="cpu")) == ["cpu"]
    assert find_devices(LocalSettings(devices=("cpu", "cpu"))) == ["cpu", "cpu"]
    assert find_devices(LocalSettings())
    with pytest.raises(UserError, match=r"device 'cuda:93' is not on this machine .* cpu"):
        find_devices(LocalSettings(devices=("cpu", "cuda:93")))


def test_devices_of_a_cluster_are_one_per_worker() -> None:
    assert find_devices(SlurmSettings(jobs=3)) == ["cuda"] * 3
    assert find_devices(RaySettings(workers=2, gpus=0)) == ["cpu"] * 2
    assert find_devices(RaySettings()) == ["cuda"]
    assert find_devices(CustomSettings(target="m.X", workers=2)) == ["cuda"] * 2
    assert find_devices(CustomSettings(target="m.X", gpus=0)) == ["cpu"]


@pytest.mark.parametrize("count", [MOST_WORKERS + 1, 2**62])
def test_more_workers_than_a_cluster_takes_are_refused(count: int) -> None:
    assert len(find_devices(SlurmSettings(jobs=MOST_WORKERS))) == MOST_WORKERS
    custom = CustomSettings(target="m.X", workers=count)
    for settings in (SlurmSettings(jobs=count), RaySettings(workers=count), custom):
        with pytest.raises(UserError, match=f"executor={settings.name} is asked for {count}"):
            find_devices(settings)


def test_a_precision_that_is_named_is_taken() -> None:
    assert resolve_precision("fp32", ["cuda"]) == "fp32"
    assert resolve_precision("auto", ["cuda", "cuda"]) == "bf16"
    assert resolve_precision("auto", ["cpu"]) in ("bf16", "fp32")
