"""Executors: where workers run. They know command lines and exit codes, nothing of torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from layer_atlas.config.executors import (
    CustomSettings,
    ExecutorSettings,
    LocalSettings,
    RaySettings,
)
from layer_atlas.errors import UserError
from layer_atlas.imports import import_callable
from layer_atlas.sweep.executors.base import Executor


def open_executor(settings: ExecutorSettings, devices: Sequence[str], folder: Path) -> Executor:
    """The engine that a config chooses.

    Args:
        settings: which, and how it is used.
        devices: of the workers that may run at once, as far as they are known.
        folder: for files of the engine's own.
    Raises:
        UserError: it is not installed, not there, cannot give what is asked for, or is none.
    """
    # Each needs packages that the others do not.
    if isinstance(settings, LocalSettings):
        from layer_atlas.sweep.executors.local import LocalExecutor

        return LocalExecutor(devices)
    if isinstance(settings, RaySettings):
        from layer_atlas.sweep.executors.ray import RayExecutor

        return RayExecutor(settings)
    if isinstance(settings, CustomSettings):
        return make_executor(settings, devices)
    from layer_atlas.sweep.executors.slurm import SlurmExecutor

    return SlurmExecutor(settings, folder)


_CONTRACT = {
    name: "method" if callable(member) else "value"
    for name, member in vars(Executor).items()
    if not name.startswith("_")
}
"""What an executor must have."""


def check_target(settings: ExecutorSettings) -> None:
    """Make sure, before networks are loaded, that code of the user's own is there.

    Raises:
        UserError: it cannot be imported.
    """
    if isinstance(settings, CustomSettings):
        _imported(settings)


def make_executor(settings: CustomSettings, devices: Sequence[str]) -> Executor:
    """Call what the config names.

    Args:
        settings: which, and with what.
        devices: of the workers that may run at once.
    Raises:
        UserError: it cannot be imported, fails, or does not return an executor.
    """
    make = _imported(settings)
    try:
        executor: Any = make(list(devices), **(settings.args or {}))
        lacks = _lacks(executor)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise UserError(f"executor.target={settings.target!r} failed: {error!r}.") from error
    if lacks:
        raise UserError(
            f"executor.target={settings.target!r} returned {type(executor).__name__}, which is no "
            f"executor: it has no {', '.join(lacks)}. docs/extending.md has an example."
        )
    return executor  # type: ignore[no-any-return]


def _imported(settings: CustomSettings) -> Callable[..., Any]:
    return import_callable(settings.target, "executor.target", "that returns an executor")


def _lacks(executor: Any) -> list[str]:
    """Which parts of the contract it does not keep; a method where a value must be is none."""
    lacks = []
    for name, kind in _CONTRACT.items():
        member = getattr(executor, name, None)
        if member is None or callable(member) != (kind == "method"):
            lacks.append(f"{kind} {name!r}")
    return lacks
