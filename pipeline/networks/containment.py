"""Containment: whatever a network's own code does to itself or to the process is undone.

Networks are inspected by trying: they are built, traced, run on images of several sizes. User code
may change modes, caches, hooks, the default dtype or the working folder on the way. Whoever tries,
does it inside `contained` and, on a module that is used again, inside `restored`.
"""

import os
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_CONTAINERS = (dict, list, set)


@contextmanager
def contained(seed: int | None = None) -> Iterator[None]:
    """Restore what is global: random numbers, gradient mode, defaults, working folder.

    Args:
        seed: of torch's, Python's and numpy's random numbers while inside; `None` leaves them.
    """
    folder, dtype, grad = Path.cwd(), torch.get_default_dtype(), torch.is_grad_enabled()
    device = torch.get_default_device()
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if seed is not None:
                torch.manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(grad)
        if torch.get_default_device() != device:
            torch.set_default_device(None if device.type == "cpu" else device)
        with suppress(OSError):  # the folder may be gone
            os.chdir(folder)


@contextmanager
def restored(network: nn.Module) -> Iterator[None]:
    """Restore a network: modes, hooks, parameters and whatever its modules keep in attributes.

    Containers are restored in place, one level deep: handles of hooks refer to them. So are the
    values of parameters and buffers.
    """
    before = [(module, _snapshot(module)) for module in network.modules()]
    values = [(tensor, tensor.detach().clone()) for tensor in tensors_of(network)]
    try:
        with contained():
            yield
    finally:
        for module, snapshot in before:
            _restore(module, snapshot)
        with torch.no_grad():
            for tensor, value in values:
                if tensor.shape != value.shape or not torch.equal(tensor, value):
                    tensor.set_(value)


def tensors_of(network: nn.Module) -> list[Tensor]:
    """Parameters and buffers, those that are not saved included, in order."""
    return [*network.parameters(), *network.buffers()]


def _snapshot(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Every attribute of a module; of a container what it holds as well."""
    return {
        name: (value, value.copy() if isinstance(value, _CONTAINERS) else None)
        for name, value in vars(module).items()
    }


def _restore(module: nn.Module, snapshot: dict[str, tuple[Any, Any]]) -> None:
    attributes = vars(module)
    attributes.clear()
    for name, (value, content) in snapshot.items():
        attributes[name] = value
        if content is not None:
            _refill(value, content)


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list):
        container.extend(content)
    else:
        container.update(content)
