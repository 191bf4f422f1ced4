"""`precision=auto` is what a step is faster in, and a sweep keeps what it began with."""

import time

import pytest
import torch
from runs import TINY
from toys import composed

from layer_atlas.models.device_model import DeviceModel
from layer_atlas.models.forwards import Path
from layer_atlas.plan.plan import ModelPlan, Plan
from layer_atlas.sweep.planning import inspect_models, make_plan, planner
from layer_atlas.sweep.planning.devices import WorkerDevice

CPU, GPU = WorkerDevice("cpu"), WorkerDevice("cuda")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[torch.dtype, float]:
    """Seconds of a step by number format, on hardware that has bf16; steps that run are counted."""
    seconds = {torch.float32: 1.0, torch.bfloat16: 1.0}
    now = 0.0

    def step(self: DeviceModel, path: Path) -> None:
        nonlocal now
        (activation,) = path.forward(self._probes)
        now += seconds[activation.dtype]

    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(DeviceModel, "step", step)
    found = lambda precision, devices: "bf16" if precision == "auto" else precision  # noqa: E731
    monkeypatch.setattr(planner, "resolve_precision", found)
    return seconds


def plan(*overrides: str, device: WorkerDevice = CPU, earlier: Plan | None = None) -> Plan:
    config = composed(*TINY, "precision=auto", "channels=0:2", "layers=[conv2]", *overrides)
    return make_plan(config, inspect_models(config), [device], earlier)


def chosen(*overrides: str, device: WorkerDevice = CPU, earlier: Plan | None = None) -> ModelPlan:
    return plan(*overrides, device=device, earlier=earlier).models[0]


@pytest.mark.parametrize(("bf16", "precision"), [(0.5, "bf16"), (0.95, "fp32"), (2.0, "fp32")])
def test_the_faster_precision_is_chosen(
    clock: dict[torch.dtype, float], bf16: float, precision: str
) -> None:
    clock[torch.bfloat16] = bf16
    model = chosen()
    assert model.recipe.precision == precision
    assert ("as fast as bf16 here" in model.note) == (precision == "fp32")


def test_what_is_asked_for_and_what_gpus_do_is_not_timed(clock: dict[torch.dtype, float]) -> None:
    clock[torch.bfloat16] = 2.0
    assert chosen("precision=bf16").recipe.precision == "bf16"
    assert chosen(device=GPU).recipe.precision == "bf16"


@pytest.mark.parametrize(("first", "precision"), [(0.5, "bf16"), (2.0, "fp32")])
def test_a_sweep_keeps_its_precision_whatever_the_clock_says_later(
    clock: dict[torch.dtype, float], first: float, precision: str
) -> None:
    clock[torch.bfloat16] = first
    begun = plan()
    clock[torch.bfloat16] = 1 / first
    # Another layer is new to the sweep, so that paths are chosen again.
    for overrides in ((), ("layers=[conv1,conv2]",)):
        again = chosen(*overrides, earlier=begun)
        assert again.recipe == begun.models[0].recipe
        assert again.note == begun.models[0].note
    assert begun.models[0].recipe.precision == precision
