"""Graphs of networks: cut at what modules return, with the network left as it was."""

from collections.abc import Callable

import pytest
import torch
from nets import has_hooks
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models as zoo
from toys import example

from layer_atlas.models.containment import contained
from layer_atlas.models.graph import simplify, trace


class Early(nn.Module):
    """A block that returns the first thing it computed, in a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.first(x)
        return y, self.second(y)


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block, self.last = Early(), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.block(x)[1])


def test_a_cut_ends_at_what_the_module_returned() -> None:
    network, x = Whole().eval(), example()
    found = trace(network)
    assert found is not None
    for name, expected in [
        ("block", network.block.first(x)),
        ("block.second", network.block(x)[1]),
        ("output", network(x)),
    ]:
        graph = found.cut([name])
        assert graph is not None
        assert torch.equal(graph(x)[0], expected)


class Keeps(nn.Module):
    """Keeps what it computes, and a constant made on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.kept: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.conv(x) * torch.full((4, 1, 1), 2.0)
        self.kept.append(self.last)
        return self.last


@pytest.mark.parametrize("training", [False, True])
def test_tracing_leaves_no_proxies_and_no_other_mode(training: bool) -> None:
    network, x = Keeps().train(training), example()
    found = trace(network)
    assert network.kept == []
    assert not hasattr(network, "last")
    assert network.training == network.conv.training == training
    assert not has_hooks(network)
    assert found is not None
    graph = found.cut(["output"])
    assert graph is not None
    assert torch.equal(graph(x)[0], network.conv(x) * 2)


class Fails(nn.Module):
    """Cannot be traced, and changes its mode on the way to finding out."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        self.train()
        return x if x.sum() > 0 else self.norm(x)


def test_a_failed_trace_leaves_the_mode_alone() -> None:
    network = Fails().eval()
    assert trace(network) is None
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("name", ["mobilenet_v2", "efficientnet_b0", "swin_t", "regnet_y_400mf"])
def test_layers_inside_of_blocks_of_torchvision_are_seen(name: str) -> None:
    with contained(seed=0):
        network = zoo.get_model(name, weights=None).eval()
    found = trace(network)
    assert found is not None
    convolutions = [n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)]
    assert found.cut([convolutions[-1]]) is not None
    assert not any(module.training for module in network.modules())


class InPlace(nn.Module):
    """Overwrites what a layer returned, in each way that there is."""

    def __init__(self, activate: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.activate(self.first(x)))
        return y


IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(inplace=True),
    "other module": nn.Hardswish(inplace=True),
    "function by argument": lambda x: F.relu6(x, inplace=True),
    "function": lambda x: torch.relu_(x),
    "method": lambda x: x.relu_(),
}


@pytest.mark.parametrize("activate", IN_PLACE.values(), ids=IN_PLACE)
def test_what_a_graph_returns_is_not_overwritten_by_what_follows(
    activate: Callable[[Tensor], Tensor],
) -> None:
    network, x = InPlace(activate).eval(), example()
    found = trace(network)
    assert found is not None
    graph = found.cut(["first", "output"])
    assert graph is not None
    for computed in (graph, simplify(graph)):
        first, last = computed(x)
        assert torch.equal(first, network.first(x))
        assert torch.equal(last, network(x))
