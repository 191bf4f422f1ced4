"""Work that is done in a process of its own: the HDF5 library may take that down."""

import logging
import os
import signal
import subprocess
import sys

from layer_atlas.errors import EXIT_IO, EXIT_OK, EXIT_USER_ERROR, StorageError, UserError
from layer_atlas.processes import PARENT_VARIABLE

logger = logging.getLogger(__name__)

_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""For small matrices: several processes draw side by side, and threads that wait for each other
take a hundred times as long as one."""


class ProcessDied(Exception):
    """A process was killed; the message is the name of the signal."""


def run_apart(command: str, *arguments: str) -> str:
    """Run an inner command of the command line; what it prints to people becomes warnings.

    Returns: what it printed.
    Raises:
        Died: it was killed by a signal.
        StorageError: the disk is full or fails.
        UserError: what it tells the user.
    """
    argv = [sys.executable, "-P", "-m", "layer_atlas", command, *arguments]
    # It must not outlive this process, and put its work in the place of what a later one made.
    environment = {**os.environ, **_ONE_THREAD, PARENT_VARIABLE: str(os.getpid())}
    child = subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)
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
