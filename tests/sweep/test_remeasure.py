"""`verify` finds images that a broken forward made, whatever broke, and shares no code with it."""

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import atlas_here, run_here
from torch import Tensor, nn

import layer_atlas.sweep.remeasure as remeasure
from layer_atlas.models import device_model as device_network
from layer_atlas.models import forwards
from layer_atlas.models import graph as simplify
from layer_atlas.models import introspection as axes

SOURCE = """
import torch
from torch import nn

class Net(nn.Module):
    '''Maps of 8 channels and 8 x 8 positions, and a batch norm that does much.'''

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 8, 3, padding=1)
        self.mix = nn.Tanh()
        with torch.no_grad():
            self.norm.running_mean.uniform_(-2, 2)
            self.norm.running_var.uniform_(0.1, 4)

    def forward(self, x):
        return self.mix(self.last(torch.relu(self.norm(self.conv(x)))))
"""
SWEEP = (
    "name=x",
    "models=[{name: net, target: broken_net.Net, input_size: 32}]",
    "layers=[last,mix]",
    "channels=[0,1,5]",
    "optimizer.steps=3",
    "growth=none",
    "executor.devices=[cpu]",
    "collate.site=false",
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "broken_net.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    sys.modules.pop("broken_net", None)
    return tmp_path


def made_and_verified(folder: Path, patch: pytest.MonkeyPatch | None = None) -> tuple[int, str]:
    assert run_here(folder, *SWEEP) == 0
    if patch:
        patch.undo()
    return atlas_here("verify", folder, *SWEEP)


@pytest.mark.slow
def test_what_is_right_is_found_right(folder: Path) -> None:
    code, said = made_and_verified(folder)
    assert code == 0, said
    assert "6 activations measured again by plain hooks" in said


def in_training_mode(patch: pytest.MonkeyPatch) -> None:
    converted = device_network.converted

    def in_training(*args: Any) -> nn.Module:
        channels_last = args[-1]
        return converted(*args).train(channels_last)

    patch.setattr(device_network, "converted", in_training)


def with_axes_mixed_up(patch: pytest.MonkeyPatch) -> None:
    find = axes.ChannelAxes.find
    wrong = {1: 2}
    patch.setattr(axes.ChannelAxes, "find", lambda *args: wrong.get(find(*args), 1))


def in_another_format(patch: pytest.MonkeyPatch) -> None:
    inputs = device_network.DeviceModel._inputs
    patch.setattr(device_network.DeviceModel, "_inputs", lambda *args: inputs(*args).mT)


def with_norms_left_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(simplify, "_folded", lambda conv, norm: conv)


def with_the_wrong_layer(patch: pytest.MonkeyPatch) -> None:
    first = forwards.channels_first
    patch.setattr(forwards, "channels_first", lambda a, info: first(a, info).roll(1, 1))


BREAKS = [
    in_training_mode,
    with_axes_mixed_up,
    in_another_format,
    with_norms_left_out,
    with_the_wrong_layer,
]


@pytest.mark.slow
@pytest.mark.parametrize("break_it", BREAKS, ids=lambda f: f.__name__)
def test_what_is_broken_is_found(
    break_it: Callable[[pytest.MonkeyPatch], None], folder: Path
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        # As if there were no self-check, which would not let any of these pass.
        patch.setattr(forwards, "_largest_disagreement", lambda *args: 0.0)
        patch.setattr(forwards, "_gradient_error", lambda *args: 0.0)
        break_it(patch)
        code, said = made_and_verified(folder, patch)
    assert code == 1, said
    assert "a plain hook measures" in said


@pytest.mark.slow
@pytest.mark.parametrize(
    "break_it",
    [b for b in BREAKS if b is not with_axes_mixed_up],
    ids=lambda f: f.__name__,
)
def test_what_is_broken_is_not_used(
    break_it: Callable[[pytest.MonkeyPatch], None], folder: Path
) -> None:
    """With the self-check a plainer path takes the broken one's place, or nothing is made."""
    with pytest.MonkeyPatch.context() as patch:
        break_it(patch)
        code, said = atlas_here("run", folder, *SWEEP)
    assert code == 0 or "cannot be optimized in fp32: activations are off by" in said
    if code == 0:
        code, said = atlas_here("verify", folder, *SWEEP)
        assert code == 0, said


@pytest.mark.slow
def test_edited_code_is_found(folder: Path) -> None:
    assert run_here(folder, *SWEEP) == 0
    (folder / "broken_net.py").write_text(SOURCE.replace("torch.relu(", "torch.tanh("))
    sys.modules.pop("broken_net")
    code, said = atlas_here("verify", folder, *SWEEP)
    assert code == 1
    assert "the code of model 'net' is not that which the images were made with" in said


@pytest.mark.slow
def test_images_of_edited_code_are_made_anew(folder: Path) -> None:
    assert run_here(folder, *SWEEP) == 0
    (folder / "broken_net.py").write_text(SOURCE.replace("torch.relu(", "torch.tanh("))
    sys.modules.pop("broken_net")
    code, said = atlas_here("plan", folder, *SWEEP)
    assert (code, "images    6, of which 6 are missing" in said) == (0, True), said


@pytest.mark.slow
def test_a_network_that_computes_something_else_with_the_same_code_is_refused(
    folder: Path,
) -> None:
    (folder / "factor.txt").write_text("1")
    source = SOURCE.replace("self.last(", "float(open('factor.txt').read()) * self.last(")
    (folder / "broken_net.py").write_text(source)
    assert run_here(folder, *SWEEP) == 0
    (folder / "factor.txt").write_text("1.1")
    code, said = atlas_here("run", folder, *SWEEP)
    assert code == 2
    assert "'mix' of model 'net' computes something else than when this sweep was begun" in said


def test_nothing_is_shared_with_the_forward() -> None:
    tree = ast.parse(Path(remeasure.__file__).read_text())
    imported = {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    computing = {
        name
        for name in imported
        if name.startswith(("layer_atlas.models", "layer_atlas.visualization", "layer_atlas.sweep"))
    }
    loading = {"layer_atlas.models.load", "layer_atlas.models.pixels"}
    assert computing == {*loading, "layer_atlas.visualization.objectives"}


class TwoOutputs(nn.Module):
    def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
        return {"aux": [x * 2], "out": [x]}


def test_the_tensor_of_an_output_is_found_in_what_holds_it() -> None:
    x = torch.zeros(1, 3)
    assert remeasure._tensor(TwoOutputs()(x)) is x
    with pytest.raises(LookupError):
        remeasure._tensor({"nothing": None})
