"""What modules consist of besides weights shows in a digest, every part of it, or there is none."""

import functools
import os
import subprocess
import sys
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from layer_atlas.config.config import ModelConfig
from layer_atlas.models.digests import structure_digest
from layer_atlas.models.load import load_network

Pair = namedtuple("Pair", "left right")
Colour = Enum("Colour", "RED BLUE")


@dataclass
class Record:
    """A plain record."""

    value: Any


class Owner:
    """A plain object."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def method(self) -> Any:
        return self.value


class Slots:
    """An object whose content does not show."""

    __slots__ = ("value",)


def enclosing(value: Any) -> Callable[[], Any]:
    return lambda: value


def optional(argument: Any) -> Callable[..., Any]:
    return lambda x=argument: x


def holding(value: Any) -> str | None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval()
    module[1].held = value
    return structure_digest(module)


WAYS: dict[str, Callable[[Any], Any]] = {
    "itself": lambda x: x,
    "list": lambda x: [1, x],
    "tuple": lambda x: (x,),
    "named tuple": lambda x: Pair(1, x),
    "dict": lambda x: {"a": {"b": x}},
    "ordered": lambda x: OrderedDict(a=x),
    "deque": lambda x: deque([x]),
    "set": lambda x: {x, "and more"},
    "record": Record,
    "object": Owner,
    "method": lambda x: Owner(x).method,
    "enclosed": enclosing,
    "default": optional,
    "partial": lambda x: functools.partial(max, x),
    "keyword": lambda x: functools.partial(F.relu, inplace=x),
    "module": lambda x: nn.Sequential(OrderedDict(a=nn.LeakyReLU(x))),
    "tensor": lambda x: torch.tensor([0.0, x]),
    "array": lambda x: np.array([x]),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_number_counts_wherever_it_is_held(way: str) -> None:
    digests = [holding(WAYS[way](value)) for value in (0.5, 0.5, 0.25)]
    assert digests[0] is not None
    assert digests[0] == digests[1] != digests[2]


def _double(x: Any) -> Any:
    return x * 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (True, 1),
        (1, 1.0),
        ("1", 1),
        (0.0, -0.0),
        (None, False),
        ([1, 2], (1, 2)),
        ([1, 2], [2, 1]),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (torch.relu, torch.sigmoid),
        (F.relu, F.gelu),
        (nn.ReLU, nn.GELU),
        (lambda x: x + 1, lambda x: x + 2),
        (lambda x: x.sin(), lambda x: x.cos()),
        (Colour.RED, Colour.BLUE),
        (torch.float32, torch.float16),
        (torch.zeros(2), torch.zeros(1, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int32)),
        (Path("a"), Path("b")),
        (np.float32(1), np.float64(1)),
    ],
)
def test_values_that_differ_have_other_digests(one: Any, other: Any) -> None:
    assert None not in (holding(one), holding(other))
    assert holding(one) != holding(other)


@pytest.mark.parametrize(
    "value",
    [
        (x for x in ()),
        iter([]),
        sys.__stderr__,
        Slots(),
        [].append,
        np.array([object()]),
        np.random.default_rng(0),
        torch.Generator(),
        [{"deep": Owner(Slots())}],
        enclosing(Slots()),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_described_leaves_no_digest(value: Any) -> None:
    assert holding(value) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net[1].train(),
        lambda net: setattr(net[0], "stride", (2, 2)),
        lambda net: setattr(net[0], "padding", (1, 1)),
        lambda net: net[2].register_buffer("more", torch.ones(1), persistent=False),
        lambda net: net[2].running_mean.add_(1.0),
        lambda net: net[0].register_forward_hook(lambda module, args, out: out * 2),
        lambda net: net[0].register_forward_pre_hook(lambda module, args: args),
        lambda net: setattr(net[1], "forward", torch.sigmoid),
        lambda net: net.append(nn.Identity()),
        lambda net: net.append(net[1]),
        lambda net: net.__setitem__(1, nn.ReLU(inplace=True)),
    ],
)
def test_every_change_of_a_network_shows(change: Callable[[nn.Sequential], Any]) -> None:
    def build() -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()

    network = build()
    before = structure_digest(network)
    assert before == structure_digest(build())
    change(network)
    assert structure_digest(network) not in (before, None)


def test_a_module_that_is_shared_is_not_a_second_one() -> None:
    shared = nn.ReLU()
    twice = nn.Sequential(shared, shared), nn.Sequential(nn.ReLU(), nn.ReLU())
    assert structure_digest(twice[0]) != structure_digest(twice[1])


def test_what_refers_to_itself_is_described() -> None:
    def build() -> nn.Module:
        network = nn.Sequential(nn.ReLU())
        network[0].outer = [network]
        return network

    assert structure_digest(build()) == structure_digest(build()) is not None


@pytest.mark.parametrize("name", ["demo", "squeezenet1_1", "timm/vit_tiny_patch16_224"])
def test_other_processes_compute_the_same(name: str) -> None:
    code = (
        "from layer_atlas.config.config import ModelConfig\n"
        "from layer_atlas.models.load import load_network\n"
        "from layer_atlas.models.digests import structure_digest\n"
        f"print(structure_digest(load_network(ModelConfig({name!r}, weights='none')).module))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    network = load_network(ModelConfig(name, weights="none")).module
    assert done.stdout.strip() == structure_digest(network) is not None
