"""Layers: found by globs, described and captured as they are, whatever the network does inside."""

from collections.abc import Callable, Sequence
from itertools import chain

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops.misc import Permute
from toys import example, layer_of, pointwise, random_network

from pipeline.errors import UserError
from pipeline.jobs import LayerInfo
from pipeline.networks.layers import OUTPUT, describe_layers, match_layers, module_of, truncate

SIZE = 16


# --- networks ------------------------------------------------------------------------------------


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


class Statements(nn.Module):
    """An in-place call on a line of its own, which a traced graph drops as unused."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.then = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.relu_()
        return self.then(y)


class WritesOverItsInput(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sub_(0.5).mul_(2.0)


class Branches(nn.Module):
    """Which way it goes depends on the data: no tracer can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.then = nn.Conv2d(4, 4, 3)

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


def has_hooks(network: nn.Module) -> bool:
    return any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


# --- description ---------------------------------------------------------------------------------


def described(network: nn.Module) -> dict[str, LayerInfo]:
    return {info.name: info for info in describe_layers(network, example(SIZE))}


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
    assert torch.equal(truncate(network, [info], x)(x)[0], first)


def test_layer_whose_output_has_no_batch_in_front_is_not_offered() -> None:
    # Its first axis would be taken for the samples of the batch: wrong numbers, and no error.
    assert "0.norm" not in described(random_network(TokensFirst()))


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
    assert torch.equal(truncate(network, [info], example(SIZE))(x)[0], expected)


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
    assert torch.equal(truncate(network, [layer_of(network, OUTPUT)], x[:1])(x)[0], expected)
    inner = nn.Sequential(network)
    assert torch.equal(truncate(inner, [layer_of(inner, "0")], x[:1])(x)[0], expected)


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
    assert torch.equal(truncate(network, [info], x)(x)[0], network.output(x).flatten(2))
    assert matched(network, "*") == matched(network, OUTPUT) == [OUTPUT]


def test_output_is_chosen_by_its_name_alone() -> None:
    assert OUTPUT not in matched(residual(), "*", "*@*")
    assert matched(residual(), OUTPUT, "0") == ["0", OUTPUT]
    for pattern in ("outpu?", "*@Sequential"):
        with pytest.raises(UserError, match="unknown layer"):
            matched(residual(), pattern)


@every_network
def test_describing_leaves_no_hooks_and_changes_nothing(make: Callable[[], nn.Module]) -> None:
    network = make()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    describe_layers(network, example(SIZE))
    assert not has_hooks(network)
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())


# --- globs ---------------------------------------------------------------------------------------


def matched(network: nn.Module, *patterns: str) -> list[str]:
    layers = describe_layers(network, example(SIZE))
    return [layer.name for layer in match_layers(patterns, layers, network, "toy")]


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        (["0"], ["0"]),
        (["1.*"], ["1.conv1", "1.conv2", "1.relu"]),
        (["*@Conv2d"], ["0", "1.conv1", "1.conv2", "2.conv1", "2.conv2"]),
        (["2.*@_ConvNd"], ["2.conv1", "2.conv2"]),  # a base class
        (["*@Re?U"], ["1.relu", "2.relu"]),
        (["2.conv2", "1.conv?", "*.conv2"], ["1.conv1", "1.conv2", "2.conv2"]),
        (["[12]"], ["1", "2"]),
    ],
)
def test_globs_choose_layers_in_network_order_each_once(
    patterns: Sequence[str], names: Sequence[str]
) -> None:
    assert matched(residual(), *patterns) == names


@pytest.mark.parametrize(
    ("pattern", "told"),
    [
        ("1.conv3", ["'1.conv3'", "model 'toy'", "choose from: 1.conv", "@Type"]),
        ("*@Linear", ["'*@Linear'", "Types in this model: ", "Conv2d", "ReLU"]),
        ("1.unused", ["'1.unused'", "never calls it", "atlas layers"]),
        ("outptu", ["'outptu'", "choose from: output"]),
        ("1.CONV1", ["'1.CONV1'", "choose from: 1.conv1"]),
    ],
)
def test_pattern_that_chooses_nothing_is_told(pattern: str, told: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        matched(residual(), "0", pattern)
    for words in told:
        assert words in str(caught.value)


# --- capture -------------------------------------------------------------------------------------


@every_network
def test_captured_activation_is_what_the_layer_returned(make: Callable[[], nn.Module]) -> None:
    network = make()
    for batch, seed in ((1, 0), (3, 1)):
        x = example(SIZE, batch, seed)
        for layer in described(network).values():
            forward = truncate(network, [layer], example(SIZE))
            (seen,) = forward(x.clone())
            assert seen.shape[:2] == (batch, layer.n_channels), layer.name
            assert torch.equal(seen, captured_by_hand(network, layer, x.clone())), layer.name
    assert not has_hooks(network)


@every_network
def test_gradient_through_the_capture_is_that_of_the_network(
    make: Callable[[], nn.Module],
) -> None:
    network = make()
    for layer in described(network).values():
        x = example(SIZE, 2).requires_grad_()
        (seen,) = truncate(network, [layer], example(SIZE))(x * 1)
        (gradient,) = torch.autograd.grad(seen[:, 0].sum(), x)
        assert gradient.abs().sum() > 0, layer.name


def test_other_image_sizes_pass_through_the_capture() -> None:
    network = plain()
    layer = layer_of(network, "3", SIZE)
    assert truncate(network, [layer], example(SIZE))(example(24))[0].shape == (1, 4, 20 * 20)


class Bomb(nn.Module):
    """Raises when armed."""

    def __init__(self, wire: list[bool]) -> None:
        super().__init__()
        self.wire = wire

    def forward(self, x: Tensor) -> Tensor:
        if self.wire:
            raise RuntimeError("the network's own mistake")
        return x


class Untraceable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else x + 0


class Asserts(nn.Module):
    """Insists on something, as transformers do; in a graph that is a node which must not go."""

    def forward(self, x: Tensor) -> Tensor:
        torch._assert(x.dim() == 4, "a map is needed")
        return x


@pytest.mark.parametrize(
    ("before", "after"),
    [([], []), ([Untraceable()], []), ([], [Asserts()])],
    ids=["traced", "stopped", "traced, with assertions"],
)
def test_nothing_beyond_the_layer_runs(before: list[nn.Module], after: list[nn.Module]) -> None:
    counted = pointwise([[1.0, 0.0, 0.0]])
    network = random_network(nn.Conv2d(3, 3, 3), *before, counted, *after)
    responses = truncate(network, [layer_of(network, "0")], example(SIZE))
    calls = []
    handle = counted.register_forward_hook(lambda *_: calls.append(1))
    responses(example(SIZE))
    assert not calls
    network(example(SIZE))
    assert calls
    handle.remove()


class Aside(nn.Module):
    """Something that the layer `conv` does not need comes before it."""

    def __init__(self) -> None:
        super().__init__()
        self.aside = nn.Conv2d(3, 2, 3)
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        aside = self.aside(x)
        return self.conv(x) + aside


def test_what_the_layer_does_not_need_is_left_out_where_tracing_works() -> None:
    network = Aside().eval()
    responses = truncate(network, [layer_of(network, "conv")], example(SIZE))
    calls = []
    handle = network.aside.register_forward_hook(lambda *_: calls.append(1))
    responses(example(SIZE))
    handle.remove()
    assert not calls


class AttendsAside(nn.Module):
    """As before, with a layer that returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.aside = nn.Linear(3, 4)
        self.attention = nn.MultiheadAttention(3, 1, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).mT
        return self.aside(tokens), self.attention(tokens, tokens, tokens)[0]


def test_layer_that_returns_a_tuple_is_traced_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # As the workbench has it: else attention takes another way where a hook looks at it.
    monkeypatch.setattr("torch.backends.mha._is_fastpath_enabled", False)
    network = AttendsAside().eval().requires_grad_(False)
    responses = truncate(network, [layer_of(network, "attention")], example(SIZE))
    calls = []
    handle = network.aside.register_forward_hook(lambda *_: calls.append(1))
    assert responses(example(SIZE, 2))[0].shape == (2, 3, SIZE * SIZE)
    handle.remove()
    assert not calls


def test_exceptions_of_the_network_come_out_and_leave_no_hooks() -> None:
    wire: list[bool] = []
    network = random_network(nn.Conv2d(3, 3, 3), Untraceable(), Bomb(wire), nn.Conv2d(3, 2, 3))
    layer = layer_of(network, "3")
    responses = truncate(network, [layer], example(SIZE))
    wire.append(True)
    with pytest.raises(RuntimeError, match="the network's own mistake"):
        responses(example(SIZE))
    with pytest.raises(RuntimeError, match="the network's own mistake"):
        describe_layers(network, example(SIZE))
    assert not has_hooks(network)
    wire.clear()
    assert responses(example(SIZE))[0].shape[:2] == (1, 2)


@pytest.mark.parametrize("make", [plain, NETWORKS["branches"]], ids=["traced", "stopped"])
def test_input_of_the_wrong_kind_raises(make: Callable[[], nn.Module]) -> None:
    network = make()
    name = next(name for name in chain(["3", "0.then"]) if name in described(network))
    responses = truncate(network, [layer_of(network, name)], example(SIZE))
    with pytest.raises(RuntimeError, match="channels"):
        responses(torch.zeros(1, 5, SIZE, SIZE))
    assert not has_hooks(network)
