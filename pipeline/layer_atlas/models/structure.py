"""Structure digest: what the modules of a network consist of besides weights.

Classes, modes, hooks and attributes of every module count, at any depth: numbers, texts, functions
with what they enclose, plain objects, tensors that are no parameters. A network that holds anything
that cannot be described, such as an open file or a generator, has no digest.
"""

import dataclasses
import functools
import hashlib
import inspect
import types
from collections import deque
from collections.abc import Iterable
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from layer_atlas.config.records import canonical_json

_LITERAL = (
    *(type(None), bool, int, float, complex, str, bytes, range, slice, type(...), PurePath),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
_HOOKS = frozenset(name for name in vars(nn.Module()) if "hooks" in name)
_HEAP_TYPE = 1 << 9
"""Flag of classes that are written in Python (`Py_TPFLAGS_HEAPTYPE`)."""


class _NotDescribable(Exception):
    """A value of a kind whose content cannot be read."""


def structure_digest(network: nn.Module) -> str | None:
    """Compute the SHA-256 over all that the modules of a network hold; `None` if it is unknown."""
    try:
        text = canonical_json(_Description().of(network))
    except (_NotDescribable, RecursionError):
        return None
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


class _Description:
    """Describes values as plain data; what was described before is referred to by its number."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._held: list[Any] = []

    def of(self, value: Any) -> Any:
        """Describe a value.

        Raises:
            _NotDescribable: it holds something of an unknown kind.
        """
        if isinstance(value, Enum):
            return [_name(type(value)), value.name]
        if isinstance(value, _LITERAL):
            return [_name(type(value)), repr(value)]
        if isinstance(value, type | types.ModuleType) or _is_builtin_function(value):
            return [_name(type(value)), _name(value)]
        if id(value) in self._numbers:
            return ["again", self._numbers[id(value)]]
        self._numbers[id(value)] = len(self._numbers)
        self._held.append(value)  # else another object could get its address
        return [_name(type(value)), self._content(value)]

    def _content(self, value: Any) -> Any:
        if isinstance(value, Tensor | np.ndarray | np.generic):
            return _numbers_in(value)
        if isinstance(value, nn.Module):
            return [[name, self._attribute(name, part)] for name, part in vars(value).items()]
        if isinstance(value, dict):
            return self._all(part for pair in value.items() for part in pair)
        if isinstance(value, list | tuple | deque):
            return self._all(value)
        if isinstance(value, set | frozenset):
            return sorted(map(canonical_json, self._all(value)))
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, types.MethodType):
            return self._all((value.__func__, value.__self__))
        if isinstance(value, functools.partial):
            return self._all((value.func, value.args, value.keywords))
        return self._object(value)

    def _all(self, values: Iterable[Any]) -> list[Any]:
        return [self.of(value) for value in values]

    def _attribute(self, name: str, value: Any) -> Any:
        # The keys of hooks count the hooks of the process, whichever network they are of.
        return self._all(value.values()) if name in _HOOKS and value else self.of(value)

    def _function(self, function: types.FunctionType) -> Any:
        enclosed = inspect.getclosurevars(function).nonlocals if function.__closure__ else {}
        held = (function.__defaults__, function.__kwdefaults__, enclosed)
        return [_name(function), _code(function.__code__), self._all(held)]

    def _object(self, value: Any) -> Any:
        bases = [base for base in type(value).__mro__ if base is not object]
        is_plain = all(base.__flags__ & _HEAP_TYPE for base in bases) and hasattr(value, "__dict__")
        has_slots = any(getattr(base, "__slots__", ()) for base in bases)
        if not is_plain or (has_slots and not dataclasses.is_dataclass(value)):
            raise _NotDescribable(_name(type(value)))
        return self.of(dict(vars(value)))


def _is_builtin_function(value: Any) -> bool:
    """Return whether a value is a function of a compiled module, rather than an object's method."""
    is_builtin = isinstance(value, types.BuiltinFunctionType)
    return is_builtin and isinstance(value.__self__, type(None) | type | types.ModuleType)


def _name(value: Any) -> str:
    """Return the full name of a class, function or module."""
    qualified = getattr(value, "__qualname__", value.__name__)
    return f"{getattr(value, '__module__', '')}.{qualified}"


def _code(code: types.CodeType) -> list[str]:
    """Describe what a function does; which tells two lambdas of one name apart."""
    inner = [part for constant in code.co_consts for part in _constant(constant)]
    return [code.co_code.hex(), *code.co_names, *inner]


def _constant(constant: Any) -> list[str]:
    return _code(constant) if isinstance(constant, types.CodeType) else [repr(constant)]


def _numbers_in(value: Any) -> Any:
    if isinstance(value, nn.Parameter):  # of which the digest of the weights has the numbers
        return [str(value.dtype), list(value.shape)]
    try:
        array = value.detach().cpu().contiguous() if isinstance(value, Tensor) else value
        kind, shape = str(array.dtype), list(array.shape)
        if isinstance(array, Tensor):
            array = array.flatten().view(torch.uint8).numpy()
        if array.dtype.hasobject:
            raise _NotDescribable("an array of objects")
        return [kind, shape, hashlib.sha256(array.tobytes()).hexdigest()]
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise _NotDescribable(str(error)) from error
