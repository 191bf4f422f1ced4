"""A warm parent: a process that has imported PyTorch and forks workers from itself.

A worker that starts from nothing imports PyTorch for seconds. The command line forks a process from
itself as soon as it has imported all that a worker needs, and before it computes anything: threads
of a computation, or a GPU that is in use, would not survive the fork. That process forks a worker
whenever it is asked to, in a few milliseconds. It dies with the driver, and its workers with it.
"""

import atexit
import contextlib
import ctypes
import gc
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from layer_atlas.processes import PARENT_VARIABLE, die_with
from layer_atlas.sweep.executors.base import WORKER_COMMAND

_MALLOC_OPTIONS = {
    "MALLOC_TRIM_THRESHOLD_": -1,
    "MALLOC_TOP_PAD_": -2,
    "MALLOC_MMAP_MAX_": -4,
    "MALLOC_ARENA_MAX": -8,
}
"""Numbers of glibc's options for `mallopt`: it reads the variables when a process starts, which a
fork does not."""
_LARGEST = 2**31 - 1
_PR_SET_NAME = 15


class WarmWorker:
    """A forked worker, as its driver sees it; the methods are those of `subprocess.Popen`."""

    def __init__(self, parent: "WarmParent", pid: int) -> None:
        self.parent, self.pid = parent, pid

    def poll(self) -> int | None:
        """The exit code of an ended worker, negative if a signal killed it."""
        self.parent.receive()
        return self.parent.exit_code(self.pid)

    def wait(self) -> int:
        """Wait for its end."""
        while (code := self.poll()) is None:
            self.parent.receive(timeout=None)
        return code

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.parent.send("signal", self.pid, signal.SIGTERM)

    def kill_session(self) -> None:
        """Send SIGKILL to the worker and all processes that it started."""
        self.parent.send("signal", self.pid, signal.SIGKILL)


class WarmParent:
    """The process that forks workers, as its driver sees it."""

    def __init__(self) -> None:
        context = get_context("fork")
        self._connection, theirs = context.Pipe()
        self._codes: dict[int, int] = {}
        self._process = context.Process(
            target=_serve, args=(theirs, self._connection), name="atlas-warm-parent"
        )
        self._process.start()
        theirs.close()
        atexit.register(self.close)

    @property
    def is_there(self) -> bool:
        """Whether it can be asked."""
        return not self._connection.closed

    def start(
        self, argv: Sequence[str], log: Path, variables: Mapping[str, str]
    ) -> WarmWorker | None:
        """Fork a worker; returns `None` if this process is gone."""
        self.send("start", tuple(argv), str(log), dict(variables), str(Path.cwd()))
        while self.is_there:
            if (pid := self.receive(timeout=None)) is not None:
                return WarmWorker(self, pid)
        return None

    def send(self, *message: Any) -> None:
        """Send a message, unless the process is gone."""
        if self.is_there:
            try:
                self._connection.send(message)
            except OSError:
                self.close()

    def receive(self, timeout: float | None = 0.0) -> int | None:
        """Note what it reports; returns the process id of a worker that was started."""
        try:
            while self.is_there and self._connection.poll(timeout):
                kind, pid, code = self._connection.recv()
                if kind == "started":
                    return int(pid)
                self._codes[pid] = code
                timeout = 0.0
        except (EOFError, OSError):
            self.close()
        return None

    def exit_code(self, pid: int) -> int | None:
        """The exit code of a worker, if it has ended."""
        # The kernel kills workers whose parent has died.
        return self._codes.get(pid, None if self.is_there else -signal.SIGKILL)

    def close(self) -> None:
        """End the process; what it started dies with it."""
        if self.is_there:
            self._connection.close()
            self._process.kill()
            self._process.join()


_parents: list[WarmParent] = []
_is_command = False


def declare_command() -> None:
    """Declare that this process runs one command and nothing else.

    Any other program may have computed before, with threads that a fork would lack.
    """
    global _is_command
    _is_command = True


def command_line() -> str:
    """The command line of this process; empty in a program that is none."""
    return shlex.join(["atlas", *sys.argv[1:]]) if _is_command else ""


def import_for_workers() -> None:
    """Import what workers need, PyTorch above all."""
    # These are 200,000 objects and no garbage: looking for some takes a tenth of the import.
    collects = gc.isenabled()
    gc.disable()
    try:
        from layer_atlas.sweep import worker  # noqa: F401
    finally:
        if collects:
            gc.enable()


def fork_warm_parent() -> None:
    """Fork the warm parent of this process, where that is safe and there is none.

    Call it before anything is computed.
    """
    if not _is_command or _parents or not sys.platform.startswith("linux"):
        return
    import_for_workers()
    import torch

    uses_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if threading.active_count() == 1 and not uses_gpu:
        gc.freeze()  # else every full collection of a worker would look through all of that
        _parents.append(WarmParent())


def start_warm(argv: Sequence[str], log: Path, variables: Mapping[str, str]) -> WarmWorker | None:
    """Fork a worker from the warm parent of this process, if there is one and it is a worker."""
    if tuple(argv[: len(WORKER_COMMAND)]) != WORKER_COMMAND:
        return None
    for parent in _parents:
        if parent.is_there and (worker := parent.start(argv, log, variables)):
            return worker
    return None


# --- in the warm parent --------------------------------------------------------------------------


def _serve(requests: Connection, others: Connection) -> None:
    """Fork workers, pass on signals and report exit codes until the driver is gone."""
    others.close()  # else the end of the driver would not be seen here
    die_with(os.getppid())
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _redirect(os.devnull)
    _forget_the_driver()
    running: dict[int, BaseProcess] = {}
    while True:
        ready = wait([requests, *(process.sentinel for process in running.values())])
        for pid, process in list(running.items()):
            if process.sentinel in ready:
                process.join()
                requests.send(("ended", pid, process.exitcode))
                del running[pid]
        if requests in ready:
            try:
                kind, *values = requests.recv()
            except EOFError:
                os._exit(0)
            if kind == "start":
                process = get_context("fork").Process(target=_become_worker, args=tuple(values))
                process.start()
                assert process.pid is not None
                running[process.pid] = process
                requests.send(("started", process.pid, None))
            elif values[0] in running:
                _signal(*values)


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if number == signal.SIGKILL:  # with all that it started, once it leads a session
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, number)
        os.kill(pid, number)


def _forget_the_driver() -> None:
    """Undo what the driver's terminal is for, and what its command line put into the path."""
    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
    package = logging.getLogger("layer_atlas")
    for logs in (logging.getLogger(), package):
        logs.handlers.clear()
    package.setLevel(logging.NOTSET)
    # As `-P` does for other workers: the working folder must not replace modules of the package.
    if not sys.flags.safe_path:
        del sys.path[0]


def _redirect(path: str) -> None:
    """Send what this process prints to the end of a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    output = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, number in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(source, number)
    os.close(output)
    os.close(nothing)


def _become_worker(
    argv: Sequence[str], log: str, variables: Mapping[str, str], folder: str
) -> None:
    """Be the worker of a command line, with its environment, in a session of its own."""
    import torch

    from layer_atlas.sweep import worker

    die_with(os.getppid())
    os.setsid()
    _redirect(log)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update({**variables, PARENT_VARIABLE: str(os.getppid())})
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with contextlib.suppress(OSError, AttributeError):  # not every C library has these
        library = ctypes.CDLL(None)
        library.prctl(_PR_SET_NAME, b"atlas worker")
        for name, option in _MALLOC_OPTIONS.items():
            value = int(variables.get(name, -1))
            if value >= 0:
                # -1 is the largest of the unsigned numbers that a threshold may be.
                library.mallopt(option, value if value <= _LARGEST else -1)
    torch.set_num_threads(int(variables["OMP_NUM_THREADS"]))
    sys.exit(worker.main(argv[len(WORKER_COMMAND) :]))
