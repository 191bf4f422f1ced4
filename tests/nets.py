"""Small networks with everything that stands in the way of whoever looks for layers."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops.misc import Permute
from toys import example, random_network

from layer_atlas.models.activations import match_layers, module_of, plain_activations
from layer_atlas.models.forwards import Forward, Instance
from layer_atlas.models.introspection import describe_layers
from layer_atlas.plan.jobs import LayerInfo

SIZE = 16


def plain() -> nn.Module:
    return random_network(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3))


def in_place() -> nn.Module:
    """What follows each convolution writes over its output."""
    return random_network(
        nn.Conv2d(3, 5, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(5, 4, 3),
        nn.BatchNorm2d(4),
        nn.Hardtanh(-0.1, 0.1, inplace=True),
        nn.Dropout(inplace=True),
    )


class Block(nn.Module):
    """A residual block that adds in place and calls one ReLU twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1)
        self.conv2 = nn.Conv2d(4, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.unused = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(self.relu(self.conv1(x)))
        y += x
        return self.relu(y)


def residual() -> nn.Module:
    return random_network(nn.Conv2d(3, 4, 3), Block(), Block(), nn.AdaptiveAvgPool2d(1))


class _TwoConvolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.then = nn.Conv2d(4, 4, 3)


class Statements(_TwoConvolutions):
    """An in-place call on a line of its own, which a traced graph drops as unused."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.relu_()
        return self.then(y)


class WritesOverItsInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(0.5).mul_(2.0)


class Branches(_TwoConvolutions):
    """Which way it goes depends on the data: no tracer can follow."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = torch.relu(y) if y.mean() > 0 else y
        return self.then(y)


class Tokens(nn.Module):
    """Patches to tokens (B, T, C), attention, an MLP, a head on the mean token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, stride=4)
        self.norm = nn.LayerNorm(6)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Dropout(), nn.Linear(10, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.patches(x).flatten(2).transpose(1, 2))
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        tokens = tokens + self.mlp(tokens)
        return self.head(tokens.mean(dim=1))


def channels_last() -> nn.Module:
    """A ConvNeXt-like chain: to (B, H, W, C) and back."""
    return random_network(
        nn.Conv2d(3, 5, 4, stride=4),
        Permute([0, 2, 3, 1]),
        nn.LayerNorm(5),
        nn.Linear(5, 7),
        nn.GELU(),
        Permute([0, 3, 1, 2]),
        nn.ReLU(),
    )


class TokensFirst(nn.Module):
    """Tokens before the batch, (T, B, C), as in the original transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, stride=4)
        self.norm = nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.patches(x).flatten(2).permute(2, 0, 1)).mean(0)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "plain": plain,
    "in place": in_place,
    "residual": residual,
    "statements": lambda: random_network(Statements()),
    "writes over its input": lambda: random_network(WritesOverItsInput(), nn.Conv2d(3, 4, 3)),
    "branches": lambda: random_network(Branches()),
    "tokens": lambda: random_network(Tokens()),
    "channels last": channels_last,
}
every_network = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


def captured_by_hand(network: nn.Module, layer: LayerInfo, x: Tensor) -> Tensor:
    """What the first call of the layer returned, copied before anything can write over it."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: object, output: Tensor | tuple[Tensor, ...]) -> None:
        seen.append((output if isinstance(output, Tensor) else output[0]).clone())

    handle = module_of(network, layer.name).register_forward_hook(keep)
    network(x)
    handle.remove()
    return (
        seen[0].movedim(layer.channel_axis, 1).flatten(2)
        if seen[0].ndim > 2
        else seen[0][..., None]
    )


def forward_to(network: nn.Module, layers: Sequence[LayerInfo], example: Tensor) -> Forward:
    """The fastest forward to some layers that agrees with the network to the bit."""
    found = plain_activations(network, layers, example)
    instance = Instance(network, example.dtype, torch.contiguous_format)
    for name, make in instance.paths(layers):
        made = make()(example.clone()) if "simplified" not in name else ()
        if made and all(map(torch.equal, made, (found[layer.name] for layer in layers))):
            return make()
    raise AssertionError("not even hooks agree with the network")


def has_hooks(network: nn.Module) -> bool:
    return any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def described(network: nn.Module) -> dict[str, LayerInfo]:
    """Its layers by their names."""
    return {info.name: info for info in describe_layers(network, example(SIZE))}


def matched(network: nn.Module, *patterns: str) -> list[str]:
    """The layers that patterns choose."""
    layers = describe_layers(network, example(SIZE))
    return [layer.name for layer in match_layers(patterns, layers, network, "toy")]
