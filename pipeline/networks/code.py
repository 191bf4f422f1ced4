"""The code of a network, as part of its identity: with the same weights, other code is another
network.

A user's own code counts by its source, comments and formatting aside, and so does whatever code of
the user's own it imports. Installed packages count by name and version; torch itself does not.
"""

import ast
import hashlib
import inspect
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

_THIS = __name__.partition(".")[0]
_UNCOUNTED = frozenset({"torch", "builtins"})
"""Packages whose version decides rounding rather than what is computed."""


def code_digest(network: nn.Module, factory: Callable[..., Any] | None = None) -> str:
    """SHA-256 (hex) over the code that a network consists of.

    Args:
        network: its modules' classes, and their bases, count.
        factory: the user's own callable that built it, if there is one.
    """
    classes = {base for module in network.modules() for base in type(module).__mro__}
    roots = {cls.__module__ for cls in classes}
    if factory is not None:
        roots.add(getattr(_innermost(factory), "__module__", None) or "")
    counted = {name for name in roots if name.partition(".")[0] not in _UNCOUNTED}
    own = _own_sources(counted)
    packages = {_package(name) for name in counted - set(own)}
    loose = {source for cls in classes if cls.__module__ not in own and (source := _loose(cls))}
    listed = [sorted(own.items()), sorted(filter(None, packages)), sorted(loose)]
    return hashlib.sha256(repr(listed).encode()).hexdigest()


def _own_sources(roots: set[str]) -> dict[str, str]:
    """Digests of the user's own source files: of some modules, and of what they import."""
    found: dict[str, str] = {}
    waiting = sorted(roots)
    while waiting:
        name = waiting.pop()
        module = sys.modules.get(name)
        path = None if module is None or name in found else _own_source(module)
        if module is not None and path is not None:
            found[name] = _meaning(path, path.stat().st_mtime_ns)
            waiting += [] if _is_of_this(name) else _imported(module)
    return found


def _is_of_this(name: str) -> bool:
    """Whether a module belongs to this project, whose other code is no part of a network."""
    return name.partition(".")[0] == _THIS


def _innermost(factory: Callable[..., Any]) -> Callable[..., Any]:
    while isinstance(factory, partial):
        factory = factory.func
    inner: Callable[..., Any] = inspect.unwrap(factory)
    return inner


def _loose(cls: type) -> str:
    """Digest of a class that was typed into a session rather than written in a file."""
    module = sys.modules.get(cls.__module__)
    if module is None or getattr(module, "__file__", None) or cls.__module__ == "builtins":
        return ""
    try:
        return _digest_of(inspect.getsource(cls))
    except (OSError, TypeError):
        return ""


def _own_source(module: ModuleType) -> Path | None:
    """The source file of a module that is the user's own, or this project's; else `None`."""
    file = getattr(module, "__file__", None)
    if not file or not file.endswith(".py") or not Path(file).is_file():
        return None
    path = Path(file).resolve()
    installed = any(path.is_relative_to(folder) for folder in _installed_folders())
    return None if installed and not _is_of_this(module.__name__) else path


@cache
def _installed_folders() -> tuple[Path, ...]:
    """Where installed packages and the standard library are."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [*map(sysconfig.get_path, names), *site.getsitepackages(), site.getusersitepackages()]
    return tuple(Path(folder).resolve() for folder in folders if folder)


@cache
def _meaning(path: Path, changed: int) -> str:
    """Digest of a source file without comments, docstrings and formatting."""
    return _digest_of(path.read_text(encoding="utf-8", errors="replace"))


def _digest_of(text: str) -> str:
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return hashlib.sha256(text.encode()).hexdigest()
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [s for s in body if not _is_text(s)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(statement: ast.stmt) -> bool:
    """Whether a statement is a docstring, or another text that does nothing."""
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _imported(module: ModuleType) -> Iterator[str]:
    """Names of the modules that a module's globals are, or come from."""
    for value in list(vars(module).values()):
        if isinstance(value, ModuleType):
            yield value.__name__
        elif inspect.isclass(value) or inspect.isroutine(value):
            yield getattr(value, "__module__", None) or ""


def _package(name: str) -> tuple[str, str] | None:
    """The installed package of a module and its version, if it has one."""
    for distribution in _distributions().get(name.partition(".")[0], ())[:1]:
        return distribution, metadata.version(distribution)
    return None


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())
