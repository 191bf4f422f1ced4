"""Gradients of our own: the forward pass keeps its bits, the way back is the one promised."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layer_atlas.visualization.gradients import LeakyGradient, PolyphaseStem

SLOPE = 0.25


def statement(call: Callable[[Tensor], object]) -> Callable[[Tensor], Tensor]:
    """An in-place call whose value is thrown away, as in `self.relu(x)` on a line of its own."""

    def run(x: Tensor) -> Tensor:
        y = x * 1
        call(y)
        return y

    return run


RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(),
    "module in place": lambda x: nn.ReLU(inplace=True)(x * 1),
    "functional": F.relu,
    "functional by keyword": lambda x: F.relu(input=x),
    "functional in place": lambda x: F.relu(x * 1, inplace=True),
    "functional relu_": lambda x: F.relu_(x * 1),
    "torch.relu": torch.relu,
    "torch.relu_": lambda x: torch.relu_(x * 1),
    "method": lambda x: x.relu(),
    "method in place": lambda x: (x * 1).relu_(),
    "graph": torch.fx.symbolic_trace(nn.Sequential(nn.ReLU())),
    "module as a statement": statement(nn.ReLU(inplace=True)),
    "functional as a statement": statement(lambda y: F.relu(y, inplace=True)),
    "method as a statement": statement(lambda y: y.relu_()),
}


def values_with_zero() -> Tensor:
    x = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    x[0, 0] = 0.0
    return x.requires_grad_()


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_is_bit_identical_and_backward_leaks(
    relu: Callable[[Tensor], Tensor], dtype: torch.dtype
) -> None:
    x = values_with_zero()
    with LeakyGradient(SLOPE, torch.ones(1)):
        y = relu(x.to(dtype))
    y.backward(torch.full_like(y, 2.0))
    assert torch.equal(y, torch.relu(x.to(dtype)))
    assert torch.equal(x.grad, torch.where(x > 0, 2.0, 2.0 * SLOPE))


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS)
def test_nothing_leaks_outside(relu: Callable[[Tensor], Tensor]) -> None:
    x = values_with_zero()
    with LeakyGradient(SLOPE, torch.ones(1)):
        pass
    relu(x).sum().backward()
    assert torch.equal(x.grad, (x > 0).float())


FLAT_BELOW: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], float]] = {
    "relu6": (nn.ReLU6(), nn.ReLU6(), 0.0),
    "relu6 in place": (lambda x: nn.ReLU6(inplace=True)(x * 1), nn.ReLU6(), 0.0),
    "functional relu6": (F.relu6, F.relu6, 0.0),
    "hard tanh": (nn.Hardtanh(-0.5, 0.5), nn.Hardtanh(-0.5, 0.5), -0.5),
    "hard tanh as a statement": (statement(nn.Hardtanh(-1, 1, inplace=True)), nn.Hardtanh(), -1.0),
    "hard sigmoid": (nn.Hardsigmoid(), nn.Hardsigmoid(), -3.0),
    "hard swish": (nn.Hardswish(), nn.Hardswish(), -3.0),
    "hard swish in place": (lambda x: nn.Hardswish(inplace=True)(x * 1), nn.Hardswish(), -3.0),
    "graph": (torch.fx.symbolic_trace(nn.Sequential(nn.ReLU6(inplace=True))), nn.ReLU6(), 0.0),
}


@pytest.mark.parametrize(("activation", "plain", "floor"), FLAT_BELOW.values(), ids=FLAT_BELOW)
def test_every_activation_that_is_flat_below_leaks_there_alone(
    activation: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], floor: float
) -> None:
    x = (4.0 * values_with_zero().detach()).requires_grad_()
    expected = plain(x)
    (plain_gradient,) = torch.autograd.grad(expected.sum(), x)
    with LeakyGradient(SLOPE, torch.ones(1)):
        y = activation(x * 1)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, expected)
    assert (x < floor).any()
    assert torch.equal(gradient[x < floor], 0 * x[x < floor] + SLOPE)
    interior = (x > floor) & (x != 0)
    assert torch.equal(gradient[interior], plain_gradient[interior])


def test_only_closed_samples_leak_and_the_backward_pass_decides() -> None:
    x = torch.full((3, 2, 4, 4), -1.0, requires_grad=True)
    closed = torch.zeros(3)
    for activation in (nn.ReLU(), nn.ReLU6()):
        with LeakyGradient(SLOPE, closed):
            y = activation(x).sum()
        closed.copy_(torch.tensor([0.0, 1.0, 0.0]))
        (gradient,) = torch.autograd.grad(y, x)
        assert gradient.amax((1, 2, 3)).tolist() == [0.0, SLOPE, 0.0]
        closed.zero_()


def test_rows_of_a_sample_leak_together() -> None:
    windows = torch.full((6, 4), -1.0, requires_grad=True)
    with LeakyGradient(SLOPE, torch.tensor([1.0, 0.0])):
        y = torch.relu(windows).sum()
    (gradient,) = torch.autograd.grad(y, windows)
    assert gradient[:, 0].tolist() == [SLOPE] * 3 + [0.0] * 3


def test_leaks_multiply_through_layers_and_other_operations_are_untouched() -> None:
    x = torch.tensor([[-1.0]], requires_grad=True)
    with LeakyGradient(SLOPE, torch.ones(1)):
        y = nn.Sequential(nn.ReLU(), nn.LeakyReLU(0.5), nn.ReLU())(x)
    y.backward()
    assert x.grad.item() == pytest.approx(SLOPE * 0.5 * SLOPE)


def test_network_is_left_as_it_was() -> None:
    network = nn.Sequential(nn.ReLU(), nn.Identity())
    with pytest.raises(TypeError), LeakyGradient(SLOPE, torch.ones(1)):
        network("no tensor")
    assert [type(module) for module in network] == [nn.ReLU, nn.Identity]
    assert not any(module._forward_hooks or module._backward_hooks for module in network)
    x = torch.tensor([-1.0], requires_grad=True)
    network(x).sum().backward()
    assert x.grad.item() == 0


# --- the way back to the image ---

STEMS = [
    {"kernel": 3, "stride": 2, "padding": 0, "size": 16},
    {"kernel": 3, "stride": 2, "padding": 1, "size": 15},
    {"kernel": 7, "stride": 2, "padding": 3, "size": 20},
    {"kernel": 4, "stride": 4, "padding": 0, "size": 16},
    {"kernel": 4, "stride": 4, "padding": 0, "size": 19},
    {"kernel": 11, "stride": 4, "padding": 2, "size": 33},
    {"kernel": (3, 5), "stride": 3, "padding": (0, 2), "size": 17},
    {"kernel": 1, "stride": 2, "padding": 0, "size": 9},
]


def frozen_conv(inputs: int = 3, **settings: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(inputs, 5, **settings).requires_grad_(False)


def value_and_gradient(network: nn.Module, images: Tensor, *modes: Any) -> tuple[Tensor, Tensor]:
    with ExitStack() as active:
        for mode in modes:
            active.enter_context(mode)
        value = network(images)
    weights = torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
    return value.detach(), torch.autograd.grad((value * weights).sum(), images)[0]


@pytest.mark.parametrize("stem", STEMS, ids=str)
def test_polyphase_gradient_is_the_gradient(stem: dict[str, Any]) -> None:
    settings = {"stride": stem["stride"], "padding": stem["padding"]}
    conv = frozen_conv(kernel_size=stem["kernel"], **settings)
    images = torch.randn(2, 3, stem["size"], stem["size"] + 3).requires_grad_()
    value, gradient = value_and_gradient(conv, images, PolyphaseStem())
    expected_value, expected = value_and_gradient(conv, images)
    assert torch.equal(value, expected_value)
    assert torch.allclose(gradient, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "settings", "replaced"),
    [
        (3, {"stride": 2}, True),
        (1, {"stride": 2, "bias": False}, True),
        (3, {"stride": 1}, False),
        (16, {"stride": 2}, False),
        (3, {"stride": (1, 2)}, False),
        (3, {"stride": 2, "dilation": 2}, False),
    ],
)
def test_only_strided_convolutions_of_images_take_the_other_way(
    inputs: int, settings: dict[str, Any], replaced: bool
) -> None:
    conv = frozen_conv(inputs, kernel_size=3, **settings)
    images = torch.randn(1, inputs, 12, 12).requires_grad_()
    with PolyphaseStem():
        node = conv(images).grad_fn
    assert (type(node).__name__ == "_StridedStemBackward") == replaced


def test_weights_that_learn_are_left_alone() -> None:
    conv = frozen_conv(kernel_size=3, stride=2).requires_grad_(True)
    with PolyphaseStem():
        conv(torch.randn(1, 3, 8, 8).requires_grad_()).sum().backward()
    assert conv.weight.grad is not None


def test_convolutions_under_autocast_are_left_alone() -> None:
    images = torch.rand(2, 3, 8, 8, requires_grad=True)
    conv = nn.Conv2d(3, 4, 3, stride=2).requires_grad_(False)

    def gradient() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            made = conv(images)
        return torch.autograd.grad(made.float().sum(), images)[0]

    expected = gradient()
    with PolyphaseStem():
        assert torch.equal(gradient(), expected)
