"""torchvision's networks for segmentation and detection, by name."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models as zoo
from truths import TOLERANCE, Made, made, random_numbers

from layer_atlas.config.config import ModelConfig
from layer_atlas.errors import UserError
from layer_atlas.models.load import Network, load_network


def load(name: str, **entry: Any) -> Network:
    return load_network(ModelConfig(name, **{"weights": "none", **entry}))


def images_of(name: str, layer: str, size: int) -> Made:
    (result,) = made(ModelConfig(name, weights="none", input_size=size, layers=(layer,)))
    return result


def test_segmentation_comes_with_its_preprocessing_and_names() -> None:
    network = load("deeplabv3_mobilenet_v3_large")
    assert network.source == "torchvision/deeplabv3_mobilenet_v3_large"
    assert (network.mean, network.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert network.input_size == 520
    assert len(network.categories) == 21


@pytest.mark.slow
def test_detection_normalises_inside_and_sees_images_as_they_are() -> None:
    network = load("fasterrcnn_mobilenet_v3_large_fpn")
    assert (network.mean, network.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    assert network.source == "torchvision/fasterrcnn_mobilenet_v3_large_fpn(min_size=320)"
    assert network.module.transform.min_size == (network.input_size,) == (320,)
    smaller = load("fasterrcnn_mobilenet_v3_large_fpn", input_size=64)
    assert smaller.module.transform.min_size == (smaller.input_size,) == (64,)
    assert smaller.identity != network.identity
    assert load("ssdlite320_mobilenet_v3_large").input_size == 320


def detector() -> nn.Module:
    module: nn.Module = zoo.detection.fasterrcnn_mobilenet_v3_large_fpn(
        weights=None, weights_backbone=None, min_size=64
    )
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer", "build"),
    [
        (
            "lraspp_mobilenet_v3_large",
            "output",
            partial(zoo.segmentation.lraspp_mobilenet_v3_large, weights_backbone=None),
        ),
        ("fasterrcnn_mobilenet_v3_large_fpn", "backbone.fpn.layer_blocks.0.0", detector),
    ],
)
def test_images_are_right(name: str, layer: str, build: Any) -> None:
    result = images_of(name, layer, 64)
    assert result.difference(build, axis=1) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("r3d_18", ["'r3d_18' of torchvision takes video", "as target"]),
        ("mvit_v2_s", ["takes video"]),
        ("raft_small", ["takes two images"]),
        ("quantized_resnet18", ["is quantized", "Take resnet18 instead"]),
        ("fasterrcnn_resnet51_fpn", ["unknown model", "choose from: fasterrcnn_resnet50_fpn"]),
    ],
)
def test_others_are_refused_by_name(name: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        load(name)
    for word in words:
        assert word in str(caught.value)


# --- published weights ---------------------------------------------------------------------------


def made_up(module: nn.Module, variance: float) -> dict[str, Tensor]:
    """Numbers for a state dict; an epsilon shows where variances are small."""
    with random_numbers(3):
        return {
            name: torch.rand(tensor.shape) * (variance if name.endswith("running_var") else 0.1)
            for name, tensor in module.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "args", "layer"),
    [
        ("fasterrcnn_resnet50_fpn", {"min_size": 64}, "backbone.body.layer1"),
        ("retinanet_resnet50_fpn", {"min_size": 64}, "backbone.body.layer1"),
        ("fasterrcnn_resnet50_fpn_v2", {"min_size": 64}, "backbone.body.layer1"),
        ("fcn_resnet50", {}, "backbone.layer4"),
    ],
)
def test_published_weights_make_the_network_that_torchvision_makes(
    name: str, args: dict[str, Any], layer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = zoo.get_model_weights(name).DEFAULT
    aux, variance = ({}, 1e-4) if args else ({"aux_loss": True}, 10.0)
    bare = zoo.get_model(name, weights=None, weights_backbone=None, **args, **aux)
    state = made_up(bare, variance)
    monkeypatch.setattr(type(entry), "get_state_dict", lambda self, *given, **named: dict(state))
    # Of frozen batch norms; others have a count besides, which torchvision insists on.
    monkeypatch.setattr(nn.Module, "load_state_dict", partial_load(nn.Module.load_state_dict))
    theirs = zoo.get_model(name, weights=entry, **args).eval()
    ours = load(name, weights="default", input_size=64).module
    assert ours.state_dict().keys() >= state.keys()
    kept_by: list[list[Any]] = [[], []]
    for module, found in zip((theirs, ours), kept_by, strict=True):
        note = lambda m, given, output, found=found: found.append(output)  # noqa: E731
        module.get_submodule(layer).register_forward_hook(note)
        with torch.no_grad():
            module(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    torch.testing.assert_close(kept_by[1], kept_by[0], rtol=1e-4, atol=1e-5)


def partial_load(load_state_dict: Any) -> Any:
    """`load_state_dict` that lets numbers be missing."""
    return lambda self, state, strict=True, **more: load_state_dict(self, state, False, **more)
