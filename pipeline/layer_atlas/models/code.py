"""The code of a network, as part of its identity: with the same weights, other code is another
network.

A user's own code counts by its source, comments and formatting aside, and so does whatever code of
the user's own it imports; what the network's own files import inside of functions counts too.
Installed packages count by name and version; torch itself does not.
"""

import ast
import hashlib
import inspect
import site
import sys
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
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
        path = None if name in found else _own_source(name)
        if path is not None:
            source = _read(path, path.stat().st_mtime_ns)
            found[name] = source.digest
            if not _is_of_this(name):
                imports = source.inside if name in roots else source.outside
                waiting += [*_held(name), *_imported(name, path, imports)]
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


def _own_source(name: str) -> Path | None:
    """The source file of a module that is the user's own, or this project's; else `None`."""
    module = sys.modules.get(name)
    file = _unread_file(name) if module is None else getattr(module, "__file__", None)
    if not file or not file.endswith(".py") or not Path(file).is_file():
        return None
    path = Path(file).resolve()
    installed = any(path.is_relative_to(folder) for folder in _installed_folders())
    return None if installed and not _is_of_this(name) else path


def _unread_file(name: str) -> str | None:
    """The source file of a module that nothing has imported yet, and this does not either."""
    package, _, last = name.rpartition(".")
    places = [Path(folder, last) for folder in _folders(package)]
    files = (file for place in places for file in (place / "__init__.py", Path(f"{place}.py")))
    return next((str(file) for file in files if file.is_file()), None)


def _folders(package: str) -> list[str]:
    """Where the modules of a package are looked for; "" is for those that are in none."""
    if not package:
        return sys.path
    if package in sys.modules:
        return list(getattr(sys.modules[package], "__path__", ()))
    outer, _, last = package.rpartition(".")
    return [str(Path(folder, last)) for folder in _folders(outer)]


@cache
def _installed_folders() -> tuple[Path, ...]:
    """Where installed packages and the standard library are."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = [*map(sysconfig.get_path, names), *site.getsitepackages(), site.getusersitepackages()]
    return tuple(Path(folder).resolve() for folder in folders if folder)


_Import = tuple[int, str, str]
"""How many packages up, from which module, and what; the module may be named by `what` alone."""


@dataclass(frozen=True)
class _Source:
    """What a source file means, and what it imports."""

    digest: str
    outside: tuple[_Import, ...]
    """Outside of functions and conditions: imported for certain."""
    inside: tuple[_Import, ...]
    """Anywhere in it."""


@cache
def _read(path: Path, changed: int) -> _Source:
    text = path.read_text(encoding="utf-8", errors="replace")
    tree = _tree(text)
    attempts = (s for block in tree.body if isinstance(block, ast.Try) for s in block.body)
    outside = tuple(_imports([*tree.body, *attempts]))
    return _Source(_digest_of(text), outside, tuple(_imports(ast.walk(tree))))


def _imports(statements: Iterable[ast.AST]) -> Iterator[_Import]:
    for statement in statements:
        if isinstance(statement, ast.Import):
            yield from ((0, "", alias.name) for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            level, source = statement.level, statement.module or ""
            yield from ((level, source, alias.name) for alias in statement.names)


def _tree(text: str) -> ast.Module:
    """What a source says; nothing if it is no Python of this version."""
    try:
        return ast.parse(text)
    except SyntaxError:
        return ast.Module([], [])


def _digest_of(text: str) -> str:
    """Digest of a source without comments, docstrings and formatting."""
    tree = _tree(text)
    if not tree.body:
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


def _held(name: str) -> Iterator[str]:
    """Names of the modules that a module's globals are, or come from."""
    for value in list(vars(sys.modules[name]).values()) if name in sys.modules else ():
        if isinstance(value, ModuleType):
            yield value.__name__
        elif inspect.isclass(value) or inspect.isroutine(value):
            yield getattr(value, "__module__", None) or ""


def _imported(name: str, path: Path, imports: Iterable[_Import]) -> Iterator[str]:
    """Names of the modules that a module's source imports, and of the packages around them."""
    package = (name if path.name == "__init__.py" else name.rpartition(".")[0]).split(".")
    for level, source, what in imports:
        base = package[: len(package) - level + 1] if level else []
        parts = ".".join(filter(None, [*base, source, what])).split(".")
        yield from (".".join(parts[: n + 1]) for n in range(len(parts)))


def _package(name: str) -> tuple[str, str] | None:
    """The installed package of a module and its version, if it has one."""
    for distribution in _distributions().get(name.partition(".")[0], ())[:1]:
        return distribution, metadata.version(distribution)
    return None


@cache
def _distributions() -> dict[str, list[str]]:
    return dict(metadata.packages_distributions())
