"""Axes of images and channels, where shapes alone mislead."""

import pytest
import torch
from nets import forward_to
from torch import Tensor, nn
from torch.nn import functional as F
from toys import example, layer_info, random_network

from layer_atlas.models.introspection import describe_layers, second_run

SIZE = 32


class Mix(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + 0.1 * x.roll(1, 1))


class Cube(nn.Module):
    """Maps of 8 channels and 8 x 8 positions: channels first, last, and first again."""

    def __init__(self, only: int | None = None) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8)
        self.act, self.mix, self.only = nn.GELU(), Mix(), only

    def forward(self, x: Tensor) -> Tensor:
        if self.only:
            assert x.shape[-1] == self.only, "takes no other size"
        x = self.act(self.norm(self.stem(x).permute(0, 2, 3, 1)))
        return self.mix(x.permute(0, 3, 1, 2)).mean((2, 3))


class LayerNorm(nn.Module):
    """As ConvNeXt's authors wrote theirs: no subclass of torch's, and channels are first."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(count))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return self.weight[:, None, None] * centred / (centred.var(1, keepdim=True) + 1e-6).sqrt()


class Recurrent(nn.Module):
    """Reads the columns of a map one after the other, batch first or not."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.conv, self.first = nn.Conv2d(3, 4, 4, stride=4), batch_first
        self.rnn = nn.LSTM(4, 6, batch_first=batch_first)

    def forward(self, x: Tensor) -> Tensor:
        columns = self.conv(x).mean(2).mT
        return self.rnn(columns if self.first else columns.transpose(0, 1))[0].sum()


class Heads(nn.Module):
    """Maps of attention: (B, heads, T, T)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop = nn.Conv2d(3, 6, 8, stride=8), nn.Dropout()

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.conv(x).flatten(2).unflatten(1, (3, 2))
        return self.drop(torch.softmax(tokens.mT @ tokens, -1)).sum((1, 2, 3))[:, None]


def axes(network: nn.Module) -> dict[str, tuple[int, int, int]]:
    """Axis of the images, axis of the channels with the batch in front, number of channels."""
    layers = describe_layers(network.eval(), example(SIZE))
    return {x.name: (x.batch_axis, x.channel_axis, x.n_channels) for x in layers}


@pytest.mark.parametrize("only", [None, SIZE], ids=["any size", "one size"])
def test_channels_of_a_cube_are_told_from_its_sides(only: int | None) -> None:
    network = random_network(Cube(only))[0]
    found = axes(network)
    assert {name: found[name][1] for name in ("stem", "norm", "act", "mix")} == {
        "stem": 1,
        "norm": 3,
        "act": 3,
        "mix": 1,
    }
    x = example(SIZE, 2)
    by_name = {info.name: info for info in describe_layers(network, x[:1])}
    expected = network.act(network.norm(network.stem(x).permute(0, 2, 3, 1))).flatten(1, 2).mT
    assert torch.equal(forward_to(network, [by_name["act"]], x)(x)[0], expected)


def test_norms_of_that_name_may_have_channels_first() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), LayerNorm(8), nn.Flatten())
    assert axes(network)["1"] == (0, 1, 8)


class NormOfEither(nn.LayerNorm):
    """As transformers has them: a layer norm that is told where its channels are."""

    def __init__(self, count: int, first: bool) -> None:
        super().__init__(count)
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        if not self.first:
            return super().forward(x)
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("count", [8, 12], ids=["a cube", "no cube"])
def test_norms_of_networks_of_one_size_show_their_channels(count: int, first: bool) -> None:
    network = Cube(SIZE)
    network.stem = nn.Conv2d(3, count, 4, stride=4)
    network.norm = nn.Sequential(NormOfEither(count, first), nn.GELU())
    network = random_network(network)[0]
    if first:
        network.norm.insert(0, Permuted(0, 3, 1, 2))
        network.norm.append(Permuted(0, 2, 3, 1))
    norm = "norm.1" if first else "norm.0"
    assert axes(network)[norm] == (0, 1 if first else 3, count)


class Permuted(nn.Module):
    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


class Pools(nn.Module):
    """Pools tokens, whose channels are last, as torch pools rows, whose channels are first."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8)
        self.pool = nn.AdaptiveAvgPool1d(1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(self.stem(x).flatten(2).mT)
        return self.pool(tokens.mT).flatten(1)


def test_pooled_rows_have_their_channels_first() -> None:
    assert axes(Pools())["pool"] == (0, 1, 8)


class CalledByKeyword(nn.Module):
    """Gives its layers what they take by keyword alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.act = nn.Conv2d(3, 8, 4, stride=4), nn.LayerNorm(8), Act()

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[-1] == SIZE, "takes no other size"
        return self.act(hidden_states=self.norm(self.stem(x).permute(0, 2, 3, 1))).mean((1, 2))


class Act(nn.Module):
    def forward(self, *, hidden_states: Tensor) -> Tensor:
        return F.gelu(hidden_states)


def test_channels_are_followed_through_what_is_given_by_keyword() -> None:
    assert axes(CalledByKeyword())["act"] == (0, 3, 8)


@pytest.mark.parametrize("batch_first", [True, False])
def test_recurrent_layers_have_their_channels_last(batch_first: bool) -> None:
    assert axes(Recurrent(batch_first))["rnn"] == (1 - batch_first, 2, 6)


def test_channels_of_maps_of_attention_are_the_heads() -> None:
    assert axes(Heads())["drop"] == (0, 1, 3)


def test_the_second_run_leaves_no_trace_and_tells_nothing_where_it_fails() -> None:
    network = Cube(SIZE).eval()
    before = {module: dict(vars(module)) for module in network.modules()}
    found = second_run(network, example(SIZE))
    assert {module: dict(vars(module)) for module in network.modules()} == before
    assert network.stem not in found.larger
    assert found.batch_axis(network.stem, (1, 8, 8, 8)) == 0
    assert found.unchanged(network.stem, (1, 8, 8, 8)) == {0, 1, 2, 3}


def test_an_axis_of_images_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="batch axis 3"):
        layer_info("x", n_channels=4, shape=(4, 2), batch_axis=3)
