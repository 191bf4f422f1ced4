"""The leaky gradient: the forward pass keeps its bits, the backward pass leaks, for every ReLU."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline.gradients import LeakyGradient

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
    with LeakyGradient(SLOPE):
        y = relu(x.to(dtype))
    y.backward(torch.full_like(y, 2.0))
    assert torch.equal(y, torch.relu(x.to(dtype)))
    assert torch.equal(x.grad, torch.where(x > 0, 2.0, 2.0 * SLOPE))


@pytest.mark.parametrize("relu", RELUS.values(), ids=RELUS)
def test_nothing_leaks_outside(relu: Callable[[Tensor], Tensor]) -> None:
    x = values_with_zero()
    with LeakyGradient(SLOPE):
        pass
    relu(x).sum().backward()
    assert torch.equal(x.grad, (x > 0).float())


def test_leaks_multiply_through_layers_and_other_operations_are_untouched() -> None:
    x = torch.tensor([[-1.0]], requires_grad=True)
    with LeakyGradient(SLOPE):
        y = nn.Sequential(nn.ReLU(), nn.LeakyReLU(0.5), nn.ReLU())(x)
    y.backward()
    assert x.grad.item() == pytest.approx(SLOPE * 0.5 * SLOPE)


def test_network_is_left_as_it_was() -> None:
    network = nn.Sequential(nn.ReLU(), nn.Identity())
    with pytest.raises(TypeError), LeakyGradient(SLOPE):
        network("no tensor")
    assert [type(module) for module in network] == [nn.ReLU, nn.Identity]
    assert not any(module._forward_hooks or module._backward_hooks for module in network)
    x = torch.tensor([-1.0], requires_grad=True)
    network(x).sum().backward()
    assert x.grad.item() == 0
