"""What runs on a node of a Slurm cluster: starts a worker, and writes down how it ended.

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
from layer_atlas.sweep.executors.base import environment

ANSWER_SECONDS = 60.0
"""How long an answer of Slurm may take."""


class SlurmError(Exception):
    """Slurm refuses, or does not answer; in its own words."""


def ask_slurm(*command: str) -> str:
    """What one of Slurm's commands prints. Raises SlurmError."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWER_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise SlurmError(done.stderr.strip() or f"{command[0]} fails ({done.returncode})")
    return done.stdout


@dataclass(frozen=True)
class SlurmJob:
    """A worker in a job of Slurm."""

    argv: tuple[str, ...]
    log: str
    """What the worker prints goes to the end of this file."""
    ending: str
    """Where its exit code is written: without slurmdbd, Slurm soon forgets it."""
    device: str
    threads: int

    def __call__(self) -> None:
        """Run the worker to its end; it is queued again if Slurm told it to leave.

        Raises:
            SystemExit: always, with the worker's exit code, for Slurm to note.
        """
        Path(self.ending).unlink(missing_ok=True)  # of an earlier life
        code, asked_to_stop = self._run()
        if asked_to_stop and _queue_again():
            raise SystemExit(EXIT_PREEMPTED)
        write_ending(Path(self.ending), code)
        raise SystemExit(code if code >= 0 else 128 - code)

    def _run(self) -> tuple[int, bool]:
        """Start the worker and wait for it; returns its code, and whether it was told to leave."""
        announced: list[int] = []
        workers: list[subprocess.Popen[bytes]] = []

        def pass_on(number: int, frame: FrameType | None) -> None:
            announced.append(number)
            for worker in workers:
                worker.terminate()

        for number in LEAVING_SIGNALS:
            signal.signal(number, pass_on)
        with open(self.log, "ab") as output:
            workers.append(
                subprocess.Popen(
                    self.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=environment(self.device, self.threads),
                )
            )
        if announced:  # just before the worker was known
            workers[0].terminate()
        code = workers[0].wait()
        if -code in LEAVING_SIGNALS:  # told before it had begun to listen
            return EXIT_PREEMPTED, True
        return code, code == EXIT_PREEMPTED and bool(announced)


def _queue_again() -> bool:
    """Have Slurm run this job once more; not if Slurm itself is ending it or does not answer."""
    job = _own_id()
    try:
        state = ask_slurm("squeue", "--noheader", f"--jobs={job}", "--format=%T").strip()
        if state not in ("RUNNING", "SIGNALING"):
            return False
        ask_slurm("scontrol", "requeue", job)
    except SlurmError:
        return False
    return True


def _own_id() -> str:
    # SLURM_JOB_ID of one element of an array is also the id of the whole array.
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array is None:
        return os.environ["SLURM_JOB_ID"]
    return f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"


def write_ending(path: Path, code: int) -> None:
    """Write an exit code down, whole or not at all; on a full disk only Slurm knows it."""
    temporary = path.with_suffix(".exit.tmp")
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps({"exit_code": code}))
        temporary.replace(path)


def read_ending(path: Path) -> int | None:
    """The exit code that was written down, if one was."""
    try:
        return int(json.loads(path.read_text())["exit_code"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
