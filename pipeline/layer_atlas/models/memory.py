"""Networks in memory: modules of the running program as models of a sweep.

A config is plain data, so it names such a module by an address, `memory:LABEL`, which only the
process that holds it can resolve. The program keeps its module as it is: the sweep works on copies
of a snapshot, which is taken on the CPU when the module is handed over.
"""

import copy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from layer_atlas.errors import UserError

MEMORY = "memory:"
"""Beginning of the address of a module in memory."""

_SHARED = ("trainer", "_trainer")
"""Attributes that copies share with the program's module: a trainer holds the training data."""

_snapshots: dict[str, nn.Module] = {}


@contextmanager
def in_memory(modules: Mapping[str, nn.Module]) -> Iterator[None]:
    """Make modules known by their addresses for the time of a sweep.

    Args:
        modules: modules of the program by address; they are copied now.
    """
    _snapshots.update({address: copied(_unwrapped(m)) for address, m in modules.items()})
    try:
        yield
    finally:
        for address in modules:
            _snapshots.pop(address, None)


def snapshot(address: str, label: str) -> nn.Module:
    """Return the snapshot of a module by its address.

    Raises:
        UserError: this process has no such module.
    """
    if address not in _snapshots:
        raise UserError(
            f"model {label!r} was a module in memory of the Python process that made its images; "
            "hand it over again with layer_atlas.run, or name a callable that returns it as target."
        )
    return _snapshots[address]


def class_name(module: nn.Module) -> str:
    """Dotted name of the class of a module: the source that `target` has for the same class."""
    cls = type(module)
    return f"{cls.__module__}.{cls.__qualname__}"


def _unwrapped(module: nn.Module) -> nn.Module:
    """Take a module out of what parallelizes or compiles it."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif is_compiled(module):
            module = module._orig_mod  # type: ignore[assignment]
        else:
            return module


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is what `torch.compile` wraps around another."""
    # Importing it takes as long as torch itself, and nothing is compiled without it.
    dynamo = sys.modules.get("torch._dynamo")
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


def copied(module: nn.Module) -> nn.Module:
    """Copy a module, its tensors to the CPU; attributes that cannot be copied are shared."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for name, value in vars(part).items():
            _remember_tensors(value, memo)
            if name in _SHARED:
                memo[id(value)] = value
    try:
        return copy.deepcopy(module, dict(memo))
    except Exception:  # noqa: BLE001 - attributes may be of any class
        _remember_uncopyable(module, memo)
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise UserError(
            f"a {type(module).__name__} in memory cannot be copied ({type(error).__name__}: "
            f"{error}); name a callable that builds it as target."
        ) from error


def _remember_tensors(value: Any, memo: dict[int, Any]) -> None:
    """Note copies of tensors, also of results of computations, which `deepcopy` refuses."""
    if isinstance(value, Tensor):
        # Tensors of some kinds cannot be copied so: lazy ones, those on the meta device.
        with suppress(Exception), torch.no_grad():
            number = value.detach().to("cpu", copy=True)
            is_parameter = isinstance(value, nn.Parameter)
            memo.setdefault(id(value), nn.Parameter(number, False) if is_parameter else number)
    elif isinstance(value, list | tuple | set):
        for item in value:
            _remember_tensors(item, memo)
    elif isinstance(value, dict):
        for item in value.values():
            _remember_tensors(item, memo)


def _remember_uncopyable(module: nn.Module, memo: dict[int, Any]) -> None:
    """Note attributes that cannot be copied, such as locks and open files, as shared."""
    for part in module.modules():
        for name, value in vars(part).items():
            if name == "_modules" or isinstance(value, nn.Module):
                continue
            try:
                # On a copy of the memo: what fails leaves half-made objects behind.
                copy.deepcopy(value, dict(memo))
            except Exception:  # noqa: BLE001
                memo[id(value)] = value
