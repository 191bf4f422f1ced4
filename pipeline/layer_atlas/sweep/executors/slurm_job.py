"""The process of a Slurm job on its node: starts a worker and records its exit code.

submitit pickles a `SlurmJob`, which holds plain data. This module needs neither submitit nor torch.
"""

import contextlib
import json
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from layer_atlas.errors import EXIT_PREEMPTED
from layer_atlas.processes import LEAVING_SIGNALS
from layer_atlas.sweep.executors.base import environment, start_worker
from layer_atlas.sweep.executors.slurm_queue import SlurmError, ask_slurm


@dataclass(frozen=True)
class SlurmJob:
    """A worker in a Slurm job."""

    argv: tuple[str, ...]
    log: str
    """The worker's output is appended to this file."""
    ending: str
    """The worker's exit code is written here: without slurmdbd, Slurm soon forgets it."""
    device: str
    threads: int

    def __call__(self) -> None:
        """Run the worker to its end; requeue the job if Slurm preempted it.

        Raises:
            SystemExit: always, with the worker's exit code, for Slurm to record.
        """
        Path(self.ending).unlink(missing_ok=True)  # from before the job was requeued
        code, is_preempted = self._run()
        # A worker that left by itself has an end to record; a requeued one has not ended.
        if is_preempted and _requeue():
            raise SystemExit(EXIT_PREEMPTED)
        write_ending(Path(self.ending), code)
        raise SystemExit(code if code >= 0 else 128 - code)

    def _run(self) -> tuple[int, bool]:
        """Start the worker and wait; returns its exit code, and whether it was preempted."""
        received: list[int] = []
        workers: list[subprocess.Popen[bytes]] = []

        def forward(number: int, frame: FrameType | None) -> None:
            received.append(number)
            for worker in workers:
                worker.terminate()

        # Before the worker is started: a signal in between must not end this process alone.
        for number in LEAVING_SIGNALS:
            signal.signal(number, forward)
        variables = environment(self.device, self.threads)
        workers.append(start_worker(self.argv, Path(self.log), variables))
        if received:  # before the worker was in the list
            workers[0].terminate()
        code = workers[0].wait()
        if -code in LEAVING_SIGNALS:  # before the worker had installed its handlers
            return EXIT_PREEMPTED, True
        return code, code == EXIT_PREEMPTED and bool(received)


def _requeue() -> bool:
    """Have Slurm run this job again; not if Slurm is ending it for good or does not answer."""
    job_id = _own_job_id()
    try:
        state = ask_slurm("squeue", "--noheader", f"--jobs={job_id}", "--format=%T").strip()
        if state not in ("RUNNING", "SIGNALING"):
            return False
        ask_slurm("scontrol", "requeue", job_id)
    except SlurmError:
        return False
    return True


def _own_job_id() -> str:
    # SLURM_JOB_ID of one element of an array is also the id of the whole array.
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is None:
        return os.environ["SLURM_JOB_ID"]
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"


def write_ending(path: Path, code: int) -> None:
    """Record an exit code, whole or not at all; on a full disk only Slurm knows it."""
    temporary = path.with_suffix(".exit.tmp")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps({"exit_code": code}))
        temporary.replace(path)


def read_ending(path: Path) -> int | None:
    """The recorded exit code, if there is one."""
    try:
        return int(json.loads(path.read_text())["exit_code"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
