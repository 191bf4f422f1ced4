"""What an image does to a layer must not depend on anything else; what does is named."""

import random
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layer_atlas.errors import UserError
from layer_atlas.models.activations import OUTPUT
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import Network
from layer_atlas.models.self_check import (
    check_gradient,
    check_independence,
    has_constant_means,
)

SIZE = (16, 16)


class Chain(nn.Module):
    """A convolution, something between, another convolution."""

    def __init__(self, between: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.two(self.between(self.one(x)))


class FirstImage(nn.Module):
    """Keeps something of the first image that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.seen is None:
            self.seen = x.detach()[:1].mean()
        return x - self.seen


class Membrane(nn.Module):
    """A spiking neuron: keeps a potential until the batch has another size."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("potential", torch.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.potential if self.potential.shape == x.shape else torch.zeros_like(x)
        self.potential = 0.9 * kept + x.detach()
        return x + self.potential


class ActNorm(nn.Module):
    """Normalises by the first batch that it sees, as flows do: written into its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.seen = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if not self.seen:
            self.mean.data.copy_(x.detach().mean())
            self.seen.data.fill_(1)
        return x - self.mean


class Ghost(nn.Module):
    """Normalises halves of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([half - half.mean((0, 2, 3), keepdim=True) for half in x.split(2)])


def network(between: Callable[[Tensor], Tensor] | nn.Module) -> Network:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return Chain(between).eval().requires_grad_(False)

    seeded = build()
    mean, std = (0.5,) * 3, (0.25,) * 3
    return Network("net", "net", seeded, mean, std, 16, "0" * 64, (), build=build)


def check(of: Network, *names: str) -> str:
    layers = {layer.name: layer for layer in describe_layers(of.module, of.example(SIZE))}
    chosen = [layers[name] for name in names]
    other = of.fresh() if not isinstance(of.module.between, FirstImage) else of.module
    return check_independence(of, other, chosen, layers.get(OUTPUT), SIZE)


@pytest.mark.parametrize(
    ("between", "words"),
    [
        (lambda: lambda x: x - x.mean(0, keepdim=True), ["other images", "before 'two' (Conv2d)"]),
        (lambda: lambda x: x / x.amax(), ["other images", "before 'two' (Conv2d)"]),
        (
            lambda: nn.BatchNorm2d(4, track_running_stats=False),
            ["other images", "'between' (BatchNorm2d) normalises over the batch", "running"],
        ),
        (Ghost, ["other images", "'between' (Ghost)"]),
        (lambda: lambda x: x if x.mean() > 0 else -x, ["other images"]),
        (lambda: lambda x: x + torch.randn_like(x), ["chance", "before 'two' (Conv2d)"]),
        (lambda: lambda x: x * random.random(), ["chance"]),
        (lambda: lambda x: F.dropout(x, 0.5, training=True), ["chance"]),
        (FirstImage, ["saw before"]),
        (Membrane, ["saw before"]),
        (ActNorm, ["other images"]),
    ],
    ids=[
        "mean",
        "max",
        "norm",
        "ghost",
        "branch",
        "noise",
        "random",
        "dropout",
        "memory",
        "spikes",
        "flow",
    ],
)
def test_what_depends_on_more_than_the_image_is_refused_by_name(
    between: Callable[[], Callable[[Tensor], Tensor]], words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        check(network(between()), "one", "two")
    message = str(caught.value)
    for word in ["layer 'two' of model 'net'", *words, "Choose other layers, such as one"]:
        assert word in message


def test_layers_before_that_are_fine_and_the_output_is_noted() -> None:
    noisy = network(lambda x: x + torch.randn_like(x))
    assert check(noisy, "one").startswith("the output of net depends on chance: the code before")
    assert check(network(torch.relu), "one", "two") == ""


def test_dropout_that_stays_on_is_named() -> None:
    class On(nn.Dropout):
        def train(self, mode: bool = True) -> "On":
            return super().train(True)

    with pytest.raises(UserError, match="'between' \\(On\\) drops at random in eval mode"):
        check(network(On()), "two")


def test_layer_that_is_called_for_some_images_only_is_refused() -> None:
    class Light(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.light, self.dark = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.light(x)
            return maps if x.mean() > 1e9 else self.dark(x)

    light = network(Light())
    assert check(light, "between.dark") == ""
    layers = describe_layers(light.module, light.example(SIZE))
    never = replace(next(x for x in layers if x.name == "between.dark"), name="never")
    light.module.never = nn.Identity()
    with pytest.raises(UserError, match=r"'never' .* is called for some images only"):
        check_independence(light, light.module, [never], None, SIZE)


def test_rounding_is_no_dependence() -> None:
    """A chaotic function turns the last bits of fp32 into large differences, and fp64's not."""

    def chaotic(x: Tensor) -> Tensor:
        x = torch.sigmoid(x)
        for _ in range(14):
            x = 3.99 * x * (1 - x)
        return x

    assert check(network(chaotic), "two") == ""


def test_nothing_of_the_network_changes() -> None:
    of = network(nn.BatchNorm2d(4))
    before = {module: dict(vars(module)) for module in of.module.modules()}
    check(of, "one", "two")
    assert {module: dict(vars(module)) for module in of.module.modules()} == before


@pytest.mark.parametrize("cut", [Tensor.detach, lambda x: torch.ones_like(x)])
def test_layer_without_a_gradient_is_refused(cut: Callable[[Tensor], Tensor]) -> None:
    of = network(cut)
    layers = {layer.name: layer for layer in describe_layers(of.module, of.example(SIZE))}
    check_gradient(of, of.fresh(), [layers["one"]], SIZE)
    with pytest.raises(UserError, match="no gradient reaches the image from layer 'two'"):
        check_gradient(of, of.fresh(), [layers["one"], layers["two"]], SIZE)


def test_means_that_no_image_changes_are_found() -> None:
    maps = torch.rand(2, 3, 16, generator=torch.Generator().manual_seed(0))
    assert has_constant_means(maps.softmax(dim=2))
    assert has_constant_means(nn.InstanceNorm1d(3)(maps))
    assert not has_constant_means(maps)
    assert not has_constant_means(maps.softmax(dim=1))
    assert not has_constant_means(torch.ones(2, 3, 16))
