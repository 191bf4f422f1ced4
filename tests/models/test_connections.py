"""Weights between channels: by hand from the kernels, with numpy, for every kind of path."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from layer_atlas.models.connections import connections, sources_of
from layer_atlas.models.demo import DemoNet
from layer_atlas.models.introspection import describe_layers
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.store.connections import Connections

EVERY = 64
"""More incoming channels than any of these layers has: all are listed."""


def infos(network: nn.Module, names: list[str], size: int = 32) -> list[LayerInfo]:
    example = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    known = {info.name: info for info in describe_layers(network, example)}
    return [known[name] for name in names]


def made(build: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    network = build().eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.running_var):
                values.copy_(torch.rand(len(values)) + 0.5)
    return network


def found(
    network: nn.Module, target: str, *before: str, most: int = EVERY, size: int = 32
) -> Connections:
    layers = infos(network, [*before, target], size)
    example = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    channels = range(layers[-1].n_channels)
    return connections(network, layers[-1], layers[:-1], example, channels, most)


def dense(made: Connections, source: str, count: int) -> NDArray[np.float64]:
    """The kernels (K, C, h, w) of one source, all that are not listed 0."""
    n, _, *sides = made.kernel.shape
    every = np.zeros((n, count, *sides))
    for (row, rank), which in np.ndenumerate(made.source):
        if which >= 0 and made.sources[which] == source:
            every[row, made.channel[row, rank]] = made.kernel[row, rank]
    return every


def array(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().double().numpy()


def scale(norm: nn.BatchNorm2d) -> NDArray[np.float64]:
    return array(norm.weight) / np.sqrt(array(norm.running_var) + norm.eps)


def full(conv: nn.Conv2d) -> NDArray[np.float64]:
    """The kernel (K, C, h, w) of a convolution, with zeros between its groups."""
    kernel, groups = array(conv.weight), conv.groups
    whole = np.zeros((conv.out_channels, conv.in_channels, *kernel.shape[2:]))
    outs, ins = conv.out_channels // groups, conv.in_channels // groups
    for g in range(groups):
        mine = slice(g * outs, (g + 1) * outs)
        whole[mine, g * ins : (g + 1) * ins] = kernel[mine]
    return whole


def chained(after: NDArray[np.float64], before: NDArray[np.float64]) -> NDArray[np.float64]:
    """The kernel of one convolution of stride 1 after another."""
    (k, _, h, w), (_, c, y, x) = after.shape, before.shape
    whole = np.zeros((k, c, h + y - 1, w + x - 1))
    for i, j in np.ndindex(h, w):
        whole[:, :, i : i + y, j : j + x] += np.einsum("km,mcyx->kcyx", after[:, :, i, j], before)
    return whole


def padded(kernel: NDArray[np.float64], side: int) -> NDArray[np.float64]:
    room = (side - kernel.shape[2]) // 2
    return np.pad(kernel, ((0, 0), (0, 0), (room, room), (room, room)))


# --- a single convolution is its kernel -----------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 1},
        {"kernel_size": 3, "stride": 2, "padding": 1},
        {"kernel_size": 3, "padding": 1, "groups": 4},
        {"kernel_size": 3, "padding": 1, "groups": 8},
        {"kernel_size": (3, 5), "padding": (1, 2)},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    ],
    ids=str,
)
def test_one_convolution_is_its_kernel_exactly(settings: dict[str, object]) -> None:
    conv = nn.Conv2d(8, 16, **settings)  # type: ignore[arg-type]
    network = made(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), conv))
    got = found(network, "2", "0")
    assert got.sources == ("0",)
    assert np.array_equal(dense(got, "0", 8), full(conv))


def test_a_dilated_kernel_has_holes() -> None:
    conv = nn.Conv2d(4, 5, 3, padding=2, dilation=2)
    network = made(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), conv))
    got = dense(found(network, "2", "0"), "0", 4)
    assert got.shape[2:] == (5, 5)
    assert np.array_equal(got[:, :, ::2, ::2], full(conv))
    assert got[:, :, 1::2].any() == got[:, :, :, 1::2].any() == np.False_


def test_linear_layers_and_pooled_maps() -> None:
    class Head(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.hidden, self.out = nn.Conv2d(3, 6, 3), nn.Linear(6, 7), nn.Linear(7, 5)

        def forward(self, images: Tensor) -> Tensor:
            pooled = F.adaptive_avg_pool2d(self.conv(images).relu(), 1).flatten(1)
            return self.out(torch.tanh(self.hidden(pooled)))

    network = made(Head)
    got = found(network, "out", "hidden", "conv")
    assert got.sources == ("hidden",)
    assert np.array_equal(dense(got, "hidden", 7)[..., 0, 0], array(network.out.weight))
    got = found(network, "hidden", "conv", size=12)
    by_hand = array(network.hidden.weight)[:, :, None, None] * np.full((10, 10), 1 / 100)
    assert np.allclose(dense(got, "conv", 6), by_hand, rtol=1e-5)
    whole = found(network, "out", "conv", size=32)  # its kernel of 30 x 30 is added up by twos
    assert whole.stride == 2
    assert whole.kernel.shape[2:] == (15, 15)
    product = array(network.out.weight) @ array(network.hidden.weight)
    assert np.allclose(dense(whole, "conv", 6).sum(axis=(2, 3)), product, rtol=1e-4)


# --- blocks of the known architectures ------------------------------------------------------------


class Fire(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.squeeze = nn.Conv2d(8, 4, 1)
        self.expand1x1, self.expand3x3 = nn.Conv2d(4, 6, 1), nn.Conv2d(4, 6, 3, padding=1)
        self.pool = nn.MaxPool2d(3, 2, ceil_mode=True)
        self.next = nn.Conv2d(12, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu(self.squeeze(F.relu(self.stem(images))), inplace=True)
        x = torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)
        return self.next(self.pool(x))


def test_a_fire_module_with_max_pooling_as_average() -> None:
    network = made(Fire)
    got = found(network, "expand3x3", "squeeze", "stem", "expand1x1")
    assert got.sources == ("squeeze",)
    assert np.array_equal(dense(got, "squeeze", 4), full(network.expand3x3))
    got = found(network, "next", "stem", "squeeze", "expand1x1", "expand3x3")
    assert set(got.sources) == {"expand1x1", "expand3x3"}
    for name, part in (("expand1x1", slice(6)), ("expand3x3", slice(6, 12))):
        by_hand = full(network.next)[:, part] * np.full((3, 3), 1 / 9)
        assert np.allclose(dense(got, name, 6), by_hand, rtol=1e-5)
    # Over both branches, when neither is a layer of the sweep.
    got = found(network, "next", "squeeze")
    branches = padded(full(network.expand1x1), 3), full(network.expand3x3)
    expanded = np.concatenate(branches)
    pooled = chained(full(network.next), expanded)
    by_hand = chained(np.eye(5)[..., None, None] * np.full((3, 3), 1 / 9), pooled)
    assert np.allclose(dense(got, "squeeze", 4), by_hand, rtol=1e-4, atol=1e-7)


class Basic(nn.Module):
    """Two basic blocks of ResNet, the first with a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        for block, (ins, outs) in enumerate([(4, 6), (6, 6)]):
            self.add_module(f"conv{block}1", nn.Conv2d(ins, outs, 3, padding=1, bias=False))
            self.add_module(f"conv{block}2", nn.Conv2d(outs, outs, 3, padding=1, bias=False))
            self.add_module(f"bn{block}1", nn.BatchNorm2d(outs))
            self.add_module(f"bn{block}2", nn.BatchNorm2d(outs))
        self.down, self.down_bn = nn.Conv2d(4, 6, 1, bias=False), nn.BatchNorm2d(6)
        self.relu, self.end = nn.ReLU(inplace=True), nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        y = self.bn02(self.conv02(self.relu(self.bn01(self.conv01(x)))))
        y += self.down_bn(self.down(x))
        x = self.relu(y)
        y = self.bn12(self.conv12(self.relu(self.bn11(self.conv11(x)))))
        y += x
        return self.end(self.relu(y))


def test_a_basic_block_is_the_sum_of_its_paths() -> None:
    network = made(Basic)
    got = found(network, "end", "stem")
    (a1, a2, b1, b2), (s1, s2, t1, t2) = (
        [full(getattr(network, f"conv{name}")) for name in ("01", "02", "11", "12")],
        [
            scale(getattr(network, f"bn{name}"))[:, None, None, None]
            for name in ("01", "02", "11", "12")
        ],
    )
    first = chained(a2 * s2, a1 * s1)
    first += padded(full(network.down) * scale(network.down_bn)[:, None, None, None], 5)
    by_hand = chained(chained(b2 * t2, b1 * t1), first) + padded(first, 9)
    assert np.allclose(dense(got, "stem", 4), by_hand, rtol=1e-4, atol=1e-6)
    # Every convolution that writes to the sum, by the path that meets no other one.
    got = found(network, "conv11", "stem", "conv01", "conv02", "down")
    assert set(got.sources) == {"conv02", "down"}
    assert np.allclose(dense(got, "conv02", 6), b1 * s2.reshape(1, -1, 1, 1), rtol=1e-6)
    down = b1 * scale(network.down_bn).reshape(1, -1, 1, 1)
    assert np.allclose(dense(got, "down", 6), down, rtol=1e-6)


class Inverted(nn.Module):
    """An inverted residual of MobileNet: expand, depthwise, project, add."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.expand, self.bn1 = nn.Conv2d(4, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.depth = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False)
        self.bn2, self.bn3 = nn.BatchNorm2d(12), nn.BatchNorm2d(4)
        self.project, self.end = nn.Conv2d(12, 4, 1, bias=False), nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        x = F.relu6(self.stem(images))
        y = F.relu6(self.bn1(self.expand(x)))
        y = F.hardswish(self.bn2(self.depth(y)))
        return self.end(x + self.bn3(self.project(y)))


def test_an_inverted_residual_through_its_depthwise_convolution() -> None:
    network = made(Inverted)
    s1, s2, s3 = (scale(getattr(network, f"bn{k}"))[:, None, None, None] for k in (1, 2, 3))
    expand, depth, project = full(network.expand), full(network.depth), full(network.project)
    between = chained(project * s3, depth * s2)
    got = found(network, "end", "expand")
    assert np.allclose(dense(got, "expand", 12), between * s1.reshape(1, -1, 1, 1), rtol=1e-5)
    by_hand = chained(between, expand * s1) + padded(np.eye(4)[..., None, None], 3)
    got = found(network, "end", "stem")
    assert np.allclose(dense(got, "stem", 4), by_hand, rtol=1e-5, atol=1e-7)


def test_the_demo_network_by_its_own_kernels() -> None:
    network = made(DemoNet)
    got = found(network, "conv4", "conv1", "conv2", "conv3", size=64)
    assert got.sources == ("conv3",)
    assert np.array_equal(dense(got, "conv3", 48), full(network.conv4))
    # Average pooling of 3 x 3 by steps of two lies before the second convolution.
    got = found(network, "conv2", "conv1", size=64)
    kernel, by_hand = full(network.conv2), np.zeros((40, 24, 7, 7))
    for i, j in np.ndindex(3, 3):
        pooled = kernel[:, :, i, j, None, None] / 9
        by_hand[:, :, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3] += pooled
    assert np.allclose(dense(got, "conv1", 24), by_hand, rtol=1e-5, atol=1e-8)


# --- what is kept ---------------------------------------------------------------------------------


def test_the_strongest_of_each_sign_come_first_with_their_share() -> None:
    network = made(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 5, 3)))
    kernel = full(network[2])
    got = found(network, "2", "0", most=2)
    strength, sign = np.abs(kernel).sum(axis=(2, 3)), kernel.sum(axis=(2, 3))
    for row in range(5):
        for half, is_side in ((slice(2), sign[row] >= 0), (slice(2, 4), sign[row] < 0)):
            order = [k for k in np.argsort(-strength[row]) if is_side[k]][:2]
            listed = [k for k in got.channel[row, half] if k >= 0]
            assert listed == order
            assert np.allclose(got.weight[row, half][: len(order)], sign[row, order], rtol=1e-5)
            shares = strength[row, order] / strength[row].sum()
            assert np.allclose(got.share[row, half][: len(order)], shares, rtol=1e-5)
            assert (got.source[row, half][len(order) :] == -1).all()


def test_some_channels_alone_are_as_among_all() -> None:
    network = made(lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 9, 3)))
    layers = infos(network, ["0", "2"])
    example = torch.rand(1, 3, 32, 32)
    some = connections(network, layers[1], layers[:1], example, [7, 2], 3)
    every = connections(network, layers[1], layers[:1], example, range(9), 3)
    for name, values in some.arrays.items():
        assert np.array_equal(values, every.arrays[name][[7, 2]])


def test_the_image_does_not_matter_and_the_network_stays_as_it_is() -> None:
    network = made(Basic)
    layers = infos(network, ["stem", "end"])
    state = {name: value.clone() for name, value in network.state_dict().items()}
    several = [
        connections(network, layers[1], layers[:1], torch.randn(1, 3, 32, 32) * size, [0, 3], 4)
        for size in (0.0, 1.0, 100.0)
    ]
    for other in several[1:]:
        assert np.array_equal(other.kernel, several[0].kernel)
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


# --- which layers are read ------------------------------------------------------------------------


def test_layers_that_only_pass_on_are_passed_over() -> None:
    network = made(
        lambda: nn.Sequential(
            *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 4, 3), nn.ReLU()),
        )
    )
    example, layers = torch.rand(1, 3, 32, 32), infos(network, list("012345"))

    def names(target: int) -> list[str]:
        return [info.name for info in sources_of(network, layers[target], layers, example).linear]

    assert [names(k) for k in range(6)] == [[], [], [], [], ["3"], ["3"]]


class Gated(nn.Module):
    """Squeeze-and-excite between two convolutions, and one that lies beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.out = nn.Conv2d(3, 6, 3), nn.Conv2d(12, 4, 1)
        self.beside, self.fc = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        gate = torch.sigmoid(self.fc(x.mean((2, 3), keepdim=True)))
        return self.out(torch.cat([x * gate, self.beside(images)], 1))


def test_a_gate_has_no_weights_and_what_lies_beside_it_has() -> None:
    network = made(Gated)
    got = found(network, "out", "stem", "beside", "fc")
    assert got.sources == ("beside",)
    words = "a product of two responses"
    assert got.refused == {"stem": words, "fc": words}
    assert np.array_equal(
        dense(got, "beside", 6)[..., 0, 0], array(network.out.weight)[:, 6:, 0, 0]
    )


def test_a_path_through_another_layer_does_not_count() -> None:
    class Beside(nn.Module):
        """A sum of a layer and a gated one that reads it."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner, self.out = (nn.Conv2d(n, 4, 1) for n in (3, 4, 4))

        def forward(self, images: Tensor) -> Tensor:
            x = self.stem(images)
            y = self.inner(x)
            return self.out(x + y * y.sigmoid())

    network = made(Beside)
    got = found(network, "out", "stem", "inner")
    assert got.sources == ("stem",)
    assert list(got.refused) == ["inner"]
    assert np.array_equal(dense(got, "stem", 4), full(network.out))


@pytest.mark.parametrize(
    ("between", "words"),
    [
        (lambda x: x * x, "a product of two responses"),
        (lambda x: x / x.mean(), "a division by responses"),
        (lambda x: F.softmax(x, 1), "a softmax"),
        (lambda x: F.layer_norm(x, x.shape[1:]), "a layer norm"),
        (lambda x: F.group_norm(x, 2), "a group norm"),
        (lambda x: x.square(), "Pow"),
        (lambda x: F.scaled_dot_product_attention(x, x, x), None),
        (lambda x: F.max_pool2d(x, 2, dilation=2), "dilated max pooling"),
    ],
)
def test_what_depends_on_the_image_has_no_weights(
    between: Callable[[Tensor], Tensor], words: str | None
) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)

        def forward(self, images: Tensor) -> Tensor:
            return self.last(between(self.first(images)))

    got = found(made(Network), "last", "first", most=3)
    assert got.sources == ()
    assert list(got.refused) == ["first"]
    assert words is None or got.refused["first"] == words
    assert (got.source == -1).all()


def test_tokens_are_read_at_the_central_position() -> None:
    class Tokens(nn.Module):
        """The multilayer perceptron of a transformer, behind a class token."""

        def __init__(self) -> None:
            super().__init__()
            self.patch, self.fc1, self.fc2 = (
                nn.Conv2d(3, 8, 8, 8),
                nn.Linear(8, 16),
                nn.Linear(16, 8),
            )
            self.class_token = nn.Parameter(torch.zeros(1, 1, 8))

        def forward(self, images: Tensor) -> Tensor:
            x = self.patch(images).flatten(2).transpose(1, 2)
            x = torch.cat([self.class_token, x], 1)
            return x + self.fc2(F.gelu(self.fc1(x)))

    network = made(Tokens)
    got = found(network, "fc2", "fc1", "patch")
    assert got.kernel.shape[2:] == (1, 1)
    assert np.array_equal(dense(got, "fc1", 16)[..., 0, 0], array(network.fc2.weight))
