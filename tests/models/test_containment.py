"""What user code does while a network is tried leaves no trace."""

import os
import random
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from layer_atlas.models.containment import contained, restored


def state_of_the_process() -> tuple[object, ...]:
    return (
        Path.cwd(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_grad_enabled(),
        torch.get_deterministic_debug_mode(),
        torch.get_rng_state().sum().item(),
        random.getstate(),
        str(np.random.get_state()),
    )


def test_everything_global_is_as_before(tmp_path: Path) -> None:
    before = state_of_the_process()

    def everything() -> None:
        os.chdir(tmp_path)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        torch.set_grad_enabled(False)
        torch.rand(3), random.random(), np.random.rand()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), contained(seed=3):
        everything()
    assert state_of_the_process() == before


@pytest.mark.parametrize("mode", ["default", "warn", "error"])
def test_the_mode_of_deterministic_algorithms_is_as_before(mode: str) -> None:
    before = torch.get_deterministic_debug_mode()
    try:
        torch.set_deterministic_debug_mode(mode)
        known = state_of_the_process()
        with contained():
            torch.use_deterministic_algorithms(mode == "default")
        assert state_of_the_process() == known
    finally:
        torch.set_deterministic_debug_mode(before)


def test_a_seed_makes_random_numbers_the_same_every_time() -> None:
    def draw(seed: int) -> tuple[float, float, float]:
        with contained(seed):
            return float(torch.rand(())), random.random(), float(np.random.rand())

    assert draw(1) == draw(1)
    assert not set(draw(1)) & set(draw(2))


class Busy(nn.Module):
    """Changes everything that it can reach."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.kept: list[Tensor] = []
        self.by_name: dict[str, Tensor] = {}
        self.ordered: OrderedDict[str, int] = OrderedDict()
        self.seen: set[int] = set()
        self.last: Tensor | None = None
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        self.kept.append(y)
        self.by_name["y"] = y
        self.ordered["n"] = len(x)
        self.seen.add(len(x))
        self.last = y
        self.added = y
        self.late = nn.Linear(2, 2)
        self.register_buffer("grid", y.detach())
        self.conv.register_forward_hook(lambda *_: None)
        self.calls += 1
        self.conv.weight.data.zero_()
        self.conv.weight = nn.Parameter(torch.zeros(2, 3, 1, 1))
        self.train()
        del self.by_name
        return y


def test_a_network_is_as_before() -> None:
    network = Busy().eval()
    handle = network.conv.register_forward_hook(lambda *_: None)
    weight, value = network.conv.weight, network.conv.weight.detach().clone()
    before = {module: dict(vars(module)) for module in network.modules()}
    containers = [network.kept, network.by_name, network.ordered, network.seen]
    with restored(network):
        network(torch.ones(1, 3, 4, 4))
    assert {module: dict(vars(module)) for module in network.modules()} == before
    assert containers == [[], {}, {}, set()]
    assert network.conv.weight is weight
    assert torch.equal(weight, value)
    assert network.calls == 0
    assert not network.training
    assert not network.conv.training
    handle.remove()  # which refers to the mapping of hooks itself
    assert not network.conv._forward_hooks
