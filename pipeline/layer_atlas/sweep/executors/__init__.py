"""Executors: where workers run. They know command lines and exit codes, nothing of torch."""

from collections.abc import Sequence
from pathlib import Path

from layer_atlas.config.executors import (
    CustomSettings,
    ExecutorSettings,
    LocalSettings,
    RaySettings,
    SlurmSettings,
)
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
        from layer_atlas.sweep.executors.custom import make_executor

        return make_executor(settings, devices)
    assert isinstance(settings, SlurmSettings), settings
    from layer_atlas.sweep.executors.slurm import SlurmExecutor

    return SlurmExecutor(settings, folder)
