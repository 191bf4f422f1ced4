"""Slurm jobs: the process of one on its node, and Slurm's own commands about limits and states.

The process starts a worker and records its exit code. submitit pickles a `SlurmJob`, which holds
plain data. This module needs neither submitit nor torch.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from layer_atlas.errors import EXIT_PREEMPTED
from layer_atlas.processes import LEAVING_SIGNALS
from layer_atlas.sweep.executors.base import environment, start_worker


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


COMMAND_SECONDS = 60.0
"""Timeout of Slurm's commands."""

_RUNNING = {"RUNNING", "COMPLETING", "SIGNALING", "RESIZING", "STAGE_OUT"}
_ENDED = {
    *("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"),
    *("BOOT_FAIL", "DEADLINE", "REVOKED"),
}
_NO_REASON = {"", "None", "NonZeroExitCode"}
_FOR_HELP = {
    *("PartitionConfig", "PartitionDown", "PartitionInactive", "PartitionNodeLimit"),
    *("PartitionTimeLimit", "BadConstraints", "JobHeldAdmin", "JobHeldUser", "AccountNotAllowed"),
    *("QOSNotAllowed", "InvalidAccount", "InvalidQOS", "launch failed requeued held"),
}
"""Reasons for waiting that only the user or an administrator can remove."""


class SlurmError(Exception):
    """Slurm refuses or does not answer; the message is Slurm's own."""


def ask_slurm(*command: str) -> str:
    """Run one of Slurm's commands; returns what it prints. Raises SlurmError."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise SlurmError(done.stderr.strip() or f"{command[0]} fails ({done.returncode})")
    return done.stdout


@dataclass(frozen=True)
class JobState:
    """The state of a job as squeue reports it."""

    state: str
    """Slurm's state: PENDING, RUNNING, COMPLETED, ..."""
    reason: str = "None"
    """Slurm's reason for the state."""
    status: int = 0
    """Wait status of its script (`os.wait`)."""

    @property
    def phase(self) -> Literal["waiting", "running", "ended"]:
        """The phase of the job; one that Slurm has suspended or requeued waits."""
        if self.state in _RUNNING:
            return "running"
        return "ended" if self.state in _ENDED else "waiting"

    @property
    def exit_code(self) -> int | None:
        """The exit code of a job that ended by itself or was cancelled, else `None`."""
        if self.state in ("CANCELLED", "PREEMPTED"):  # it had no time to record its end
            return EXIT_PREEMPTED
        if self.state not in ("COMPLETED", "FAILED"):
            return None
        code = os.waitstatus_to_exitcode(self.status)
        return code if code <= 128 else 128 - code  # shells turn a signal into 128 + number

    @property
    def needs_help(self) -> bool:
        """Whether it waits for something that will not come by itself."""
        return self.phase == "waiting" and self.reason in _FOR_HELP

    @property
    def remark(self) -> str:
        """The state and reason, if unusual: `NODE_FAIL`, `PENDING (PartitionConfig)`."""
        if self.state in ("COMPLETED", *_RUNNING):
            return ""
        if self.reason in _NO_REASON:
            return "" if self.state == "FAILED" else self.state
        # A cancelled job keeps the reason for which it waited before.
        return self.state if self.state == "CANCELLED" else f"{self.state} ({self.reason})"


_FORMAT = "JobArrayID:|,State:|,Reason:|,exit_code:|"

GONE = JobState("REVOKED", "no longer in the queue")
"""A job that Slurm has forgotten, as it does some minutes after its end."""


@dataclass(frozen=True)
class Limits:
    """Limits of a site."""

    array: int
    """Jobs in one array; 1 where there are no arrays."""
    jobs: int
    """Jobs of all users together."""


def site_limits() -> Limits:
    """Ask Slurm for the site's limits. Raises SlurmError."""
    config = ask_slurm("scontrol", "show", "config")
    array = re.search(r"^MaxArraySize\s*= *(\d+)", config, re.MULTILINE)
    jobs = re.search(r"^MaxJobCount\s*= *(\d+)", config, re.MULTILINE)
    # Without a number, Slurm's defaults.
    return Limits(max(1, int(array[1])) if array else 1001, int(jobs[1]) if jobs else 10_000)


def partitions() -> list[str]:
    """Ask Slurm for the site's partitions. Raises SlurmError."""
    return ask_slurm("sinfo", "--noheader", "--all", "--format=%R").split()


def job_states(job_ids: Iterable[str]) -> dict[str, JobState]:
    """Ask Slurm for the states of jobs (`12`, `12_3`) in one command. Raises SlurmError."""
    wanted = set(job_ids)
    arrays = sorted({job_id.partition("_")[0] for job_id in wanted})
    command = ["squeue", "--noheader", "--array", "--states=all", f"--Format={_FORMAT}"]
    try:
        lines = ask_slurm(*command, f"--jobs={','.join(arrays)}").splitlines() if arrays else []
    except SlurmError as error:
        if "Invalid job id" not in str(error):
            raise
        lines = []  # Slurm has forgotten all of them
    rows = (line.strip().split("|") for line in lines)
    states = {job_id: JobState(state, why, int(status)) for job_id, state, why, status, _ in rows}
    return {job_id: states.get(job_id, GONE) for job_id in wanted}


def cancel(job_ids: Iterable[str]) -> None:
    """Cancel jobs: SIGTERM, and SIGKILL after the site's KillWait. Raises SlurmError.

    Waiting jobs leave the queue; ended ones are ignored.
    """
    arrays: defaultdict[str, list[str]] = defaultdict(list)
    for job_id in job_ids:
        # One name per array: a command line of thousands of ids is too long.
        array, _, number = job_id.partition("_")
        arrays[array].append(number)
    names = [
        array if numbers == [""] else f"{array}_[{','.join(numbers)}]"
        for array, numbers in arrays.items()
    ]
    if names:
        ask_slurm("scancel", "--quiet", *names)
