"""Dotted names: a user's own Python code, called by name."""

import hashlib
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from layer_atlas.errors import UserError


def import_callable(name: str, setting: str, purpose: str) -> Callable[..., Any]:
    """The callable that a dotted name stands for; modules in the current folder are found too.

    Args:
        name: such as `package.module.function`.
        setting: where the name was given, for messages.
        purpose: what it is called for, as in "a callable that returns the network".
    Raises:
        UserError: it cannot be imported, or is no callable.
    """
    module_name, _, attribute = name.replace(":", ".").rpartition(".")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        value = getattr(importlib.import_module(module_name), attribute)
    except (Exception, SystemExit) as error:
        raise UserError(
            f"{setting} {name!r} cannot be imported ({error}). Give the dotted name of a callable "
            f"{purpose}; modules in the current folder are found too."
        ) from error
    if not callable(value):
        raise UserError(f"{setting} {name!r} is {type(value).__name__}, not a callable.")
    return value  # type: ignore[no-any-return]


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
