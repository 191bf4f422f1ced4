"""Tokens that are no positions: found in any network, left out, and kept if asked for."""

from typing import Any

import pytest
import torch
from nets import Tokens, forward_to
from torch import Tensor, nn
from torchvision.models import VisionTransformer
from toys import example, layer_of, random_network

from layer_atlas.models.activations import reduce_layers
from layer_atlas.models.introspection import describe_layers, prefix_tokens
from layer_atlas.models.receptive_fields import receptive_fields

SIZE = 16


class Transformer(nn.Module):
    """Patches of 4 px, with tokens of several kinds before them, or among them at the end."""

    def __init__(self, **tokens: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, stride=4)
        self.before = list(tokens)
        for name, count in tokens.items():
            self.register_parameter(name, nn.Parameter(torch.randn(1, count, 6)))
        self.block = nn.Sequential(nn.LayerNorm(6), nn.Linear(6, 8))
        self.pool = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        images = self.patches(x).flatten(2).mT
        told = [getattr(self, name).expand(len(x), -1, -1) for name in self.before]
        tokens = self.block(torch.cat([*told, images], dim=1))
        return self.pool(tokens[:, :1]).squeeze(1)


def counted(network: nn.Module, **settings: Any) -> dict[str, int]:
    layers = describe_layers(network.eval(), torch.randn(1, 3, 16, 16), **settings)
    return {layer.name: layer.prefix_tokens for layer in layers}


@pytest.mark.parametrize(
    "tokens",
    [
        {"cls_token": 1},
        {"class_token": 1},
        {"cls_token": 1, "reg_token": 4},
        {"register_tokens": 3},
    ],
    ids=str,
)
def test_tokens_before_the_image_are_counted_where_they_are(tokens: dict[str, int]) -> None:
    network, count = Transformer(**tokens), sum(tokens.values())
    assert counted(network) == {
        "patches": 0,
        "block": count,
        "block.0": count,
        "block.1": count,
        "pool": 0,  # of one token
        "output": 0,
    }
    assert set(counted(network, keep_prefix_tokens=True).values()) == {0}


def test_tokens_are_known_by_what_they_are_and_not_by_their_names() -> None:
    network = Transformer(anything=2)
    assert counted(network)["block"] == counted(network)["block.1"] == 2
    assert set(counted(network, keep_prefix_tokens=True).values()) == {0}


class Mixed(Transformer):
    """Has mixed its tokens by the time that a module returns them."""

    def forward(self, x: Tensor) -> Tensor:
        images = self.patches(x).flatten(2).mT
        token = getattr(self, self.before[0]).expand(len(x), -1, -1)
        tokens = torch.cat([token, images], dim=1)
        return self.block(tokens + tokens.mean(dim=1, keepdim=True)).mean(dim=1)


def test_networks_may_tell_how_many_they_put_in_front() -> None:
    assert counted(Mixed(cls_token=1))["block.1"] == 1
    network = Mixed(something=2)
    assert set(counted(network).values()) == {0}
    network.num_prefix_tokens = 2
    assert prefix_tokens(nn.Sequential(network)) == 2
    assert counted(network)["block.1"] == 2


class Detector(Transformer):
    """Has a class token before the patches and detection tokens after them."""

    def __init__(self, only: int | None = None) -> None:
        super().__init__(cls_token=1, detection_tokens=3)
        self.only = only

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == (self.only or x.shape[-1]), "takes no other size"
        images = self.patches(x).flatten(2).mT
        first, last = (t.expand(len(x), -1, -1) for t in (self.cls_token, self.detection_tokens))
        tokens = self.block(torch.cat([first, images, last], dim=1))
        return self.pool(tokens + tokens.mean(dim=1, keepdim=True))


@pytest.mark.parametrize("only", [None, SIZE], ids=["any size", "one size"])
def test_tokens_after_the_image_are_left_out_too(only: int | None) -> None:
    network, x = Detector(only).eval(), example(SIZE, 2)
    found = {layer.name: layer for layer in describe_layers(network, x[:1])}
    ends = {name: (layer.prefix_tokens, layer.suffix_tokens) for name, layer in found.items()}
    # `pool` has seen the mean of all: that its tokens are as many says where they are.
    assert ends == {"patches": (0, 0), **dict.fromkeys(("block", "block.0", "block.1"), (1, 3))} | {
        "pool": (1, 3),
        "output": (1, 3),
    }
    assert found["pool"].positions == 16
    (seen,) = forward_to(network, [found["block.1"]], x)(x)
    expected = network.block(network.patches(x).flatten(2).mT).mT
    assert torch.allclose(seen, expected, atol=1e-6)


def test_networks_without_such_tokens_lose_none() -> None:
    network = random_network(Tokens())
    assert prefix_tokens(network) == 0
    assert set(counted(network).values()) == {0}


def test_channels_are_those_of_the_image_tokens_alone() -> None:
    network, x = Transformer(cls_token=1, reg_token=2).eval(), example(SIZE, 3)
    images = network.block(network.patches(x).flatten(2).mT)
    layer = layer_of(network, "block.1", SIZE)
    assert (layer.shape, layer.positions) == ((19, 8), 16)
    (seen,) = forward_to(network, [layer], x[:1])(x)
    assert torch.allclose(seen, images.mT, atol=1e-6)
    reduced = reduce_layers(network, [layer], x, lambda activation: activation.clone())
    assert torch.equal(reduced["block.1"], seen)
    # The class token does not move them, and moves the mean if it is kept.
    with torch.no_grad():
        network.cls_token.add_(5.0)
    assert torch.equal(forward_to(network, [layer], x[:1])(x)[0], seen)
    kept = next(
        x for x in describe_layers(network, x[:1], keep_prefix_tokens=True) if x.name == "block.1"
    )
    (whole,) = forward_to(network, [kept], x[:1])(x)
    assert whole.shape == (3, 8, 19)
    assert torch.equal(whole[:, :, 3:], seen)


def test_receptive_fields_are_of_the_tokens_that_are_left() -> None:
    network, x = Transformer(cls_token=1).eval(), example(SIZE)
    layer = layer_of(network, "block.1", SIZE)
    boxes = receptive_fields(network, [layer], x)["block.1"]
    assert boxes.shape == (16, 4)
    assert boxes[:2].tolist() == [[0, 0, 4, 4], [4, 0, 8, 4]]
    assert boxes[-1].tolist() == [12, 12, 16, 16]


def small_vit(**settings: Any) -> nn.Module:
    """A small vision transformer of torchvision."""
    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16, "num_classes": 5}
    torch.manual_seed(0)
    network = VisionTransformer(image_size=32, patch_size=8, **sizes, **settings)
    return network.eval().requires_grad_(False)


def test_vision_transformer_of_torchvision() -> None:
    network, x = small_vit(), torch.randn(1, 3, 32, 32)
    layers = {layer.name: layer for layer in describe_layers(network, x)}
    found = {name: (layer.prefix_tokens, layer.positions) for name, layer in layers.items()}
    assert found["conv_proj"] == (0, 16)
    assert found["encoder.layers.encoder_layer_0.self_attention"] == (1, 16)
    assert found["encoder.layers.encoder_layer_1.mlp.3"] == found["encoder.ln"] == (1, 16)
    assert found["heads.head"] == found["output"] == (0, 1)


class Late(Transformer):
    """Has tokens from the beginning, and more in front of them later."""

    def __init__(self) -> None:
        super().__init__(cls_token=1, queries=3)
        self.late = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        images = self.patches(x).flatten(2).mT
        tokens = self.block(torch.cat([self.cls_token.expand(len(x), -1, -1), images], dim=1))
        tokens = tokens + tokens.mean(dim=1, keepdim=True)
        queries = torch.cat([self.queries, self.queries], dim=2)[:, :, :8].expand(len(x), -1, -1)
        return self.late(torch.cat([queries, tokens], dim=1))


def test_more_tokens_may_come_in_front_of_others() -> None:
    found = counted(Late())
    assert (found["block"], found["late"], found["output"]) == (1, 4, 4)


# --- attention -----------------------------------------------------------------------------------


def test_attention_returns_a_tuple_of_which_the_first_counts() -> None:
    network, x = small_vit(), torch.randn(3, 3, 32, 32)
    name = "encoder.layers.encoder_layer_0.self_attention"
    layer = next(x for x in describe_layers(network, x[:1]) if x.name == name)
    assert (layer.n_channels, layer.channel_axis) == (8, 2)
    block = network.encoder.layers.encoder_layer_0
    tokens = network._process_input(x)
    tokens = torch.cat([network.class_token.expand(3, -1, -1), tokens], dim=1)
    tokens = block.ln_1(tokens + network.encoder.pos_embedding)
    expected = block.self_attention(tokens, tokens, tokens, need_weights=False)[0]
    (seen,) = forward_to(network, [layer], x[:1])(x)
    assert torch.allclose(seen, expected[:, 1:].mT, atol=1e-6)
