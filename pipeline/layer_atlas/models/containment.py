"""Containment: undo whatever a network's own code does to itself or to the process.

Introspection runs networks: it builds them, traces them and feeds them images of several sizes.
User code may change modes, caches, hooks, the default dtype or the working folder while it runs.
Such runs belong inside `contained` and, for a module that is used again, inside `restored`.
"""

import os
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

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
    # Off, warnings or errors: three states, of which `use_deterministic_algorithms` sets two.
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    *map(_of_cudnn, ("benchmark", "deterministic", "allow_tf32")),
)
"""Process-wide settings of torch's arithmetic, each as a getter and a setter."""

_CONTAINERS = (dict, list, set, deque)


@contextmanager
def contained(seed: int | None = None) -> Iterator[None]:
    """Restore global state on exit: random number generators, torch settings, working folder.

    Args:
        seed: seed of torch's, Python's and numpy's generators inside; `None` leaves them unchanged.
    """
    folder, settings = Path.cwd(), [(read(), read, write) for read, write in _SETTINGS]
    python, numpy = random.getstate(), np.random.get_state()
    try:
        # `devices=[]`: reading the CUDA generators would initialise CUDA on every GPU.
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
        # Written only when changed: some setters have side effects of their own, such as the
        # function mode that `set_default_device` installs.
        for before, read, write in settings:
            if read() != before:
                write(before)
        with suppress(OSError):  # the folder may be gone
            os.chdir(folder)


@contextmanager
def restored(network: nn.Module) -> Iterator[None]:
    """Restore a network on exit: modes, hooks, parameters and all attributes of its modules.

    Containers are restored in place, one level deep, because hook handles refer to them. The values
    of tensors are restored too.
    """
    snapshots = [(module, _snapshot(module)) for module in network.modules()]
    # By reference and by value: batch norms and caches write into the tensors that they keep.
    numbers = [(t, t.clone()) for module in network.modules() for t in _written_tensors(module)]
    try:
        with contained():
            yield
    finally:
        for module, snapshot in snapshots:
            _restore(module, snapshot)
        for tensor, value in numbers:
            if not torch.equal(tensor, value):  # a needless write would invalidate autograd graphs
                tensor.copy_(value)


@contextmanager
def attached(handles: Iterable[RemovableHandle]) -> Iterator[None]:
    """Remove hooks on exit, also after an error: the same module serves the next layers."""
    hooks = list(handles)
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def tensors_of(network: nn.Module) -> list[Tensor]:
    """Return parameters and buffers in order, including non-persistent buffers."""
    return [*network.parameters(), *network.buffers()]


def _snapshot(module: nn.Module) -> dict[str, tuple[Any, Any]]:
    """Capture every attribute of a module, and a copy of the contents of containers."""
    return {
        name: (value, value.copy() if isinstance(value, _CONTAINERS) else None)
        for name, value in vars(module).items()
    }


def _written_tensors(module: nn.Module) -> Iterator[Tensor]:
    """Yield tensors that a forward may write to: parameters, buffers and other attributes."""
    for value in vars(module).values():
        held = value.values() if isinstance(value, dict) else value
        for part in held if isinstance(value, _CONTAINERS) else (value,):
            if isinstance(part, Tensor):
                yield part.detach()


def _restore(module: nn.Module, snapshot: dict[str, tuple[Any, Any]]) -> None:
    attributes = vars(module)
    # vars() is written directly: `setattr` of nn.Module would register and check.
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
