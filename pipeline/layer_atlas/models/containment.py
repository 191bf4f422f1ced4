"""Containment: whatever a network's own code does to itself or to the process is undone.

Networks are inspected by trying: they are built, traced, run on images of several sizes. User code
may change modes, caches, hooks, the default dtype or the working folder on the way. Whoever tries,
does it inside `contained` and, on a module that is used again, inside `restored`.
"""

import os
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_Setting = tuple[Callable[[], Any], Callable[[Any], Any]]


def _of_cudnn(name: str) -> _Setting:
    backend = torch.backends.cudnn
    return lambda: getattr(backend, name), lambda value: setattr(backend, name, value)


def _set_default_device(device: torch.device) -> None:
    torch.set_default_device(None if device.type == "cpu" else device)


_SETTINGS: Sequence[_Setting] = (
    (torch.get_default_device, _set_default_device),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    *map(_of_cudnn, ("benchmark", "deterministic", "allow_tf32")),
)
"""What decides how torch computes, for the whole process: how it is read and written."""

_CONTAINERS = (dict, list, set, deque)


@contextmanager
def contained(seed: int | None = None) -> Iterator[None]:
    """Restore what is global: random numbers, settings of torch, working folder.

    Args:
        seed: of torch's, Python's and numpy's random numbers while inside; `None` leaves them.
    """
    folder, settings = Path.cwd(), [(read(), read, write) for read, write in _SETTINGS]
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
        for known, read, write in settings:
            if read() != known:
                write(known)
        with suppress(OSError):  # the folder may be gone
            os.chdir(folder)


@contextmanager
def restored(network: nn.Module) -> Iterator[None]:
    """Restore a network: modes, hooks, parameters and whatever its modules keep in attributes.

    Containers are restored in place, one level deep: handles of hooks refer to them. So are the
    numbers of tensors.
    """
    before = [(module, _snapshot(module)) for module in network.modules()]
    numbers = [(t, t.clone()) for module in network.modules() for t in _written_tensors(module)]
    try:
        with contained():
            yield
    finally:
        for module, snapshot in before:
            _restore(module, snapshot)
        for tensor, known in numbers:
            if not torch.equal(tensor, known):
                tensor.copy_(known)


def tensors_of(network: nn.Module) -> list[Tensor]:
    """Parameters and buffers, those that are not saved included, in order."""
    return [*network.parameters(), *network.buffers()]


def _snapshot(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Every attribute of a module; of a container what it holds as well."""
    return {
        name: (value, value.copy() if isinstance(value, _CONTAINERS) else None)
        for name, value in vars(module).items()
    }


def _written_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Tensors that a module may write to in its forward: parameters, buffers, others it keeps."""
    for value in vars(module).values():
        held = value.values() if isinstance(value, dict) else value
        for part in held if isinstance(value, _CONTAINERS) else (value,):
            if isinstance(part, Tensor):
                yield part.detach()


def _restore(module: nn.Module, snapshot: dict[str, tuple[Any, Any]]) -> None:
    attributes = vars(module)
    attributes.clear()
    for name, (value, content) in snapshot.items():
        attributes[name] = value
        if content is not None:
            _refill(value, content)


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, list | deque):
        container.extend(content)
    else:
        container.update(content)
