"""Processes: which signals tell them to leave, and dying with who started them."""

import ctypes
import os
import signal
import sys

LEAVING_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What people and cluster managers announce the end of a process with."""

PARENT_VARIABLE = "LAYER_ATLAS_PARENT"
"""Process id of who started a worker; a worker that has one dies with it."""


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however that dies (Linux only)."""
    if not sys.platform.startswith("linux"):
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request was made
        os.kill(os.getpid(), signal.SIGKILL)
