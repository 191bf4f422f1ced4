"""timm: its networks by name, with its preprocessing and names of classes; needs no network."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from layer_atlas.config.config import ModelConfig
from layer_atlas.errors import UserError
from layer_atlas.models.load import Network, load_network
from layer_atlas.sweep.planning import inspect_models
from tests.sweep.planning.test_inspection import configured

timm = pytest.importorskip("timm", reason="timm is not installed")


def load(name: str, weights: str = "none", **entry: Any) -> Network:
    return load_network(ModelConfig(name, weights=weights, **entry))


def told(name: str, weights: str = "none") -> str:
    """The message that loading this model ends in."""
    with pytest.raises(UserError) as caught:
        load(name, weights)
    return str(caught.value)


def test_network_comes_with_its_preprocessing_and_names() -> None:
    network = load("timm/vit_tiny_patch16_224")
    assert network.source == "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
    assert (network.mean, network.std, network.input_size) == ((0.5,) * 3, (0.5,) * 3, 224)
    assert len(network.categories) == 1000
    assert network.categories[1].startswith("goldfish")
    assert not network.module.training
    assert not any(parameter.requires_grad for parameter in network.module.parameters())
    other = load("timm/resnet18")
    assert (other.mean, other.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_published_set_is_part_of_the_name() -> None:
    plain, tagged = load("timm/test_vit"), load("timm/test_vit.r160_in1k")
    assert plain.identity == tagged.identity
    assert plain.input_size == 160
    wide = load("timm/vit_tiny_patch16_224.augreg_in21k")
    assert wide.source == "timm/vit_tiny_patch16_224.augreg_in21k"
    assert len(wide.categories) == wide.module.num_classes == 21843


def test_name_in_the_atlas_has_no_slash() -> None:
    assert load("timm/test_vit").label == "timm-test_vit"
    assert load("timm/test_vit", label="mine").label == "mine"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("timm/resnet81", ["unknown model 'timm/resnet81'", "choose from: timm/resnet18"]),
        ("timm/resnet18.a1", ["unknown model 'timm/resnet18.a1'", "timm/resnet18.a1_in1k"]),
        ("timm/", ["unknown model 'timm/'"]),
    ],
)
def test_unknown_name_is_told_with_the_nearest_first(name: str, words: list[str]) -> None:
    message = told(name)
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("name", "weights", "words"),
    [
        ("timm/test_vit", "r160_in1k", ["'r160_in1k'", "default, none", "part of the name"]),
        ("timm/test_vit", "gone.pth", ["'gone.pth' does not exist"]),
        ("timm/botnet26t_256", "v1", ["'v1'", "part of the name"]),
        ("timm/coatnet_0_224", "default", ["'default'", "choose from: none", ".safetensors"]),
    ],
)
def test_unknown_weights_are_told(name: str, weights: str, words: list[str]) -> None:
    message = told(name, weights)
    for word in words:
        assert word in message


def test_weights_may_come_from_a_file(tmp_path: Path) -> None:
    state = timm.create_model("test_convnext").state_dict()
    changed = {name: torch.full_like(tensor, 0.25) for name, tensor in state.items()}
    save_file(changed, tmp_path / "w.safetensors")
    network = load("timm/test_convnext", str(tmp_path / "w.safetensors"))
    assert all((parameter == 0.25).all() for parameter in network.module.parameters())


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of published weights, and no network."""
    constants = pytest.importorskip("huggingface_hub").constants
    # Without this it comes to the same, after a minute of trying again.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_download_that_fails_is_told_with_the_address_and_the_remedy(hub: Path) -> None:
    message = told("timm/test_vit", "default")
    assert "the published weights of 'timm/test_vit' cannot be downloaded" in message
    assert "https://huggingface.co/timm/test_vit.r160_in1k" in message
    assert "weights=path/to/" in message
    assert "weights=none" in message
    assert "\n" not in message


def test_published_weights_in_the_cache_are_used_without_a_download(hub: Path) -> None:
    state = timm.create_model("test_vit").state_dict()
    published = {name: torch.full_like(tensor, 0.5) for name, tensor in state.items()}
    repository = hub / "models--timm--test_vit.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(published, repository / "snapshots" / ("0" * 40) / "model.safetensors")
    network = load("timm/test_vit", "default")
    assert all((parameter == 0.5).all() for parameter in network.module.parameters())
    assert network.identity != load("timm/test_vit").identity


def test_without_timm_it_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert "pip install 'layer-atlas[timm]'" in told("timm/test_vit")
    assert load("demo").label == "demo"


def test_tokens_that_timm_tells_of_are_left_out() -> None:
    (found,) = inspect_models(configured("timm/test_vit", "layers=[blocks.0]"))
    (info,) = found.choose(("blocks.0",))
    assert info.prefix_tokens == found.network.module.num_prefix_tokens == 1
    assert info.positions == 10 * 10
