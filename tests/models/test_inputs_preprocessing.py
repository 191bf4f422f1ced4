"""Preprocessing: from data configs of libraries, never assumed in silence, never of 0 to 255."""

import json
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from toys import composed

from layer_atlas.config.config import ModelConfig
from layer_atlas.errors import UserError
from layer_atlas.models.load import Network, load_network
from layer_atlas.plan.jobs import Origin, preprocessing_words
from layer_atlas.plan.labels import network_lines, notices
from layer_atlas.sweep.planning import inspect_models, make_plan
from layer_atlas.sweep.planning.devices import WorkerDevice

ENTRY = "target: tests.models.test_inputs_preprocessing.plain, weights: none, layers: ['0']"


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3))


def carrying() -> nn.Module:
    """A network that carries a data config, as those of timm do."""
    network = plain()
    network.pretrained_cfg = {
        "mean": (0.5, 0.4, 0.3),
        "std": (0.1, 0.2, 0.3),
        "input_size": (3, 48, 48),
        "interpolation": "bicubic",
        "crop_pct": 0.9,
    }
    return network


def load(kind: str = "plain", **entry: Any) -> Network:
    return load_network(
        ModelConfig("net", target=f"tests.models.test_inputs_preprocessing.{kind}", **entry)
    )


def values(network: Network) -> tuple[Any, ...]:
    return network.mean, network.std, network.input_size, network.origin.interpolation


CARRIED = ((0.5, 0.4, 0.3), (0.1, 0.2, 0.3), 48, "bicubic")


@pytest.mark.parametrize("preprocess", [None, "timm"])
def test_a_network_that_carries_a_config_is_given_it(preprocess: str | None) -> None:
    network = load("carrying", preprocess=preprocess)
    assert values(network) == CARRIED
    assert network.origin.mean == network.origin.std == "timm's config of the network"


def test_settings_of_their_own_take_precedence() -> None:
    network = load("carrying", mean=(0.0, 0.0, 0.0), input_size=64)
    assert values(network) == ((0.0, 0.0, 0.0), (0.1, 0.2, 0.3), 64, "bicubic")
    assert network.origin.mean == network.origin.input_size == "given in the config"
    assert network.origin.std == "timm's config of the network"


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (
            {"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3], "input_size": [3, 48, 48]},
            (*CARRIED[:3], ""),
        ),
        ({"mean": [0.1, 0.1, 0.1]}, ((0.1, 0.1, 0.1), (0.229, 0.224, 0.225), 224, "")),
        ({"mean": 0.5, "std": 0.25, "input_size": 28}, ((0.5,), (0.25,), 28, "")),
        (
            {
                "image_mean": [0.5, 0.4, 0.3],
                "image_std": [0.1, 0.2, 0.3],
                "size": {"height": 48, "width": 48},
                "resample": 3,
            },
            CARRIED,
        ),
        (
            {
                "image_mean": [0.5, 0.4, 0.3],
                "image_std": [0.1, 0.2, 0.3],
                "size": {"shortest_edge": 64},
                "crop_size": {"height": 48, "width": 48},
                "resample": 3,
            },
            CARRIED,
        ),
    ],
    ids=["timm", "mean alone", "one colour", "transformers", "transformers, cropped"],
)
def test_a_mapping_may_be_of_timm_or_transformers(
    config: dict[str, Any], expected: tuple[Any, ...], tmp_path: Path
) -> None:
    network = load(preprocess=config)
    assert values(network) == expected
    assert network.origin.mean == "given in the config"
    for inside in (config, {"pretrained_cfg": config}):
        (tmp_path / "config.json").write_text(json.dumps(inside))
        filed = load(preprocess=str(tmp_path / "config.json"))
        assert values(filed) == expected
        assert filed.origin.mean.startswith("file ")


@pytest.mark.parametrize("name", ["Inception_V3_Weights.IMAGENET1K_V1", "Inception_V3_Weights"])
def test_a_weights_enum_of_torchvision_is_a_preset(name: str) -> None:
    network = load(preprocess=name)
    assert values(network) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 299, "bilinear")
    assert network.origin.mean == f"torchvision's {name}"


@pytest.mark.parametrize(
    ("preprocess", "words"),
    [
        ({"mean": [123.0, 116.0, 103.0]}, ["divide by 255", "[0.4824, 0.4549, 0.4039]"]),
        ({"std": [58.0, 57.0, 57.0]}, ["divide by 255", "[0.2275, 0.2235, 0.2235]"]),
        ({"std": [0.0, 1.0, 1.0]}, ["std must be above 0"]),
        ({"mean": [0.5], "std": [0.1, 0.2, 0.3]}, ["a number for each colour"]),
        ({"men": [0.5]}, ["'men'", "choose from: mean"]),
        ({"input_size": [3, 32, 48]}, ["[3, 32, 48]", "no square", "image_size"]),
        ({"input_size": "large"}, ["input_size", "'large'"]),
        ("timm", ["pretrained_cfg", "give mean and std"]),
        ("ResNet51_Weights", ["'ResNet51_Weights'", "choose from: ResNet50_Weights"]),
        ("ResNet50_Weights.IMAGENET1K_V3", ["choose from: ResNet50_Weights.IMAGENET1K_V2"]),
        ("nowhere.json", ["'nowhere.json' does not exist"]),
    ],
    ids=str,
)
def test_mistakes_are_told_with_the_remedy(preprocess: Any, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load(preprocess=preprocess)
    for word in words:
        assert word in str(caught.value)


def test_what_is_assumed_is_printed_with_the_remedy() -> None:
    def said(entry: str) -> tuple[str, str]:
        config = composed(f"models=[{{name: net, {ENTRY}{entry}}}]", "image_size=8")
        plan = make_plan(config, inspect_models(config), [WorkerDevice("cpu")])
        return " ".join(network_lines(plan)), " ".join(notices(plan))

    line, notice = said("")
    assert "mean (0.485, 0.456, 0.406), std (0.229, 0.224, 0.225)" in line
    assert "assumed" in line
    assert "mean and std of net are assumed (ImageNet default); models[].mean" in notice
    line, notice = said(", mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], input_size: 8")
    assert "given in the config" in line
    assert "assumed" not in line + notice


def test_interpolation_is_named_where_dataset_images_differ() -> None:
    def words(interpolation: str) -> str:
        return preprocessing_words([0.5], [0.25], (64, 64), Origin(interpolation=interpolation))

    assert "interpolation" not in words("")
    assert words("bilinear").endswith("trained with bilinear interpolation")
    assert words("bicubic").endswith(
        "trained with bicubic interpolation; dataset images are resized by bilinear interpolation"
    )


# --- arguments of networks by name ---------------------------------------------------------------


@pytest.mark.parametrize("name", ["squeezenet1_1", "timm/resnet18"])
def test_networks_by_name_take_arguments(name: str) -> None:
    if name.startswith("timm"):
        pytest.importorskip("timm", reason="timm is not installed")
    ten, usual = (
        load_network(ModelConfig(name, weights="none", args=args))
        for args in ({"num_classes": 10}, None)
    )
    assert ten.source == f'{usual.source}({{"num_classes":10}})'
    assert (len(ten.categories), len(usual.categories)) == (0, 1000)
    assert 10 in {len(tensor) for tensor in ten.module.parameters()}


def test_arguments_that_a_network_does_not_take_are_told() -> None:
    with pytest.raises(UserError, match=r"args of model 'resnet18' .*num_clases.*unexpected"):
        load_network(ModelConfig("resnet18", weights="none", args={"num_clases": 10}))
    with pytest.raises(UserError, match="args are for networks of torchvision and timm"):
        composed("models=[{name: demo, args: {a: 1}}]")
