"""The actor that Ray runs on a node: it starts one worker, which lives and dies with it.

An actor rather than a task: Ray reports the loss of an actor's node after a minute, of a task's
after seven. Ray is sent this module as code, so that its processes on the nodes need not find this
package; it must use the standard library and Ray alone.
"""

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from layer_atlas.processes import PARENT_VARIABLE
from layer_atlas.sweep.heartbeat import DEVICE_VARIABLE


class WorkerActor:
    """Starts, stops and waits for a worker, each from a thread of its own."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def is_placed(self) -> bool:
        """Return as soon as Ray has placed the actor on a node."""
        return True

    def run(
        self, argv: Sequence[str], log: str, folder: str, variables: Mapping[str, str], gpus: int
    ) -> int:
        """Run a worker to its end; returns the exit code, negative if a signal killed it.

        Args:
            argv: its command line.
            log: file that its output is appended to.
            folder: to run it in, if this node has it.
            variables: of its environment, besides the node's own.
            gpus: how many Ray has given to this actor.
        Raises:
            OSError: this node has no such program, or no such folder for the log.
        """
        with open(log, "ab") as output:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder if Path(folder).is_dir() else None,
                env=_environment(variables, gpus),
                start_new_session=True,
            )
        if self._is_stopped:  # while the process was being started
            self._process.terminate()
        return self._process.wait()

    def stop(self) -> None:
        """Send SIGTERM to the worker, as soon as it is started."""
        self._is_stopped = True
        if self._process is not None:
            self._process.terminate()


def _environment(variables: Mapping[str, str], gpus: int) -> dict[str, str]:
    """Merge the variables of the node and of the driver, with the GPUs that Ray assigned."""
    import ray

    # Ray itself would show all GPUs to an actor that asked for none.
    visible = ",".join(ray.get_runtime_context().get_accelerator_ids()["GPU"]) if gpus else ""
    return {
        **os.environ,
        **variables,
        PARENT_VARIABLE: str(os.getpid()),
        DEVICE_VARIABLE: f"{socket.gethostname()} {f'cuda:{visible}' if gpus else 'cpu'}",
        "CUDA_VISIBLE_DEVICES": visible,
    }
