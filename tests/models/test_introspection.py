"""Layers are described as they are, whatever the network does inside."""

from collections.abc import Callable

import pytest
import torch
from nets import (
    SIZE,
    Tokens,
    TokensFirst,
    channels_last,
    described,
    every_network,
    forward_to,
    has_hooks,
    matched,
    plain,
    residual,
)
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops.misc import Permute
from toys import example, layer_of, random_network

from layer_atlas.models.activations import OUTPUT
from layer_atlas.models.introspection import describe_layers


def channels_of(network: nn.Module) -> dict[str, tuple[int, int]]:
    return {
        name: (info.channel_axis, info.n_channels)
        for name, info in described(network).items()
        if name != OUTPUT
    }


def test_description_of_a_convolution() -> None:
    info = described(plain())["3"]
    assert (info.module_type, info.kinds[:2]) == ("Conv2d", ("Conv2d", "_ConvNd"))
    assert (info.n_channels, info.shape, info.channel_axis, info.calls) == (4, (4, 12, 12), 1, 1)
    first, last = 2 * 3 * 9 * 5 * 14**2, 2 * 5 * 9 * 4 * 12**2  # a multiply-add counts two
    assert (info.flops, info.flops_before) == (last, first + last)
    assert info.flops_share == pytest.approx(last / (first + last))


def test_layers_come_in_the_order_of_the_network() -> None:
    assert list(described(residual()))[:5] == ["0", "1", "1.conv1", "1.conv2", "1.relu"]


def test_channels_of_maps_are_on_axis_1() -> None:
    assert channels_of(plain()) == {"0": (1, 5), "1": (1, 5), "2": (1, 5), "3": (1, 4)}


def test_channels_of_tokens_and_vectors_are_on_the_last_axis() -> None:
    assert channels_of(random_network(Tokens())) == {
        "0": (1, 3),
        "0.patches": (1, 6),
        "0.norm": (2, 6),
        "0.attention": (2, 6),
        "0.mlp": (2, 6),
        "0.mlp.0": (2, 10),
        "0.mlp.1": (2, 10),
        "0.mlp.2": (2, 10),
        "0.mlp.3": (2, 6),
        "0.head": (1, 3),
    }


def test_channels_follow_a_permutation_there_and_back() -> None:
    assert channels_of(channels_last()) == {
        "0": (1, 5),
        "1": (3, 5),
        "2": (3, 5),
        "3": (3, 7),
        "4": (3, 7),
        "5": (1, 7),
        "6": (1, 7),
    }


@pytest.mark.parametrize("dims", [[0, 2, 3, -3], [0, -2, -1, 1]])
def test_permutations_may_count_from_the_end(dims: list[int]) -> None:
    network = random_network(nn.Conv2d(3, 5, 4), Permute(dims), nn.GELU())
    assert channels_of(network)["1"] == channels_of(network)["2"] == (3, 5)


def test_layer_called_twice_is_counted_and_its_first_call_captured() -> None:
    network, x = residual(), example(SIZE)
    info = described(network)["1.relu"]
    assert info.calls == 2
    first = torch.relu(network[1].conv1(network[0](x))).flatten(2)
    assert torch.equal(forward_to(network, [info], x)(x)[0], first)


def test_tokens_may_come_before_the_batch() -> None:
    network, x = random_network(TokensFirst()), example(SIZE, 3)
    info = described(network)["0.norm"]
    assert (info.batch_axis, info.channel_axis, info.shape) == (1, 2, (16, 6))
    tokens = network[0].norm(network[0].patches(x).flatten(2).permute(2, 0, 1))
    assert torch.equal(forward_to(network, [info], x)(x)[0], tokens.permute(1, 2, 0))


class Windows(nn.Module):
    """Sorts the positions of a map into windows, which it puts beside the images of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(3)

    def forward(self, x: Tensor) -> Tensor:
        windows = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 4, 5, 1).reshape(-1, 16, 3)
        return self.norm(windows).reshape(len(x), -1)


def test_layer_whose_output_does_not_keep_images_apart_is_not_offered() -> None:
    # Its first axis would be taken for the images of the batch: wrong numbers, and no error.
    assert list(described(random_network(Windows()))) == ["0", OUTPUT]


@every_network
def test_output_comes_last_and_is_all_of_the_network(make: Callable[[], nn.Module]) -> None:
    network = make()
    *_, output = describe_layers(network, example(SIZE))
    assert (output.name, output.module_type) == (OUTPUT, type(network).__name__)
    assert output.shape == network(example(SIZE)).shape[1:]
    assert (output.flops_share, output.flops) == (1.0, output.flops_before)


class Names(nn.Module):
    """Answers by name, as networks for segmentation and of Hugging Face do."""

    def __init__(self, *keys: str) -> None:
        super().__init__()
        self.keys = keys
        self.convs = nn.ModuleList(nn.Conv2d(3, 2 + i, 3) for i in range(len(keys)))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {key: conv(x) for key, conv in zip(self.keys, self.convs, strict=True)}


@pytest.mark.parametrize(
    ("keys", "main"),
    [(("aux", "out"), 1), (("out", "logits"), 1), (("left", "right"), 0), (("out", "aux"), 0)],
)
def test_output_in_a_dict_is_found_by_its_key(keys: tuple[str, ...], main: int) -> None:
    network, x = Names(*keys).eval(), example(SIZE, 3)
    info = layer_of(network, OUTPUT)
    assert info.n_channels == 2 + main
    expected = network.convs[main](x).flatten(2)
    assert torch.equal(forward_to(network, [info], example(SIZE))(x)[0], expected)


class Pair(nn.Module):
    """Returns several things, not all of which are tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> tuple[None, Tensor, str]:
        return None, self.conv(x), "done"


def test_first_tensor_of_a_tuple_counts_in_a_layer_and_in_the_output() -> None:
    network, x = Pair().eval(), example(SIZE, 2)
    expected = network.conv(x).flatten(2)
    assert torch.equal(forward_to(network, [layer_of(network, OUTPUT)], x[:1])(x)[0], expected)
    inner = nn.Sequential(network)
    assert torch.equal(forward_to(inner, [layer_of(inner, "0")], x[:1])(x)[0], expected)


class Named(nn.Module):
    """A module called `output`, and something after it."""

    def __init__(self) -> None:
        super().__init__()
        self.output = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.output(x))[:, :2]


def test_module_that_is_called_output_wins() -> None:
    network, x = Named().eval(), example(SIZE)
    (info,) = describe_layers(network, x)
    assert (info.name, info.n_channels) == (OUTPUT, 4)
    assert torch.equal(forward_to(network, [info], x)(x)[0], network.output(x).flatten(2))
    assert matched(network, "*") == matched(network, OUTPUT) == [OUTPUT]


@every_network
def test_describing_leaves_no_hooks_and_changes_nothing(make: Callable[[], nn.Module]) -> None:
    network = make()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    describe_layers(network, example(SIZE))
    assert not has_hooks(network)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


def test_flops_are_those_of_torchs_counter() -> None:
    network = random_network(Tokens())
    images = example()
    with FlopCounterMode(display=False) as theirs:
        network(images.clone().requires_grad_().clone())
    *_, output = describe_layers(network, images)
    assert output.flops_before == theirs.get_total_flops() > 0
