"""Processes: their cores, leaving on a signal, dying with the parent."""

import ctypes
import os
import signal
import sys
from types import FrameType

LEAVING_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What people and cluster managers announce the end of a process with."""

PARENT_VARIABLE = "LAYER_ATLAS_PARENT"
"""Process id of who started this process, if it is to die with it."""


def usable_cores() -> int:
    """How many cores this process may use; not every system has CPU affinity."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Preempted(BaseException):
    """A signal asked the process to end. Neither error nor exit, so no user code catches it."""


def stop_on_signal() -> None:
    """Have the first of the leaving signals raise `Preempted`, and further ones do nothing."""
    for number in LEAVING_SIGNALS:
        signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    for leaving in LEAVING_SIGNALS:  # once is enough; what is made is being written
        signal.signal(leaving, signal.SIG_IGN)
    raise Preempted


def die_with_parent() -> None:
    """Die with the process that is named in the environment, if one is."""
    if PARENT_VARIABLE in os.environ:
        die_with(int(os.environ[PARENT_VARIABLE]))


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, however that dies (Linux only)."""
    if not sys.platform.startswith("linux"):
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the request was made
        os.kill(os.getpid(), signal.SIGKILL)
