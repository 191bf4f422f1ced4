"""Networks are inspected once: the second plan is the first one, without its checks."""

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models.test_odd_networks import REFUSED, RIGHT, entry
from runs import TINY, assert_same_atlas, run_here
from test_dataset_run import picture
from toys import composed

from layer_atlas.config.config import Config
from layer_atlas.config.records import plain
from layer_atlas.errors import UserError
from layer_atlas.models import device_model, self_check
from layer_atlas.models.device_model import DeviceModel
from layer_atlas.plan.labels import notices
from layer_atlas.plan.plan import Plan
from layer_atlas.sweep.planning import InspectedModel, inspect_models, inspection, make_plan
from layer_atlas.sweep.planning.devices import WorkerDevice
from layer_atlas.visualization.optimization import renderer
from layer_atlas.visualization.optimization.renderer import Renderer

CPU = torch.device("cpu")
NETWORK = """
import torch
from torch import nn

SEEN = []

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.norm = nn.BatchNorm2d(4)
        self.after = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        return self.after(self.norm(self.conv(x)))

def build():
    torch.manual_seed(0)
    return Net()
"""


def plan_of(config: Config) -> Plan:
    return make_plan(config, inspect_models(config), [WorkerDevice("cpu")])


def planned(*overrides: str) -> Plan:
    return plan_of(composed("image_size=32", "channels=0:2", "precision=fp32", *overrides))


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the checks that ran."""
    ran: list[str] = []

    def counted(module: Any, name: str) -> None:
        check = getattr(module, name)

        def run(*args: Any) -> Any:
            ran.append(name)
            return check(*args)

        monkeypatch.setattr(module, name, run)

    counted(inspection, "describe_layers")
    for name in ("check_independence", "check_gradient"):
        counted(self_check, name)
    counted(device_model, "fastest_that_agrees")
    return ran


EVERY_CHECK = ["describe_layers", "check_independence", "check_gradient", "fastest_that_agrees"]


# --- the same plan -------------------------------------------------------------------------------

SWEEPS = {
    "demo": ("layers=[conv2]",),
    "several layers": ("layers=[conv1,conv2,conv3]",),
    "bf16": ("layers=[conv2]", "precision=bf16"),
    "octaves": ("layers=[conv2]", "octaves={count: 2}"),
    "prior": ("layers=[conv2]", "regularizers.feature_statistics=1.0"),
    "joint": (
        "layers=null",
        "objective=joint",
        "objective.terms=[{layer: conv1},{layer: conv2}]",
        "channels=[[0,1]]",
    ),
    "judge": (
        "layers=[conv2]",
        "judge={name: demo, layers: [conv3]}",
        "dataset=folder",
        "dataset.path=PHOTOS",
    ),
    "two models": ("layers=[conv2]", "models=[demo,{name: demo, label: again}]"),
    "one size": (
        "models=[{name: vit, target: tests.models.test_prefix_tokens.small_vit, input_size: 32}]",
        "layers=[encoder.layers.encoder_layer_0]",
        "image_size=48",
    ),
}


@pytest.mark.parametrize("name", SWEEPS)
def test_plans_are_the_same_with_and_without_a_cache(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checks: list[str]
) -> None:
    picture(tmp_path / "photos" / "0.png", 0)
    sweep = [line.replace("PHOTOS", str(tmp_path / "photos")) for line in SWEEPS[name]]
    without = plain(planned(*sweep))
    monkeypatch.setenv("LAYER_ATLAS_CACHE", str(tmp_path / "cache"))
    assert plain(planned(*sweep)) == without
    assert set(checks) == set(EVERY_CHECK)
    checks.clear()
    assert plain(planned(*sweep)) == without
    assert not checks


@pytest.mark.parametrize("name", RIGHT)
def test_odd_networks_are_planned_alike(name: str, cache_folder: Path) -> None:
    right = RIGHT[name]
    model = entry(name, *right.layers, size=right.size, **right.more)
    config = replace(composed("precision=fp32", "channels=0:2"), models=(model,))
    first, second = plan_of(config), plan_of(config)
    assert plain(first) == plain(second)
    assert notices(first) == notices(second)
    assert right.note in second.models[0].note


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_repeated_in_full(name: str, cache_folder: Path) -> None:
    layer, words = REFUSED[name]
    config = replace(composed("precision=fp32", "channels=0:2"), models=(entry(name, layer),))

    def refusal() -> str:
        with pytest.raises(UserError) as caught:
            plan_of(config)
        return str(caught.value)

    first, second = refusal(), refusal()
    assert first == second
    assert all(word in second for word in words)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_are_the_same_with_and_without_a_cache(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Asked for: `auto` measures time where hardware has both.
    sweep = (*TINY, "channels=0:4", "name=a", f"precision={precision}")
    run_here(tmp_path / "without", *sweep)
    monkeypatch.setenv("LAYER_ATLAS_CACHE", str(tmp_path / "cache"))
    for root in ("cold", "warm"):
        run_here(tmp_path / root, *sweep)
        assert_same_atlas(tmp_path / "without" / "a/atlas.h5", tmp_path / root / "a/atlas.h5")
        names = [
            sorted(path.name for path in (tmp_path / each).rglob("*.safetensors"))
            for each in ("without", root)
        ]
        assert names[0] == names[1] != []


# --- what makes the checks run again -------------------------------------------------------------


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> Callable[..., Plan]:
    """Plans a layer of a network whose code is given, as another process would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "own_planned.py"

    def plan(source: str = NETWORK, *overrides: str, layer: str = "after") -> Plan:
        if not file.exists() or file.read_text() != source:
            file.write_text(source)
        sys.modules.pop(file.stem, None)
        importlib.invalidate_caches()
        models = "models=[{name: own, target: own_planned.build}]"
        return planned(models, f"layers=[{layer}]", *overrides)

    return plan


def test_changed_code_and_sizes_and_layers_are_checked_again(
    own: Callable[..., Plan], checks: list[str]
) -> None:
    own()
    checks.clear()
    for overrides in (["image_size=40"], ["image_size=[32,40]"]):
        own(NETWORK, *overrides)
        assert checks == EVERY_CHECK
        checks.clear()
    own(layer="norm")
    assert checks == EVERY_CHECK[1:]
    checks.clear()
    own(NETWORK.replace("self.norm(self.conv(x))", "self.norm(self.conv(x)) * 2"))
    assert checks == EVERY_CHECK


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            ("return self.after", "self.norm.train()\n        return self.after"),
            ["'norm' (BatchNorm2d)", "in training mode"],
        ),
        (("nn.BatchNorm2d(4)", "nn.BatchNorm2d(4, track_running_stats=False)"), ["other images"]),
        (("self.conv(x)", "nn.Dropout()(self.conv(x))"), ["depends on chance"]),
        (("self.conv(x)", "self.conv(x).detach()"), ["no gradient reaches the image"]),
        (
            ("return self", "x = x * (1.0 + len(SEEN)); SEEN.append(1)\n        return self"),
            ["depends on"],
        ),
    ],
    ids=["training mode", "no statistics", "dropout", "no gradient", "memory"],
)
def test_odd_behaviour_of_changed_code_is_found_on_a_warm_cache(
    own: Callable[..., Plan], change: tuple[str, str], words: list[str]
) -> None:
    own()
    source = NETWORK.replace(*change)
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            own(source)
        assert all(word in str(caught.value) for word in words)


SWITCHED = NETWORK.replace("import torch\n", "import os, torch\n", 1)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("self.norm.train()", "depends on the other images"),
        ("x = x.detach()", "no gradient reaches the image"),
        ("x = x + torch.rand_like(x)", "depends on chance"),
    ],
)
def test_odd_behaviour_that_no_code_shows_is_found_on_a_warm_cache(
    own: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    """A network that reads a variable of the environment, or a file, when it runs."""
    switch = f'if os.environ.get("ODD"):\n            {code}\n        return self'
    source = SWITCHED.replace("return self", switch)
    own(source)
    monkeypatch.setenv("ODD", "1")
    with pytest.raises(UserError, match=words):
        own(source)


def test_layers_that_are_elsewhere_now_are_described_again(
    own: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = 'x = x[:, :, ::2] if os.environ.get("ODD") else x\n        return self'
    source = SWITCHED.replace("return self", switch)
    before = own(source).models[0].layers[0].info
    monkeypatch.setenv("ODD", "1")
    assert own(source).models[0].layers[0].info.shape != before.shape


def test_damaged_answers_are_found_out_again(cache_folder: Path, checks: list[str]) -> None:
    sweep = ("layers=[conv2]",)
    first = plain(planned(*sweep))
    for file in cache_folder.iterdir():
        file.write_bytes(file.read_bytes()[:-40])
    checks.clear()
    assert plain(planned(*sweep)) == first
    assert checks == EVERY_CHECK
    checks.clear()
    assert plain(planned(*sweep)) == first
    assert not checks


# --- workers -------------------------------------------------------------------------------------


def layer_renderer(plan: Plan) -> renderer.LayerRenderer:
    (model,) = plan.models
    (inspected,) = inspect_models(composed("image_size=32"))
    assert isinstance(inspected, InspectedModel)
    return Renderer(inspected.network, model.recipe, CPU).layer(model.layers[0].info)


def test_a_worker_takes_the_path_that_planning_compared(
    cache_folder: Path, checks: list[str]
) -> None:
    plan = planned("layers=[conv2]")
    checks.clear()
    assert layer_renderer(plan).path == plan.models[0].layers[0].info.path
    assert "fastest_that_agrees" not in checks


def test_a_path_that_agrees_no_longer_is_chosen_anew(
    cache_folder: Path, checks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned("layers=[conv2]")
    checks.clear()
    with monkeypatch.context() as patch:
        patch.setattr(device_model, "agrees", lambda *args: False)
        assert layer_renderer(plan).path == plan.models[0].layers[0].info.path
    assert "fastest_that_agrees" in checks


def test_a_worker_still_finds_that_a_network_computes_something_else(cache_folder: Path) -> None:
    plan = planned("layers=[conv2]")
    info = plan.models[0].layers[0].info
    off = replace(info, fingerprint=(2 * info.fingerprint[0], *info.fingerprint[1:]))
    (inspected,) = inspect_models(composed("image_size=32"))
    assert isinstance(inspected, InspectedModel)
    device = DeviceModel(inspected.network, "fp32", (32, 32), CPU)
    device.exact_path([info])
    with pytest.raises(UserError, match="computes something else"):
        device.exact_path([off])


def test_the_memory_of_a_sample_is_measured_once(
    cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned("layers=[conv2]")
    measured: list[int] = []
    measure = renderer.bytes_per_sample

    def counted(*args: Any) -> float:
        measured.append(1)
        return measure(*args)

    monkeypatch.setattr(renderer, "bytes_per_sample", counted)
    sizes = [layer_renderer(plan).auto_batch() for _ in range(2)]
    assert sizes[0] == sizes[1]
    assert len(measured) == 1
    # Another recipe, another size of the images, may take more.
    layer_renderer(planned("layers=[conv2]", "image_size=40")).auto_batch()
    assert len(measured) == 2
