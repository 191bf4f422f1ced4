"""What Slurm's own commands tell: limits of the site, states of jobs; and how to cancel some."""

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from layer_atlas.errors import EXIT_PREEMPTED
from layer_atlas.sweep.executors.slurm_job import SlurmError, ask_slurm

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


@dataclass(frozen=True)
class JobState:
    """What squeue says of a job."""

    state: str
    """In Slurm's words: PENDING, RUNNING, COMPLETED, ..."""
    reason: str = "None"
    """Why it is in that state."""
    status: int = 0
    """How its script ended, as a parent is told (`os.wait`)."""

    @property
    def phase(self) -> Literal["waiting", "running", "ended"]:
        """The same in ours; a job that Slurm has suspended or requeued waits."""
        if self.state in _RUNNING:
            return "running"
        return "ended" if self.state in _ENDED else "waiting"

    @property
    def exit_code(self) -> int | None:
        """Of one that ended by itself, or was sent away; else nobody knows."""
        if self.state in ("CANCELLED", "PREEMPTED"):  # too soon to say so itself
            return EXIT_PREEMPTED
        if self.state not in ("COMPLETED", "FAILED"):
            return None
        code = os.waitstatus_to_exitcode(self.status)
        return code if code <= 128 else 128 - code  # what shells make of a signal

    @property
    def needs_help(self) -> bool:
        """Whether it waits for what will not come by itself."""
        return self.phase == "waiting" and self.reason in _FOR_HELP

    @property
    def remark(self) -> str:
        """What is worth telling: `NODE_FAIL`, `PENDING (PartitionConfig)`; else nothing."""
        if self.state in ("COMPLETED", *_RUNNING):
            return ""
        if self.reason in _NO_REASON:
            return "" if self.state == "FAILED" else self.state
        # A job that was cancelled keeps the reason for which it waited before.
        return self.state if self.state == "CANCELLED" else f"{self.state} ({self.reason})"


_FORMAT = "JobArrayID:|,State:|,Reason:|,exit_code:|"

GONE = JobState("REVOKED", "no longer in the queue")
"""Of a job that Slurm has forgotten, as it does some minutes after its end."""


@dataclass(frozen=True)
class Limits:
    """How much a site takes."""

    array: int
    """Jobs in one array; 1 where there are no arrays."""
    jobs: int
    """Jobs altogether, of all users."""


def site_limits() -> Limits:
    """Ask Slurm for the site's limits. Raises SlurmError."""
    lines = ask_slurm("scontrol", "show", "config").splitlines()
    settings = {name.strip(): value.strip() for name, _, value in (s.partition("=") for s in lines)}
    return Limits(
        max(1, _number(settings, "MaxArraySize", 1001)), _number(settings, "MaxJobCount", 10_000)
    )


def partitions() -> list[str]:
    """Ask Slurm for the site's partitions. Raises SlurmError."""
    return ask_slurm("sinfo", "--noheader", "--all", "--format=%R").split()


def _number(settings: Mapping[str, str], name: str, default: int) -> int:
    value = settings.get(name, "").split(" ")[0]
    return int(value) if value.isdigit() else default


def job_states(jobs: Iterable[str]) -> dict[str, JobState]:
    """Ask Slurm for the states of jobs (`12`, `12_3`), in one question. Raises SlurmError."""
    wanted = set(jobs)
    ids = sorted({job.partition("_")[0] for job in wanted})
    command = ["squeue", "--noheader", "--array", "--states=all", f"--Format={_FORMAT}"]
    try:
        lines = ask_slurm(*command, f"--jobs={','.join(ids)}").splitlines() if ids else []
    except SlurmError as error:
        if "Invalid job id" not in str(error):
            raise
        lines = []  # all are forgotten
    told = (line.strip().split("|") for line in lines)
    states = {job: JobState(state, reason, int(status)) for job, state, reason, status, _ in told}
    return {job: states.get(job, GONE) for job in wanted}


def cancel(jobs: Iterable[str]) -> None:
    """SIGTERM, and after a time that the site sets SIGKILL; who waits, leaves. Raises SlurmError.

    Jobs that have ended are none to worry about.
    """
    arrays: defaultdict[str, list[str]] = defaultdict(list)
    for job in jobs:
        array, _, number = job.partition("_")
        arrays[array].append(number)
    named = [
        array if numbers == [""] else f"{array}_[{','.join(numbers)}]"
        for array, numbers in arrays.items()
    ]
    if named:
        ask_slurm("scancel", "--quiet", *named)
