"""Dotted names: a user's own Python code, called by name."""

import hashlib
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType
from typing import Any

from layer_atlas.errors import UserError, nearest

_SHOWN = 3
_ALIKE = 0.6
"""Ratio of the common letters of two names from which one may be a misspelling of the other."""


def import_value(name: str, setting: str, purpose: str) -> Any:
    """The value that a dotted name stands for; modules in the current folder are found too.

    Args:
        name: such as `package.module.function`, `package.Class.method` or `module:Class.method`.
        setting: where the name was given, for messages.
        purpose: what it is called for, as in "a callable that returns the network".
    Raises:
        UserError: it cannot be imported.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return _resolve(name)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{setting} {name!r} cannot be imported: {str(error) or repr(error)}. Give the dotted "
            f"name of a callable {purpose}; modules in the current folder are found too."
        ) from error


def import_callable(name: str, setting: str, purpose: str) -> Callable[..., Any]:
    """The callable that a dotted name stands for.

    Args: those of `import_value`.
    Raises:
        UserError: it cannot be imported, or is no callable.
    """
    value = import_value(name, setting, purpose)
    if isinstance(value, ModuleType):
        own = [n for n in _public(value) if _is_from(value, n)] or _public(value)
        some = nearest(name.rpartition(".")[2], own, _SHOWN)
        inside = f", such as {some}" if some else ""
        raise UserError(f"{setting} {name!r} is a module; name a callable in it{inside}.")
    if not callable(value):
        raise UserError(f"{setting} {name!r} is {type(value).__name__}, not a callable.")
    return value  # type: ignore[no-any-return]


def _resolve(name: str) -> Any:
    """Import the longest part that is a module, and follow the attributes after it.

    Raises:
        ImportError: names the longest part that exists, and the nearest names in it.
        Exception: whatever a module raises while it is imported.
    """
    module_name, colon, rest = name.partition(":")
    parts = (module_name if colon else name).split(".")
    after = rest.split(".") if colon else []
    if not all(part.isidentifier() for part in (*parts, *after)) or "py" in parts:
        dotted = re.sub(r"\.py\b", "", name).replace("/", ".").replace(":", ".").strip(".")
        raise ImportError(f"it is no dotted name, such as {dotted!r}")
    reached: tuple[Any, list[str], str] | None = None
    # The longest first, but the whole last: a package may have a function of its module's name.
    lengths = [len(parts)] if colon else [*range(len(parts) - 1, 0, -1), len(parts)]
    for n in lengths:
        module = _import_if_there(".".join(parts[:n]))
        if module is None:
            continue
        value, left = _follow(module, [*parts[n:], *after])
        if not left:
            return value
        if reached is None or len(left) < len(reached[1]):
            reached = value, left, ".".join([*parts, *after][: -len(left)])
    if reached is None:
        raise ImportError(f"there is no module {parts[0]!r}{_nearest(parts[0], _top_level())}")
    value, left, found = reached
    kinds = ((ModuleType, "module"), (type, "class"))
    what = next((kind for cls, kind in kinds if isinstance(value, cls)), type(value).__name__)
    raise ImportError(f"{what} {found!r} has no {left[0]!r}{_nearest(left[0], _public(value))}")


def _import_if_there(name: str) -> ModuleType | None:
    """Import a module; return None if there is no such module."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # What the module itself imports and is missing is another matter.
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            return None
        raise


def _follow(value: Any, names: list[str]) -> tuple[Any, list[str]]:
    """Follow attributes as far as they exist; returns what was reached, and the names left."""
    for n, name in enumerate(names):
        try:
            value = getattr(value, name)
        except AttributeError:
            return value, names[n:]
    return value, []


def _public(value: Any) -> list[str]:
    """List the names in a module or class that may be meant: what can be called or entered."""
    names = [name for name in dir(value) if not name.startswith("_")]
    inner = [module.name for module in pkgutil.iter_modules(getattr(value, "__path__", []))]
    callables = [name for name in names if callable(getattr(value, name, None))]
    return sorted({*callables, *inner})


def _is_from(module: ModuleType, name: str) -> bool:
    """Whether a module defines a name itself, rather than importing it."""
    return getattr(getattr(module, name, None), "__module__", None) == module.__name__


def _top_level() -> list[str]:
    """List the modules that can be imported."""
    return sorted({module.name for module in pkgutil.iter_modules()})


def _nearest(name: str, names: Iterable[str]) -> str:
    """Word the names that may be meant, if there are any."""
    some = get_close_matches(name.rpartition(".")[2], list(names), n=_SHOWN, cutoff=_ALIKE)
    return f" (nearest: {', '.join(some)})" if some else ""


def import_planned(name: str, setting: str, purpose: str, source: str) -> Callable[..., Any]:
    """The same, as it was when the sweep was planned.

    Args:
        name: such as `package.module.function`.
        setting: where the name was given, for messages.
        purpose: what it is called for.
        source: `source_digest` at that time; empty while the sweep is being planned.
    Raises:
        UserError: it cannot be imported, is no callable, or its file is another by now.
    """
    value = import_callable(name, setting, purpose)
    if source not in ("", source_digest(value)):
        raise UserError(
            f"the code of {setting}={name!r} is not what the sweep was planned with; run it again "
            "to make the images of the new one."
        )
    return value


def source_digest(function: Callable[..., Any]) -> str:
    """SHA-256 (hex) of the file that a callable is written in; empty if it is in none."""
    try:
        path = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:  # a callable object, or one made in C
        path = inspect.getsourcefile(type(function)) if _written_in_python(function) else None
    if path is None or not Path(path).is_file():
        return ""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _written_in_python(function: Callable[..., Any]) -> bool:
    return type(function).__module__ not in ("builtins", "functools")


def import_modules(package: str, path: Iterable[str]) -> None:
    """Import every module of a package, so that what they register is known.

    Args:
        package: dotted name of the package.
        path: its `__path__`.
    """
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")
