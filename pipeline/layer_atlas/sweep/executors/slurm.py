"""Workers as jobs of a Slurm cluster, submitted by submitit in arrays; squeue tells their states.

Jobs go on without the process that submitted them, and any other can take them up by their handles.
"""

import io
import math
import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from layer_atlas.config.executors import SlurmSettings
from layer_atlas.errors import EXIT_OK, StorageError, UserError, unknown
from layer_atlas.sweep.executors.base import Handle, State, WorkerSpec
from layer_atlas.sweep.executors.slurm_job import SlurmError, SlurmJob, read_ending
from layer_atlas.sweep.executors.slurm_queue import (
    JobState,
    cancel,
    job_states,
    partitions,
    site_limits,
)

LEAST_INTERVAL, MOST_INTERVAL = 1.0, 15.0
"""Seconds between two questions to squeue: few when there is news, then more and more."""

_MOST_WORDS = 10_000
"""So many last bytes of what Slurm said of a job go to the worker's log."""

_TOO_MANY = re.compile(r"limit|array|temporarily|queue full", re.IGNORECASE)
"""What sbatch says when fewer jobs might be taken."""


class SlurmExecutor:
    """Runs each worker in a job; those handed over together form an array, `jobs` run at once.

    Args:
        settings: what a job is given.
        folder: of the workers' logs, on a file system that all nodes share.
    Raises:
        UserError: submitit is not installed, or there is no Slurm.
    """

    detached = True
    poll_seconds = LEAST_INTERVAL

    def __init__(self, settings: SlurmSettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder.resolve()
        self._submitter = Submitter(settings, self._folder / "slurm")
        try:
            limits = site_limits()
            _check_partition(settings)
        except SlurmError as error:
            raise UserError(
                f"Slurm does not answer: {error}. executor=slurm runs where sbatch and squeue "
                "work; executor=local needs neither."
            ) from error
        self.max_parallel = settings.jobs
        self._longest_array = limits.array
        self._ceiling = max(1, limits.jobs // 2)  # others want to submit as well
        self._states: dict[str, JobState] = {}
        self._ends: dict[str, State] = {}
        self._spoken: set[str] = set()
        self._looked, self._interval = -math.inf, LEAST_INTERVAL
        self._complaints: set[str] = set()

    # --- submitting ---

    @property
    def max_submitted(self) -> int:
        """Those there are and those there is room for.

        While some wait there is no use for more, which would only be behind them; unless nobody
        will be there later to submit them.
        """
        if self._settings.detach or not self._alive():
            return self._ceiling
        if self._alive("waiting"):
            return len(self._alive())
        return min(self._settings.jobs, self._ceiling)

    def submit(self, requests: Sequence[WorkerSpec]) -> list[Handle]:
        """Hand over workers, in as few arrays as the site allows, one array after the other.

        Raises:
            UserError: sbatch refuses them, and not for what is there already.
        """
        left, size = list(requests), self._longest_array
        handles: list[Handle] = []
        while left:
            part = left[:size]
            try:
                handles += self._submit_array(part)
            except SlurmError as error:
                if len(part) > 1 and _TOO_MANY.search(str(error)):
                    size = len(part) // 2
                    continue
                self._refused(error)
                break
            del left[: len(part)]
        return handles

    def _submit_array(self, requests: Sequence[WorkerSpec]) -> list[Handle]:
        """Submit an array; after those that have jobs in the queue, so that no more run at once."""
        earlier = self._alive() if self._settings.detach else self._alive("waiting")
        ids = self._submitter.submit(requests, sorted({job.partition("_")[0] for job in earlier}))
        self._states.update({job: JobState("PENDING") for job in ids})
        self._interval = LEAST_INTERVAL
        return [Handle(r.tag, job) for r, job in zip(requests, ids, strict=True)]

    def _refused(self, error: SlurmError) -> None:
        """Try again when fewer are there; raises UserError if none is."""
        if not self._alive():
            raise UserError(f"Slurm refuses the jobs: {error}{remedy(error)}") from error
        self._ceiling = len(self._alive())
        self._complain("sbatch", f"Slurm takes no more jobs now ({error}); the rest follows later")

    def _alive(self, *phases: str) -> list[str]:
        """Jobs that wait or run; or of the given phases."""
        wanted = phases or ("waiting", "running")
        return [job for job, state in self._states.items() if state.phase in wanted]

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
        running = set(self._alive("running"))
        tags = (handle.tag for handle in handles if handle.job_id in running)
        spoken = {tag for tag in tags if self._ending(tag).exists()}
        news = spoken - self._spoken
        self._spoken |= spoken
        return bool(news)

    def _look(self, handles: Sequence[Handle]) -> None:
        """Ask squeue. While it does not answer, jobs are taken to be as they were."""
        self._looked = time.monotonic()
        try:
            states = job_states({*self._alive(), *(handle.job_id for handle in handles)})
        except SlurmError as error:
            self._interval = MOST_INTERVAL
            self._complain("squeue", f"Slurm does not answer ({error}); waiting until it does")
            return
        self._complaints.discard("squeue")
        changed = states != {where: self._states.get(where) for where in states}
        self._interval = LEAST_INTERVAL if changed else min(2 * self._interval, MOST_INTERVAL)
        self._states.update(states)
        for reason in {state.reason for state in states.values() if state.needs_help}:
            self._complain(reason, f"Slurm keeps jobs waiting: {reason}")

    def _state(self, handle: Handle) -> State:
        job = self._states.get(handle.job_id, JobState("PENDING"))
        if job.phase != "ended":
            return State(job.phase, reason=job.remark)
        if handle.tag not in self._ends:
            self._ends[handle.tag] = self._end(handle, job)
        return self._ends[handle.tag]

    def _end(self, handle: Handle, job: JobState) -> State:
        """How a worker ended: what was written down, else what Slurm knows."""
        os.listdir(self._folder)  # a network file system then shows what is new in it
        code = read_ending(self._ending(handle.tag))
        said = self._submitter.said(handle.job_id)
        if code is None and said.exists():
            with open(self._folder / f"{handle.tag}.log", "ab") as log:
                log.write(said.read_bytes()[-_MOST_WORDS:])
        self._submitter.forget(handle.job_id, keep_words=code != EXIT_OK)
        return State("ended", job.exit_code if code is None else code, job.remark)

    def _ending(self, tag: str) -> Path:
        return self._folder / f"{tag}.exit"

    # --- ending ---

    def stop(self, handles: Sequence[Handle]) -> None:
        """scancel: SIGTERM, and SIGKILL when the site's KillWait is over; who waits, leaves."""
        try:
            cancel(handle.job_id for handle in handles)
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


def _check_partition(settings: SlurmSettings) -> None:
    if settings.partition:
        known = partitions()
        for name in settings.partition.split(","):
            if name not in known:
                raise unknown("executor.partition", name, known, "`sinfo` tells more of them.")


_COMMANDS = ("sbatch", "srun", "squeue", "scancel", "scontrol", "sinfo")

_REMEDIES = {
    "account": "Set executor.account; `sacctmgr show associations user=$USER` lists yours.",
    "qos": "Set executor.qos; `sacctmgr show qos` lists those of the site.",
    "without type": "Choose a kind of GPU by executor.options={gpus-per-node: 'KIND:1'}.",
    "gres": "Take executor.gpus=0 for CPUs, or an executor.partition that has GPUs.",
    "feature": "Correct executor.options; `sinfo --format='%P %f'` lists the features of nodes.",
    "time limit": "Take less executor.minutes; `sinfo` lists the limits of partitions.",
    "processors": "Take less executor.cpus, or another executor.partition.",
    "node configuration": "Take less executor.cpus or memory_gb, or another executor.partition.",
    "unrecognized option": "Correct executor.options; `sbatch --help` lists what there is.",
}


class Submitter:
    """Submits workers as arrays of jobs, all of which are given the same.

    Args:
        settings: what a job is given.
        folder: for submitit's files, on a file system that all nodes share.
    Raises:
        UserError: submitit or Slurm's commands are missing.
    """

    def __init__(self, settings: SlurmSettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._submitit = _submitit()

    def submit(self, requests: Sequence[WorkerSpec], after: Sequence[str]) -> list[str]:
        """Submit an array, of which each job starts a worker.

        Args:
            requests: the workers.
            after: arrays that are to end first.
        Returns:
            the jobs' ids.
        Raises:
            SlurmError: sbatch refuses.
            StorageError: the disk is full or fails.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        python = f"{shlex.quote(sys.executable)} -P"
        engine = self._submitit.SlurmExecutor(self._folder, python=python)
        engine.update_parameters(**self._parameters(after))
        try:
            # What submitit prints of a refusal is told by the exception as well.
            with _outside_of_jobs(), redirect_stderr(io.StringIO()), engine.batch():
                jobs = [engine.submit(self._job(request)) for request in requests]
        except RuntimeError as error:
            raise SlurmError(
                " ".join(re.sub("sbatch: (error: )?", "", str(error)).split())
            ) from error
        except OSError as error:
            raise StorageError(f"cannot write {self._folder}: {error.strerror or error}") from error
        finally:
            _remove(self._folder, ".submission_file_*", f"{'[0-9a-f]' * 32}.pkl")
        return [str(job.job_id) for job in jobs]

    def said(self, job: str) -> Path:
        """What Slurm and submitit said of a job."""
        return self._folder / f"{job}_0_log.out"

    def forget(self, job: str, keep_words: bool) -> None:
        """Remove the files of a job that has ended; what was said of it may be kept."""
        said = [] if keep_words else [self.said(job).name]
        _remove(self._folder, f"{job}_submitted.pkl", *said)

    def _job(self, request: WorkerSpec) -> SlurmJob:
        return SlurmJob(
            argv=request.argv,
            log=str(request.log),
            ending=str(request.log.with_suffix(".exit")),
            device="cuda" if self._settings.gpus else "cpu",
            threads=self._settings.cpus,
        )

    def _parameters(self, after: Sequence[str]) -> dict[str, Any]:
        """What submitit is told; options that it has no name for are `additional_parameters`."""
        s = self._settings
        additional: dict[str, Any] = {"requeue": True, **s.sbatch_options}
        if after:
            additional["dependency"] = f"afterany:{':'.join(after)}"
        return {
            "job_name": f"atlas-{self._folder.parents[1].name}",
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


def _submitit() -> Any:
    missing = [command for command in _COMMANDS if shutil.which(command) is None]
    if missing:
        raise UserError(
            f"executor=slurm needs Slurm's commands; there is no {', '.join(missing)} here. Start "
            "it on a machine of the cluster from which jobs are submitted."
        )
    try:
        import submitit
    except ImportError as error:
        raise UserError(
            "executor=slurm needs submitit: pip install 'layer-atlas[slurm]'."
        ) from error
    return submitit


@contextmanager
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


def remedy(error: SlurmError) -> str:
    """What a user can do about a refusal, if that is known."""
    words = str(error).lower()
    return next((f". {remedy}" for word, remedy in _REMEDIES.items() if word in words), "")
