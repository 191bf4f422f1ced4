"""Functions of the package with a line of their code changed, to see that a test notices."""

import importlib
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FunctionType, ModuleType
from typing import Any


@contextmanager
def miscoded(module: str, old: str, new: str) -> Iterator[None]:
    """Run the functions of a module as if its source held other code.

    Functions stay the same objects, so that it does not matter who has imported them; constants of
    the module stay as they are.
    """
    true, source = importlib.import_module(module), source_of(module)
    assert source.count(old) == 1, f"{old!r} is not one place of {module}"
    changed = compile(source.replace(old, new), true.__file__ or "", "exec")
    codes = dict(_codes(changed))
    before = {f: f.__code__ for f in _functions(true)}
    try:
        for function in before:
            function.__code__ = codes[function.__qualname__]
        yield
    finally:
        for function, code in before.items():
            function.__code__ = code


def source_of(module: str) -> str:
    """The source of a module, by its name."""
    return inspect.getsource(importlib.import_module(module))


def _codes(code: CodeType) -> Iterator[tuple[str, CodeType]]:
    """The code of every function by its qualified name."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield inner.co_qualname, inner
            yield from _codes(inner)


def _functions(owner: ModuleType | type) -> Iterator[FunctionType]:
    """What is defined in a module: functions, methods and properties, but none that are made."""
    for item in vars(owner).values():
        for found in _unwrapped(item):
            if isinstance(found, FunctionType) and "<" not in found.__code__.co_filename:
                if found.__module__ == _name(owner):
                    yield found
            elif isinstance(found, type) and found.__module__ == _name(owner):
                yield from _functions(found)


def _unwrapped(item: Any) -> Iterator[Any]:
    """A function out of what a decorator made of it."""
    inner = (getattr(item, name, None) for name in ("fget", "func", "__wrapped__", "__func__"))
    yield next((found for found in inner if found is not None), item)


def _name(owner: ModuleType | type) -> str:
    return owner.__name__ if isinstance(owner, ModuleType) else owner.__module__
