"""Executors: where workers run. They know command lines and exit codes, nothing of torch."""

from collections.abc import Sequence
from pathlib import Path

from pipeline.executors.base import Executor
from pipeline.settings.executors import ExecutorSettings, LocalSettings, RaySettings


def open_executor(settings: ExecutorSettings, devices: Sequence[str], folder: Path) -> Executor:
    """The engine that a config chooses.

    Args:
        settings: which, and how it is used.
        devices: of this machine, one per worker.
        folder: for files of the engine's own.
    Raises:
        UserError: it is not installed, not there, or cannot give what is asked for.
    """
    # Each needs packages that the others do not.
    if isinstance(settings, LocalSettings):
        from pipeline.executors.local import LocalExecutor

        return LocalExecutor(devices)
    if isinstance(settings, RaySettings):
        from pipeline.executors.ray import RayExecutor

        return RayExecutor(settings)
    from pipeline.executors.slurm import SlurmExecutor

    return SlurmExecutor(settings, folder)
