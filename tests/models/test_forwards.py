"""Activations are captured as they are, and nothing beyond them runs."""

from collections.abc import Callable
from itertools import chain

import pytest
import torch
from nets import (
    NETWORKS,
    SIZE,
    captured_by_hand,
    described,
    every_network,
    forward_to,
    has_hooks,
    plain,
)
from torch import Tensor, nn
from toys import example, layer_of, pointwise, random_network

from layer_atlas.models.introspection import describe_layers


@every_network
def test_captured_activation_is_what_the_layer_returned(make: Callable[[], nn.Module]) -> None:
    network = make()
    for batch, seed in ((1, 0), (3, 1)):
        x = example(SIZE, batch, seed)
        for layer in described(network).values():
            forward = forward_to(network, [layer], example(SIZE))
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
        (seen,) = forward_to(network, [layer], example(SIZE))(x * 1)
        (gradient,) = torch.autograd.grad(seen[:, 0].sum(), x)
        assert gradient.abs().sum() > 0, layer.name


def test_other_image_sizes_pass_through_the_capture() -> None:
    network = plain()
    layer = layer_of(network, "3", SIZE)
    assert forward_to(network, [layer], example(SIZE))(example(24))[0].shape == (1, 4, 20 * 20)


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
    responses = forward_to(network, [layer_of(network, "0")], example(SIZE))
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
    responses = forward_to(network, [layer_of(network, "conv")], example(SIZE))
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


@pytest.mark.slow
def test_layer_that_returns_a_tuple_is_traced_too(monkeypatch: pytest.MonkeyPatch) -> None:
    # As the workbench has it: else attention takes another way where a hook looks at it.
    monkeypatch.setattr("torch.backends.mha._is_fastpath_enabled", False)
    network = AttendsAside().eval().requires_grad_(False)
    responses = forward_to(network, [layer_of(network, "attention")], example(SIZE))
    calls = []
    handle = network.aside.register_forward_hook(lambda *_: calls.append(1))
    assert responses(example(SIZE, 2))[0].shape == (2, 3, SIZE * SIZE)
    handle.remove()
    assert not calls


def test_exceptions_of_the_network_come_out_and_leave_no_hooks() -> None:
    wire: list[bool] = []
    network = random_network(nn.Conv2d(3, 3, 3), Untraceable(), Bomb(wire), nn.Conv2d(3, 2, 3))
    layer = layer_of(network, "3")
    responses = forward_to(network, [layer], example(SIZE))
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
    responses = forward_to(network, [layer_of(network, name)], example(SIZE))
    with pytest.raises(RuntimeError, match="channels"):
        responses(torch.zeros(1, 5, SIZE, SIZE))
    assert not has_hooks(network)
