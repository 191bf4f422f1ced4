"""Environments: told apart by all that decides bits, and read back from whatever a file holds."""

import os
import subprocess
import sys
from importlib import metadata
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from layer_atlas.config.records import plain
from layer_atlas.plan.environment import (
    Device,
    Environment,
    environment_here,
    environment_in,
    parse_environment,
)
from tests.environments import NEW, OLD, OTHER

TABLES = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)
DEVICES = st.builds(Device, st.text(max_size=9), st.text(max_size=5), TABLES)
ENVIRONMENTS = st.builds(Environment, TABLES, st.none() | DEVICES)


@given(ENVIRONMENTS)
def test_an_environment_is_read_back_as_it_was_written(environment: Environment) -> None:
    assert parse_environment(environment.text) == environment
    assert environment_in({"environment": plain(environment)}) == environment


@pytest.mark.slow
@given(st.recursive(st.none() | st.integers() | st.text(), lambda s: st.lists(s) | TABLES))
def test_what_is_no_environment_is_unknown(value: Any) -> None:
    assert environment_in({"environment": value}) is None
    assert environment_in({}) is None


def test_an_environment_as_long_as_nobody_has_is_unknown() -> None:
    assert environment_in({"environment": plain(Environment({"torch": "2" * 5000}, None))}) is None


@given(ENVIRONMENTS, ENVIRONMENTS)
def test_only_the_same_is_accepted_but_of_any_device_where_none_is_wanted(
    wanted: Environment, made: Environment
) -> None:
    if wanted.device is None:
        assert wanted.accepts(made) == (wanted.packages == made.packages)
    else:
        assert wanted.accepts(made) == (wanted == made)
    assert wanted.accepts(wanted)
    assert not wanted.accepts(None)


def test_versions_and_devices_are_told_apart() -> None:
    assert len({OLD, NEW, OTHER}) == 3
    assert not NEW.accepts(OLD)
    assert not NEW.accepts(OTHER)


def test_this_process_is_of_the_torch_and_processor_that_it_has() -> None:
    here = environment_here("cpu", ["demo", "torchvision/resnet18", "nets.Own", "nothing/else"])
    versions = {"torch": torch.__version__, "torchvision": metadata.version("torchvision")}
    assert here.packages == versions
    assert here.device is not None
    assert here.device.name.strip()
    assert here.device.capability == torch.backends.cpu.get_cpu_capability()
    assert environment_here(None, []).device is None


@pytest.mark.slow
def test_a_processor_that_is_used_otherwise_is_another_device() -> None:
    code = "from layer_atlas.plan.environment import *; print(environment_here('cpu', []).text)"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "ATEN_CPU_CAPABILITY": "default"},
        capture_output=True,
        text=True,
        check=True,
    )
    there = parse_environment(told.stdout)
    assert there is not None
    assert there.device is not None
    assert there.device.capability == "DEFAULT"


def test_a_gpu_is_of_its_model_capability_and_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"GPU {device.index}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 92600)
    device = environment_here("cuda:1", []).device
    assert device == Device("GPU 1", "9.0", {"CUDA": "13.2", "cuDNN": "92600"})
