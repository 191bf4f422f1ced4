"""Checkpoints for tests: a small network, its tensors, and files as libraries write them."""

import pickle
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layer_atlas.config.config import ModelConfig
from layer_atlas.models.load import Network, load_network

State = dict[str, Tensor]


class Net(nn.Module):
    """A convolution, a block with a batch norm, and a head."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.fc = nn.Linear(4, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.block(self.conv1(images)).mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Wrapped(nn.Module):
    """Normalises images and passes them on, as a user wraps a network."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Net()

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images - 0.5)  # type: ignore[no-any-return]


def state_of(seed: int, classes: int = 5) -> State:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(t.shape, generator=generator) if t.is_floating_point() else t + seed
        for name, t in Net(classes).state_dict().items()
    }


MINE, OTHER = state_of(1), state_of(2)
"""What the network must hold in the end, and what other networks in the same file have."""


def prefixed(prefix: str, state: State = MINE) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def network_of(state: State, kind: Callable[[], nn.Module] = Net) -> nn.Module:
    network = kind()
    network.load_state_dict(state)
    return network


def load(path: Path | str, **entry: Any) -> Network:
    target = entry.pop("target", "checkpoint_files.Net")
    return load_network(ModelConfig("net", target=target, weights=str(path), **entry))


# --- files ---------------------------------------------------------------------------------------

Write = Callable[[Path], Path]


def saved(value: Any, name: str = "w.pth", **how: Any) -> Write:
    """Write a value, or what a function returns."""

    def write(folder: Path) -> Path:
        made = value() if isinstance(value, types.FunctionType) else value
        torch.save(made, folder / name, **how)
        return folder / name

    return write


def legacy(value: Any, name: str = "w.pth") -> Write:
    return saved(value, name, _use_new_zipfile_serialization=False)


def pickled(value: Any, protocol: int, name: str = "w.pkl") -> Write:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(pickle.dumps(value, protocol=protocol))
        return folder / name

    return write
