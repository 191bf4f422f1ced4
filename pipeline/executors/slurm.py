"""Workers as jobs of a Slurm cluster, submitted by submitit in arrays; squeue tells their states.

Jobs go on without the process that submitted them, and any other can take them up by their handles.
"""

import contextlib
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError, unknown
from pipeline.executor_records import SlurmSettings
from pipeline.executors.base import Handle, Request, State
from pipeline.executors.slurm_job import SlurmError, SlurmJob, read_ending
from pipeline.executors.slurm_queue import JobState, cancel, job_states, partitions, site_limits

LEAST_INTERVAL, MOST_INTERVAL = 1.0, 15.0
"""Seconds between two questions to squeue: few when there is news, then more and more."""

_MOST_WORDS = 10_000
"""So many last bytes of what Slurm said of a job go to the worker's log."""

_TOO_MANY = re.compile(r"limit|array|temporarily|queue full", re.IGNORECASE)
"""What sbatch says when fewer jobs might be taken."""

_REMEDIES = {
    "account": "Set executor.account; `sacctmgr show associations user=$USER` lists yours.",
    "qos": "Set executor.qos; `sacctmgr show qos` lists those of the site.",
    "gres": "Take executor.gpus=0 for CPUs, or an executor.partition that has GPUs.",
    "time limit": "Take less executor.minutes; `sinfo` lists the limits of partitions.",
    "node configuration": "Take less executor.cpus or memory_gb, or another executor.partition.",
    "unrecognized option": "Correct executor.options; `sbatch --help` lists what there is.",
}


class SlurmExecutor:
    """Runs each worker in a job; those handed over together form an array, `jobs` run at once.

    Args:
        settings: what a job is given.
        folder: of the workers' logs, on a file system that all nodes share.
    Raises:
        UserError: submitit is not installed, or there is no Slurm.
    """

    lasting = True
    poll_seconds = LEAST_INTERVAL

    def __init__(self, settings: SlurmSettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder.resolve()
        self._submitit = _submitit()
        try:
            self._limits = site_limits()
            _check_partition(settings)
        except SlurmError as error:
            raise UserError(
                f"Slurm does not answer: {error}. executor=slurm runs where sbatch and squeue "
                "work; executor=local needs neither."
            ) from error
        self.max_parallel = settings.jobs
        self._ceiling = max(1, self._limits.jobs // 2)  # others want to submit as well
        self._states: dict[str, JobState] = {}
        self._ends: dict[str, State] = {}
        self._spoken: set[str] = set()
        self._looked, self._interval = -math.inf, LEAST_INTERVAL
        self._complaints: set[str] = set()

    # --- submitting ---

    @property
    def max_submitted(self) -> int:
        """Those there are and those there is room for.

        While some wait there is none: more would only be behind them.
        """
        waiting, running = self._count("waiting"), self._count("running")
        if waiting:
            return waiting + running
        return min(self._settings.jobs, self._ceiling) if running else self._ceiling

    def submit(self, requests: Sequence[Request]) -> list[Handle]:
        """Hand over workers, in as few arrays as the site allows, one array after the other.

        Raises:
            UserError: sbatch refuses them, and not for what is there already.
        """
        left, size = list(requests), self._limits.array
        handles: list[Handle] = []
        while left:
            part = left[:size]
            try:
                handles += self._submit_array(part, after=handles[-1:])
            except SlurmError as error:
                if len(part) > 1 and _TOO_MANY.search(str(error)):
                    size = len(part) // 2
                    continue
                self._refused(error)
                break
            del left[: len(part)]
        return handles

    def _refused(self, error: SlurmError) -> None:
        """Try again when fewer are there; raises UserError if none is."""
        alive = self._count("waiting", "running")
        if not alive:
            raise UserError(f"Slurm refuses the jobs: {error}{_remedy(error)}") from error
        self._ceiling = alive
        self._complain("sbatch", f"Slurm takes no more jobs now ({error}); the rest follows later")

    def _count(self, *phases: str) -> int:
        return sum(state.phase in phases for state in self._states.values())

    def _submit_array(self, requests: Sequence[Request], after: Sequence[Handle]) -> list[Handle]:
        """Submit an array; behind another one, so that no more run at once. Raises SlurmError."""
        folder = self._folder / "slurm"
        folder.mkdir(parents=True, exist_ok=True)
        engine = self._submitit.SlurmExecutor(folder, python=f"{shlex.quote(sys.executable)} -P")
        engine.update_parameters(**self._parameters(after))
        try:
            with _outside_of_jobs(), engine.batch():
                jobs = [engine.submit(self._job(request)) for request in requests]
        except (RuntimeError, OSError) as error:
            raise SlurmError(str(error).strip().replace("\n", " ")) from error
        finally:
            _remove(folder, ".submission_file_*", f"{'[0-9a-f]' * 32}.pkl")
        handles = [Handle(r.tag, job.job_id) for r, job in zip(requests, jobs, strict=True)]
        self._states.update({handle.where: JobState("PENDING") for handle in handles})
        self._interval = LEAST_INTERVAL
        return handles

    def _job(self, request: Request) -> SlurmJob:
        return SlurmJob(
            argv=request.argv,
            log=str(request.log),
            ending=str(self._ending(request.tag)),
            device="cuda" if self._settings.gpus else "cpu",
            threads=self._settings.cpus,
        )

    def _parameters(self, after: Sequence[Handle]) -> dict[str, Any]:
        """What submitit is told; options that it has no name for are `additional_parameters`."""
        s = self._settings
        additional: dict[str, Any] = {"requeue": True, **s.sbatch_options}
        if after:
            array = after[0].where.partition("_")[0]
            additional["dependency"] = f"afterany:{array}"
        return {
            "job_name": f"atlas-{self._folder.parent.name}",
            "time": s.minutes,
            "cpus_per_task": s.cpus,
            "mem": f"{math.ceil(s.memory_gb * 1e9 / 2**20)}M",
            "gpus_per_node": s.gpus or None,
            "partition": s.partition,
            "account": s.account,
            "qos": s.qos,
            "setup": list(s.setup),
            "array_parallelism": s.jobs,
            "signal_delay_s": s.notice_seconds,
            "stderr_to_stdout": True,
            "wckey": None,
            # Since Slurm 22.05 srun does not take this from its job.
            "srun_args": [f"--cpus-per-task={s.cpus}"],
            "additional_parameters": additional,
        }

    # --- looking ---

    def poll(self, handles: Sequence[Handle]) -> dict[str, State]:
        """States as squeue told them last; it is asked now and then, for all jobs at once."""
        if self._is_news(handles):
            self._interval = LEAST_INTERVAL
        if handles and time.monotonic() >= self._looked + self._interval:
            self._look(handles)
        return {handle.tag: self._state(handle) for handle in handles}

    def _is_news(self, handles: Sequence[Handle]) -> bool:
        """Whether a worker wrote down how it ended since this was asked last."""
        spoken = {handle.tag for handle in handles if self._ending(handle.tag).exists()}
        news = spoken - self._spoken
        self._spoken |= spoken
        return bool(news)

    def _look(self, handles: Sequence[Handle]) -> None:
        """Ask squeue. While it does not answer, jobs are taken to be as they were."""
        self._looked = time.monotonic()
        try:
            states = job_states(handle.where for handle in handles)
        except SlurmError as error:
            self._interval = MOST_INTERVAL
            self._complain("squeue", f"Slurm does not answer ({error}); waiting until it does")
            return
        self._complaints.discard("squeue")
        changed = states != {where: self._states.get(where) for where in states}
        self._interval = LEAST_INTERVAL if changed else min(2 * self._interval, MOST_INTERVAL)
        self._states = states
        for reason in {state.reason for state in states.values() if state.needs_help}:
            self._complain(reason, f"Slurm keeps jobs waiting: {reason}")

    def _state(self, handle: Handle) -> State:
        job = self._states.get(handle.where, JobState("PENDING"))
        if job.phase != "ended":
            return State(job.phase, told=job.remark)
        if handle.tag not in self._ends:
            self._ends[handle.tag] = self._end(handle, job)
        return self._ends[handle.tag]

    def _end(self, handle: Handle, job: JobState) -> State:
        """How a worker ended: what was written down, else what Slurm knows."""
        os.listdir(self._folder)  # a network file system then shows what is new in it
        code = read_ending(self._ending(handle.tag))
        said = self._folder / "slurm" / f"{handle.where}_0_log.out"
        if code is None and said.exists():
            with open(self._folder / f"{handle.tag}.log", "ab") as log:
                log.write(said.read_bytes()[-_MOST_WORDS:])
        _remove(said.parent, f"{handle.where}_submitted.pkl", *([said.name] if code == 0 else []))
        return State("ended", job.exit_code if code is None else code, job.remark)

    def _ending(self, tag: str) -> Path:
        return self._folder / f"{tag}.exit"

    # --- ending ---

    def stop(self, handles: Sequence[Handle]) -> None:
        """scancel: SIGTERM, and SIGKILL when the site's KillWait is over; who waits, leaves."""
        try:
            cancel(handle.where for handle in handles)
            self._complaints.discard("scancel")
        except SlurmError as error:
            self._complain("scancel", f"Slurm does not cancel jobs: {error}")
        self._interval = LEAST_INTERVAL

    def kill(self, handles: Sequence[Handle]) -> None:
        """The same: sooner than the site wants, only its administrators can."""
        self.stop(handles)

    def close(self) -> None:
        """Nothing: the jobs go on."""

    def _complain(self, about: str, text: str) -> None:
        """Say it, but once as long as it lasts."""
        if about not in self._complaints:
            print(f"\nnote: {text}", file=sys.stderr)
        self._complaints.add(about)


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            "executor=slurm needs submitit: pip install 'layer-atlas[slurm]'."
        ) from error
    return submitit


def _check_partition(settings: SlurmSettings) -> None:
    if settings.partition:
        known = partitions()
        for name in settings.partition.split(","):
            if name not in known:
                raise unknown("executor.partition", name, known, "`sinfo` tells more of them.")


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide what a surrounding job says of itself; sbatch would take it for the new jobs'."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(("SLURM_", "SRUN_", "SUBMITIT_")) and name != "SLURM_CONF"
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


def _remove(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def _remedy(error: SlurmError) -> str:
    words = str(error).lower()
    return next((f". {remedy}" for word, remedy in _REMEDIES.items() if word in words), "")
