"""Architectures: a sweep from end to end through one network of every family, as small as it goes.

Four channels, four steps, random weights; by the name that a user would give where the family has a
small member, else with the family's own class and few layers.
"""

import importlib.util
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from nets import forward_to
from runs import run_here
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision import models as zoo
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2
from toys import composed

from layer_atlas.config.config import ModelConfig
from layer_atlas.errors import UserError
from layer_atlas.models import load as models
from layer_atlas.models.activations import reduce_layers
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import Network
from layer_atlas.plan.jobs import STATUS
from layer_atlas.sweep import tasks
from layer_atlas.sweep.planning import inspect_models, inspection

QUICK = (
    *("weights=none", "precision=fp32", "channels=[0,1,2,3]", "batch_size=8", "name=x"),
    *("optimizer.steps=4", "optimizer.leaky_steps=2", "optimizer.starts=1"),
    *("executor.devices=[cpu]", "parameterization.alpha=true"),
)


@dataclass(frozen=True)
class Family:
    """A network to sweep through."""

    model: str
    """Its name, or the name of a function of this module that builds it."""
    image_size: int
    layers: tuple[str, ...]

    @property
    def overrides(self) -> tuple[str, ...]:
        """What asks for it on a command line."""
        entry = self.model
        if self.model in globals():
            entry = f"{{name: {self.model}, target: tests.models.test_architectures.{self.model}}}"
        layers = ",".join(f"'{name}'" for name in self.layers)
        return (f"models=[{entry}]", f"layers=[{layers}]", f"image_size={self.image_size}")


# --- families of torchvision, where a member by name would take long -----------------------------


def headless(name: str, width: int) -> nn.Module:
    """A network whose classifier, which holds nearly all of its weights, is left small."""
    with torch.device("meta"):
        network = getattr(zoo, name)(weights=None)
        network.classifier = nn.Linear(width, 5)
    network = network.to_empty(device="cpu")
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return network  # type: ignore[no-any-return]


alexnet = partial(headless, "alexnet", 256 * 6 * 6)
vgg = partial(headless, "vgg11_bn", 512 * 7 * 7)


def vision_transformer() -> nn.Module:
    return zoo.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32
    )


def maxvit() -> nn.Module:
    return zoo.MaxVit(
        input_size=(32, 32),
        stem_channels=8,
        partition_size=2,
        block_channels=[8, 16],
        block_layers=[1, 1],
        head_dim=4,
        stochastic_depth_prob=0.0,
    )


SWIN = {"patch_size": [4, 4], "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 2]}


def swin() -> nn.Module:
    return zoo.SwinTransformer(**SWIN, window_size=[4, 4])


def swin_v2() -> nn.Module:
    kinds = {"block": SwinTransformerBlockV2, "downsample_layer": PatchMergingV2}
    return zoo.SwinTransformer(**SWIN, window_size=[4, 4], **kinds)


# --- modules of a user's own ---------------------------------------------------------------------


class Own(nn.Module):
    """No chain: branches on the data, reuses a layer, attends, answers with a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, stride=4)
        self.shared = nn.Conv2d(8, 8, 3, padding=1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = torch.relu(self.stem(x))
        x = self.shared(torch.relu(self.shared(x)))
        x = x if x.mean() > 100 else x + 0.5
        tokens = x.flatten(2).mT
        attended, weights = self.attention(tokens, tokens, tokens)
        return {"weights": weights, "logits": self.head(attended.mean(dim=1))}


class Tuples(nn.Module):
    """Answers with a tuple, inside and outside."""

    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, int]:
            return torch.tanh(self.conv(x)), 3

    def __init__(self) -> None:
        super().__init__()
        self.inner = self.Inner()
        self.last = nn.Conv2d(6, 4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features, _ = self.inner(x)
        return self.last(features), features


def segmentation() -> nn.Module:
    return zoo.segmentation.lraspp_mobilenet_v3_large(weights_backbone=None)


FAMILIES = {
    "AlexNet": Family("alexnet", 64, ("features.3", "output")),
    "VGG": Family("vgg", 32, ("features.4",)),
    "ResNet": Family("resnet18", 32, ("layer1.0.relu", "layer2.0", "output")),
    "ResNeXt": Family("resnext50_32x4d", 32, ("layer1.0.conv2",)),
    "RegNet": Family("regnet_y_400mf", 32, ("trunk_output.block1",)),
    "DenseNet": Family("densenet121", 32, ("features.denseblock1.denselayer2.conv1",)),
    "Inception v3": Family("inception_v3", 75, ("Mixed_5b.branch1x1",)),
    "GoogLeNet": Family("googlenet", 32, ("inception3a",)),
    "MobileNet v2": Family("mobilenet_v2", 32, ("features.3",)),
    "MobileNet v3": Family("mobilenet_v3_small", 32, ("features.2",)),
    "EfficientNet v2": Family("efficientnet_v2_s", 32, ("features.2.0",)),
    "MNASNet": Family("mnasnet0_5", 32, ("layers.8",)),
    "ShuffleNet": Family("shufflenet_v2_x0_5", 32, ("stage2.0",)),
    "SqueezeNet": Family("squeezenet1_1", 32, ("features.3", "output")),
    "ConvNeXt": Family("convnext_tiny", 32, ("features.1.0",)),
    "ViT": Family(
        "vision_transformer", 32, ("encoder.layers.encoder_layer_0.self_attention", "encoder.ln")
    ),
    "Swin": Family("swin", 32, ("features.1.1", "features.3.0")),
    "Swin v2": Family("swin_v2", 32, ("features.1.1",)),
    "MaxViT": Family("maxvit", 32, ("blocks.0.layers.0", "output")),
    "timm ViT": Family("timm/test_vit", 160, ("blocks.0.attn.qkv", "blocks.1")),
    "timm ConvNeXt": Family("timm/test_convnext", 32, ("stages.1", "output")),
    "timm EfficientNet": Family("timm/test_efficientnet", 32, ("blocks.1",)),
    "own module": Family("Own", 16, ("shared", "attention", "output")),
    "own module of tuples": Family("Tuples", 16, ("inner", "output")),
    "segmentation": Family("segmentation", 32, ("output",)),
}


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Network]:
    """What is loaded; the worker takes the network of the plan, as they are in one process."""
    networks: list[Network] = []

    def load_once(config: ModelConfig) -> Network:
        if not networks:
            networks.append(models.load_network(config))
        return networks[0]

    for module in (inspection, tasks):
        monkeypatch.setattr(module, "load_network", load_once)
    return networks


FAST = (
    *("SqueezeNet", "MobileNet v3", "ViT", "Swin", "timm ViT"),
    *("own module", "own module of tuples", "segmentation"),
)
"""Families of different kinds, which go through every time."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in FAST else pytest.mark.slow) for n in FAMILIES]
)
def test_a_sweep_runs_from_end_to_end(name: str, tmp_path: Path, loaded: list[Network]) -> None:
    family = FAMILIES[name]
    if family.model.startswith("timm/") and importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    assert run_here(tmp_path, *family.overrides, *QUICK) == 0
    (network,) = loaded
    with h5py.File(tmp_path / "x" / "atlas.h5") as atlas:
        assert list(atlas[network.label]) == list(family.layers)
        for layer in family.layers:
            check_images(atlas[network.label][layer])
    check_forwards(network, family)


def check_images(layer: h5py.Group) -> None:
    """Each image is one: finite and with structure; gradients reached those of living channels."""
    ok = layer["status"][:, 0] == STATUS["ok"]
    assert np.isin(layer["status"][()], [STATUS["ok"], STATUS["dead"]]).all()
    assert ok.any()
    for measured in ("activation", "activation_robust", "activation_max", "response", "trace"):
        assert np.isfinite(layer[measured][()]).all(), measured
    assert (layer["image"][:, 0].std(axis=(1, 2, 3)) > 10).all()
    # Opacity is where the gradient fell.
    assert (layer["alpha"][:, 0].max(axis=(1, 2))[ok] > 0).any()
    assert (np.ptp(layer["trace"][:, 0], axis=1)[ok] > 0).any()


def check_forwards(network: Network, family: Family) -> None:
    """The forward that is optimized, simplified or not, is that of the network."""
    example = network.example((family.image_size, family.image_size))
    layers = {layer.name: layer for layer in describe_layers(network.module, example)}
    with torch.no_grad():
        for name in family.layers:
            (fast,) = forward_to(network.module, [layers[name]], example)(example.clone())
            plain = reduce_layers(network.module, [layers[name]], example.clone(), Tensor.clone)
            torch.testing.assert_close(fast, plain[name], rtol=1e-3, atol=1e-4)
            assert fast.shape == (1, layers[name].n_channels, layers[name].positions)


# --- parts that are special to a family ----------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "size", "layer"),
    [("googlenet", 32, "aux1.conv"), ("inception_v3", 75, "AuxLogits.fc")],
)
def test_auxiliary_heads_are_no_layers_of_a_network_that_is_looked_at(
    name: str, size: int, layer: str
) -> None:
    config = composed(f"models=[{name}]", "weights=none", f"image_size={size}")
    (found,) = inspect_models(config)
    assert found.layers[-1].n_channels == 1000
    with pytest.raises(UserError, match=f"layer '{layer}' .* a forward pass never calls it"):
        found.choose((layer,))


def test_weights_with_auxiliary_heads_fit_and_bring_their_preprocessing(tmp_path: Path) -> None:
    network = zoo.googlenet(weights=None, aux_logits=True, init_weights=False)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    weights = str(tmp_path / "w.safetensors")
    loaded = models.load_network(ModelConfig("googlenet", weights=weights))
    assert loaded.missing == ()
    assert loaded.module.transform_input


def test_layer_that_is_called_twice_shows_its_first_call() -> None:
    network, x = Own().eval(), torch.randn(8, 3, 16, 16)
    layer = next(x for x in describe_layers(network, x[:1]) if x.name == "shared")
    assert layer.calls == 2
    expected = network.shared(torch.relu(network.stem(x))).flatten(2)
    assert torch.equal(forward_to(network, [layer], x[:1])(x)[0], expected)
