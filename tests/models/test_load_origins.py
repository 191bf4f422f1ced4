"""Where weights and preprocessing come from is said as it is, for every way to name them."""

from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import nn
from toys import composed

from layer_atlas.config.config import ModelConfig
from layer_atlas.errors import UserError
from layer_atlas.models.architectures import find_architecture
from layer_atlas.models.load import load_network, origin_of
from layer_atlas.plan.origin import AS_CONSTRUCTED, UNTRAINED, Origin

PRESET = "torchvision's published preset"
ASSUMED = "ImageNet default, assumed"


def small() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3))


def origin(name: str, weights: str, **settings: object) -> Origin:
    config = ModelConfig(name, weights=weights, **settings)
    return origin_of(config, find_architecture(config, weights), weights)


MINE = {"target": "toys.colour_reader"}
WEIGHTS = [
    ("squeezenet1_1", "default", {}, "ImageNet weights (IMAGENET1K_V1)", PRESET),
    ("resnet50", "default", {}, "ImageNet weights (IMAGENET1K_V2)", PRESET),
    ("resnet50", "IMAGENET1K_V1", {}, "ImageNet weights (IMAGENET1K_V1)", PRESET),
    ("squeezenet1_1", "none", {}, UNTRAINED, f"{PRESET}, assumed"),
    ("squeezenet1_1", "a/b.pth", {}, "weights from file b.pth", f"{PRESET}, assumed"),
    ("demo", "default", {}, "weights that come with the package", "as it was trained"),
    ("demo", "none", {}, UNTRAINED, "as it was trained, assumed"),
    ("mine", "default", MINE, AS_CONSTRUCTED, ASSUMED),
    ("mine", "none", MINE, AS_CONSTRUCTED, ASSUMED),
    ("mine", "w.safetensors", MINE, "weights from file w.safetensors", ASSUMED),
]


@pytest.mark.parametrize(("name", "weights", "settings", "words", "preset"), WEIGHTS)
def test_weights_and_presets(
    name: str, weights: str, settings: dict[str, object], words: str, preset: str
) -> None:
    found = origin(name, weights, **settings)
    assert found == Origin(words, preset, preset, preset)


def test_what_the_config_gives_is_told_from_what_is_assumed() -> None:
    found = origin("mine", "default", mean=(0.5,) * 3, input_size=32, **MINE)
    given = "given in the config"
    assert (found.mean, found.std, found.input_size) == (given, ASSUMED, given)


def test_the_origin_is_no_part_of_the_identity(tmp_path: Path) -> None:
    save_file(load_network(ModelConfig("demo")).module.state_dict(), tmp_path / "w.safetensors")
    shipped = load_network(ModelConfig("demo", weights="default"))
    filed = load_network(ModelConfig("demo", weights=str(tmp_path / "w.safetensors")))
    assert filed.origin.weights == "weights from file w.safetensors"
    assert shipped.identity == filed.identity == replace(shipped, origin=Origin()).identity


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("mean: [123.675, 116.28, 103.53]", r"divide by 255: mean: \[0.485, 0.456, 0.406\]"),
        ("std: [58.395, 57.12, 57.375]", r"divide by 255: std: \[0.229, 0.224, 0.225\]"),
        ("mean: [0.5, 0.5, 2.01]", "divide by 255"),
        ("mean: [-1.01, 0.5, 0.5]", "divide by 255"),
        ("std: [2.01, 1, 1]", "divide by 255"),
        ("std: [0, 1, 1]", "std must be above 0"),
    ],
)
def test_statistics_of_0_to_255_are_refused(setting: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        composed(f"models=[{{name: demo, {setting}}}]")


def test_usual_statistics_are_taken() -> None:
    for setting in ("mean: [0,0,0], std: [1,1,1]", "mean: [-1,2,0.5], std: [2,0.1,1]"):
        composed(f"models=[{{name: demo, {setting}}}]")
