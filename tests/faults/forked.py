"""Workers as forks of a process that has imported all they need.

Real processes in sessions of their own, which do what a worker does, take signals and end with its
exit code; only the 4 seconds of starting Python and importing torch are left out.
"""

import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from layer_atlas.processes import PARENT_VARIABLE
from layer_atlas.sweep import worker

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["forked", "runs", "torchvision.models.feature_extraction"])


class ForkedWorker:
    """Stands in for `subprocess.Popen` where the local executor starts a worker."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdin: int,
        stdout: IO[bytes],
        stderr: IO[bytes],
        env: Mapping[str, str],
        start_new_session: bool,
    ) -> None:
        told = (list(argv[-2:]), str(Path(stdout.name).resolve()), dict(env), str(Path.cwd()))
        self._process = _CONTEXT.Process(target=_work, args=told, daemon=True)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        while self.poll() is None and os.getpgid(self.pid) != self.pid:
            time.sleep(0.001)

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        assert self._process.exitcode is not None
        return self._process.exitcode

    def terminate(self) -> None:
        self._process.terminate()


def _work(argv: list[str], log: str, env: dict[str, str], folder: str) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update({**env, PARENT_VARIABLE: str(os.getppid())})
    said = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.exit(worker.main(argv))
