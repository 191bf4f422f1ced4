"""What Ray runs on a node: an actor that minds one worker, which lives and dies with it.

An actor and no task: that its node is lost, Ray tells of an actor after a minute, of a task after
seven. Ray is sent this module as code, so that its processes on the nodes need not find this
package; what is here uses the standard library and Ray alone.
"""

import os
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from layer_atlas.processes import PARENT_VARIABLE
from layer_atlas.sweep.heartbeat import DEVICE_VARIABLE


class WorkerActor:
    """Starts a worker, tells it to leave, tells how it ended; each from a thread of its own."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._shall_leave = False

    def is_there(self) -> bool:
        """Answers as soon as Ray has found a place."""
        return True

    def run(
        self, argv: Sequence[str], log: str, folder: str, variables: Mapping[str, str], gpus: int
    ) -> int:
        """Run a worker to its end; returns the exit code; negative: killed by that signal.

        Args:
            argv: its command line.
            log: file that its output is added to.
            folder: to run it in, if this node has it.
            variables: of its environment, besides the node's own.
            gpus: how many Ray has given to this actor.
        Raises:
            OSError: this node has no such program, or no such folder for the log.
        """
        with open(log, "ab") as output:
            self._child = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder if Path(folder).is_dir() else None,
                env=_environment(variables, gpus),
                start_new_session=True,
            )
        if self._shall_leave:
            self._child.terminate()
        return self._child.wait()

    def leave(self) -> None:
        """SIGTERM to the worker, also to one that is not started yet."""
        self._shall_leave = True
        if self._child is not None:
            self._child.terminate()


def _environment(variables: Mapping[str, str], gpus: int) -> dict[str, str]:
    """What the node says of itself, the driver of the user, and Ray of the GPU."""
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
