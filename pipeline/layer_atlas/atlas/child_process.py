"""Run work in a child process, because the HDF5 library may crash it."""

import logging
import os
import signal
import subprocess
import sys

from layer_atlas.errors import EXIT_IO, EXIT_OK, EXIT_USER_ERROR, StorageError, UserError
from layer_atlas.processes import PARENT_VARIABLE

logger = logging.getLogger(__name__)

_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""Threads of the child's linear algebra. Its matrices are small, and several processes draw side by
side: threads that wait for each other would take a hundred times as long as one."""


class ProcessDied(Exception):
    """A child process was killed; the message is the name of the signal."""


def run_apart(command: str, *arguments: str) -> str:
    """Run an inner command of the command line; what it prints to people becomes warnings.

    Returns: its standard output.
    Raises:
        ProcessDied: it was killed by a signal.
        StorageError: the disk is full or fails.
        UserError: the child raised one.
        RuntimeError: the child failed in any other way.
    """
    # `-P`: a module of the working folder must not replace one of the package.
    argv = [sys.executable, "-P", "-m", "layer_atlas", command, *arguments]
    # The child must not outlive this process, and overwrite what a later run has made.
    environment = {**os.environ, **_ONE_THREAD, PARENT_VARIABLE: str(os.getpid())}
    child = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
    # A negative code is the signal that killed the child.
    if child.returncode < 0:
        raise ProcessDied(signal.Signals(-child.returncode).name)
    for code, error in ((EXIT_IO, StorageError), (EXIT_USER_ERROR, UserError)):
        if child.returncode == code:
            raise error(child.stderr.strip())
    for line in child.stderr.splitlines():
        logger.warning("%s", line)
    if child.returncode != EXIT_OK:
        raise RuntimeError(f"{command} {arguments[0]} failed")
    return child.stdout
