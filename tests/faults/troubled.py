"""A small network that gets into trouble in workers, and nowhere else.

What the trouble is, a test says by name (`TROUBLE`): a function that is called in each forward pass
between the two layers. Without a name the same network makes the undisturbed atlas.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from layer_atlas.imports import import_callable
from layer_atlas.models.device_model import PROBES
from layer_atlas.sweep.heartbeat import DEVICE_VARIABLE

TROUBLE = "LAYER_ATLAS_TEST_TROUBLE"
"""Dotted name of a function of the activations (B, 8, h, w) of the first layer."""

HOLD = Path("hold")
"""While this file is in the current folder, workers stay where they are."""

PATIENCE = 120
"""Seconds after which a worker stops waiting; the test has failed by then."""


class Troubled(nn.Module):
    """Two convolutions: `first` has 8 channels and is always well, `second` has 24."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 24, 3)
        self.trouble = _trouble()

    def forward(self, images: Tensor) -> Tensor:
        x = torch.relu(self.first(images))
        # So that nothing can trace, and trouble comes in every forward pass of a batch of jobs; the
        # self-check shows two images.
        if len(x) > PROBES:
            self.trouble(x)
        return self.second(x)


def build() -> nn.Module:
    """The network, with the same random weights every time."""
    return Troubled()


def _trouble() -> Callable[[Tensor], None]:
    name = os.environ.get(TROUBLE)
    if name is None or DEVICE_VARIABLE not in os.environ:
        return lambda x: None
    return import_callable(name, TROUBLE, "that makes trouble")


def wait(x: Tensor) -> None:
    """Stay here while the test holds the workers, and say so."""
    if HOLD.exists():
        Path(f"held.{os.getpid()}").touch()
    end = time.monotonic() + PATIENCE
    while HOLD.exists():
        assert time.monotonic() < end, "held for too long"
        time.sleep(0.01)


def first_time(event: str) -> bool:
    """Whether no process has asked for this event before."""
    try:
        Path(event).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
