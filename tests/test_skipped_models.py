"""A model whose weights file is of no use is skipped; the others are made."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import TINY, assert_same_atlas, atlas_here, datasets, shards
from safetensors.torch import save

from layer_atlas.errors import EXIT_FAILED_JOBS, EXIT_OK, EXIT_USER_ERROR
from layer_atlas.models.demo import demo_network
from tests.models.test_load import Trap

State = dict[str, torch.Tensor]


def whole() -> State:
    return {name: tensor.clone() for name, tensor in demo_network().state_dict().items()}


def lacking(name: str) -> State:
    return {other: tensor for other, tensor in whole().items() if other != name}


def with_nan(name: str) -> State:
    state = whole()
    state[name].view(-1)[-1] = float("nan")
    return state


def lying_header() -> bytes:
    """A safetensors file that claims a tensor of a terabyte."""
    claim = {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}
    header = json.dumps({"conv1.weight": claim}).encode()
    return len(header).to_bytes(8, "little") + header + b"\0" * 64


def torch_bytes(value: Any, path: Path) -> bytes:
    torch.save(value, path)
    return path.read_bytes()


USELESS: dict[str, tuple[str, Callable[[Path], bytes], str]] = {
    "cut short": ("w.safetensors", lambda _: save(whole())[:-100], "not a readable file"),
    "lying": ("w.safetensors", lambda _: lying_header(), "not a readable file"),
    "noise": ("w.pth", lambda _: bytes(range(1, 256)) * 9, "not a weights file"),
    "code": ("w.pth", lambda path: pickle.dumps(Trap(path / "executed")), "not executed"),
    "code among tensors": (
        "w.pt",
        lambda path: torch_bytes({**whole(), "x": Trap(path / "executed")}, path / "w.pt"),
        "not executed",
    ),
    "of another network": (
        "w.safetensors",
        lambda _: save({"stem.weight": torch.ones(3)}),
        "another network",
    ),
    "sparse": (
        "w.pth",
        lambda path: torch_bytes(
            {**whole(), "conv1.bias": whole()["conv1.bias"].to_sparse()}, path / "w.pth"
        ),
        "conv1.bias is no plain array",
    ),
    "lacking a tensor": ("w.safetensors", lambda _: save(lacking("conv1.weight")), "conv1.weight"),
    "not a number": ("w.safetensors", lambda _: save(with_nan("conv1.weight")), "conv1.weight"),
}


@pytest.fixture
def useless(tmp_path: Path) -> Path:
    """A weights file that is cut short."""
    name, content, _ = USELESS["cut short"]
    (tmp_path / name).write_bytes(content(tmp_path))
    return tmp_path / name


def models(*weights: Path) -> str:
    """The demo network, and once more for each of these files."""
    entries = [f"{{name: demo, label: m{i}, weights: '{path}'}}" for i, path in enumerate(weights)]
    return f"models=[demo,{','.join(entries)}]"


@pytest.mark.filterwarnings("ignore")  # of torch, about sparse tensors
@pytest.mark.parametrize("case", USELESS)
def test_planning_leaves_the_model_out_and_says_why(case: str, tmp_path: Path) -> None:
    name, content, told = USELESS[case]
    path = tmp_path / name
    path.write_bytes(content(tmp_path))
    code, said = atlas_here("plan", tmp_path, *TINY, models(path))
    assert code == EXIT_FAILED_JOBS
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: model 'm0' is skipped: ")
    assert told in line
    assert said.count("demo ") == 2  # conv1 and conv2
    assert "m0  conv" not in said
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_the_others_are_made_and_the_model_is_tried_again(useless: Path, tmp_path: Path) -> None:
    small = ("optimizer.steps=1", "optimizer.starts=1", "channels=[0,3]", *TINY[2:])
    atlas_here("run", tmp_path, *small, "name=alone")
    code, said = atlas_here("run", tmp_path, *small, models(useless))
    folder = tmp_path / "demo"
    assert code == EXIT_FAILED_JOBS
    assert "error: model 'm0' is skipped: " in said
    assert "  skipped   m0: " in said
    (skipped_models,) = json.loads((folder / "manifest.json").read_text())["plan"]["skipped_models"]
    assert skipped_models["model"] == "m0"
    assert repr(str(useless)) in skipped_models["why"]
    code, said = atlas_here("status", tmp_path, *small, "name=demo")
    assert (code, "skipped: m0: " in said) == (EXIT_OK, True)
    assert_same_atlas(folder / "atlas.h5", tmp_path / "alone" / "atlas.h5")

    made = shards(folder)
    useless.write_bytes(save(whole()))
    code, said = atlas_here("run", tmp_path, *small, models(useless))
    assert (code, "skipped" in said) == (EXIT_OK, False)
    assert made.items() < shards(folder).items()
    found = datasets(folder / "atlas.h5")
    assert (found["m0/conv1/image"] == found["demo/conv1/image"]).all()


def test_layers_of_the_others_are_listed(useless: Path, tmp_path: Path) -> None:
    code, said = atlas_here("layers", tmp_path, *TINY, models(useless))
    assert (code, "error: model 'm0' is skipped" in said) == (EXIT_FAILED_JOBS, True)
    assert "demo (demo), 32 x 32 px input" in said


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["models=[{name: demo, weights: PATH}]"], "not a readable file"),
        ([models(Path("PATH"), Path("PATH")).replace("[demo,", "[")], "not a readable file"),
        (
            [
                models(Path("PATH")),
                "objective=joint",
                "objective.terms=[{model: demo, layer: conv1}, {model: m0, layer: conv1}]",
                "layers=null",
                "channels=[[0,0]]",
            ],
            "not a readable file",
        ),
        ([models(Path("gone.safetensors"))], "'gone.safetensors' does not exist"),
        ([models(Path("PATH")), "layers=[conv9]"], "unknown layer of model 'demo'"),
        (["models=[demo,{name: m0, target: gone.build, weights: PATH}]"], "cannot be imported"),
    ],
    ids=["alone", "all", "joint", "no such file", "no such layer", "no such network"],
)
def test_a_mistake_in_the_config_ends_the_sweep(
    overrides: list[str], told: str, useless: Path, tmp_path: Path
) -> None:
    there = [text.replace("PATH", str(useless)) for text in overrides]
    code, said = atlas_here("run", tmp_path, *TINY, *there)
    assert code == EXIT_USER_ERROR
    assert said.startswith("error: ")
    assert (told in said, said.count("\n")) == (True, 1)
    assert not (tmp_path / "demo").exists()
