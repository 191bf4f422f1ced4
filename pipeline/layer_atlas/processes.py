"""Processes: their cores, signals, dying with the parent, work in a thread or child process."""

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from layer_atlas.errors import EXIT_IO, EXIT_OK, EXIT_USER_ERROR, StorageError, UserError

LEAVING_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""What people and cluster managers announce the end of a process with."""

PARENT_VARIABLE = "LAYER_ATLAS_PARENT"
"""Process id of who started this process, if it is to die with it."""


def usable_cores() -> int:
    """How many cores this process may use; not every system has CPU affinity."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def beside(work: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Do something in a thread while the context lasts.

    Args:
        work: returns soon after the event is set, which leaving the context does.
        name: of the thread.
    """
    ended = threading.Event()
    # A daemon: it must not keep a process alive whose main thread has failed.
    thread = threading.Thread(target=work, args=(ended,), name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


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
