"""Executors run workers somewhere. They know command lines and exit codes, nothing of torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from layer_atlas.config.executors import (
    CustomSettings,
    ExecutorSettings,
    InProcessSettings,
    LocalSettings,
    RaySettings,
    SlurmSettings,
)
from layer_atlas.errors import UserError
from layer_atlas.imports import import_callable
from layer_atlas.sweep.executors.base import Executor

_CONTRACT = {
    name: "method" if callable(member) else "value"
    for name, member in vars(Executor).items()
    if not name.startswith("_")
}
"""The members that an executor must have."""


def open_executor(settings: ExecutorSettings, devices: Sequence[str], folder: Path) -> Executor:
    """Open the executor that a config chooses.

    Args:
        settings: which, and how it is used.
        devices: one per worker that may run at once, as far as they are known.
        folder: for the executor's own files.
    Raises:
        UserError: it is not installed, cannot be reached, cannot give what is asked for, or its
            target does not return an executor.
    """
    # Imported only when chosen: each needs packages that the others do not.
    if isinstance(settings, LocalSettings):
        from layer_atlas.sweep.executors.local import LocalExecutor

        return LocalExecutor(devices)
    if isinstance(settings, InProcessSettings):
        from layer_atlas.sweep.executors.in_process import InProcessExecutor

        return InProcessExecutor(devices[0])
    if isinstance(settings, RaySettings):
        from layer_atlas.sweep.executors.ray import RayExecutor

        return RayExecutor(settings)
    if isinstance(settings, CustomSettings):
        return _make_custom(settings, devices)
    assert isinstance(settings, SlurmSettings), settings
    from layer_atlas.sweep.executors.slurm import SlurmExecutor

    return SlurmExecutor(settings, folder)


def check_target(settings: ExecutorSettings) -> None:
    """Check that a custom executor can be imported, before models are loaded; raises UserError."""
    if isinstance(settings, CustomSettings):
        _imported(settings)


def _make_custom(settings: CustomSettings, devices: Sequence[str]) -> Executor:
    make = _imported(settings)
    try:
        executor: Any = make(list(devices), **(settings.args or {}))
        missing = _missing_members(executor)
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # user code may do anything, also leave
        raise UserError(f"executor.target={settings.target!r} failed: {error!r}.") from error
    if missing:
        raise UserError(
            f"executor.target={settings.target!r} returned {type(executor).__name__}, which is no "
            f"executor: it has no {', '.join(missing)}. docs/extending.md has an example."
        )
    return executor  # type: ignore[no-any-return]


def _imported(settings: CustomSettings) -> Callable[..., Any]:
    return import_callable(settings.target, "executor.target", "that returns an executor")


def _missing_members(executor: Any) -> list[str]:
    """Parts of the contract that an executor lacks; a method in place of a value counts."""
    missing = []
    for name, kind in _CONTRACT.items():
        member = getattr(executor, name, None)
        if member is None or callable(member) != (kind == "method"):
            missing.append(f"{kind} {name!r}")
    return missing
