"""Workers as jobs of a Slurm cluster: submitit submits them in arrays, squeue reports their states.

Jobs go on without the process that submitted them, and any other can adopt them by their job ids.
"""

import io
import logging
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
from layer_atlas.sweep.executors.base import State, WorkerJob, WorkerSpec
from layer_atlas.sweep.executors.slurm_job import (
    JobState,
    SlurmError,
    SlurmJob,
    cancel,
    job_states,
    partitions,
    read_ending,
    site_limits,
)

logger = logging.getLogger(__name__)

LEAST_INTERVAL, MOST_INTERVAL = 1.0, 15.0
"""Seconds between two squeue commands; the interval doubles while nothing changes."""

_MOST_LOG_BYTES = 10_000
"""The end of Slurm's own output of a job that is copied to the worker's log."""

_TOO_MANY = re.compile(r"limit|array|temporarily|queue full", re.IGNORECASE)
"""Errors of sbatch that a smaller array may avoid."""


class SlurmExecutor:
    """Runs each worker in a job; those submitted together form an array, `jobs` run at once.

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
        self._ceiling = max(1, limits.jobs // 2)  # leaves room for the jobs of other users
        self._states: dict[str, JobState] = {}
        self._ended: dict[str, State] = {}
        self._recorded: set[str] = set()
        self._polled_at, self._interval = -math.inf, LEAST_INTERVAL
        self._warned: set[str] = set()

    # --- submitting ---

    @property
    def max_submitted(self) -> int:
        """Number of jobs in the queue, plus those that there is room for.

        While jobs wait, further ones would only queue behind them. With `detach` all are submitted
        at once, because nobody will be there to submit the others later.
        """
        # Nothing in the queue: the ceiling alone limits the first submission.
        if self._settings.detach or not self._alive():
            return self._ceiling
        if self._alive("waiting"):
            return len(self._alive())
        return min(self._settings.jobs, self._ceiling)

    def submit(self, specs: Sequence[WorkerSpec]) -> list[WorkerJob]:
        """Submit workers in as few arrays as the site allows, one array after the other.

        Raises:
            UserError: sbatch refuses them although no other job is in the queue.
        """
        left, size = list(specs), self._longest_array
        jobs: list[WorkerJob] = []
        while left:
            part = left[:size]
            try:
                jobs += self._submit_array(part)
            except SlurmError as error:
                # Limits of accounts and partitions are not in the site's configuration.
                if len(part) > 1 and _TOO_MANY.search(str(error)):
                    size = len(part) // 2
                    continue
                self._handle_refusal(error)
                break
            del left[: len(part)]
        return jobs

    def _submit_array(self, specs: Sequence[WorkerSpec]) -> list[WorkerJob]:
        # A new array depends on those with jobs in the queue, so that no more than `jobs` run.
        earlier = self._alive() if self._settings.detach else self._alive("waiting")
        arrays = sorted({job_id.partition("_")[0] for job_id in earlier})
        job_ids = self._submitter.submit(specs, arrays)
        self._states.update({job_id: JobState("PENDING") for job_id in job_ids})
        self._interval = LEAST_INTERVAL
        return [WorkerJob(s.tag, job_id) for s, job_id in zip(specs, job_ids, strict=True)]

    def _handle_refusal(self, error: SlurmError) -> None:
        """Retry when fewer jobs are in the queue; raises UserError if none is."""
        if not self._alive():
            raise UserError(f"Slurm refuses the jobs: {error}{_remedy(error)}") from error
        self._ceiling = len(self._alive())
        self._warn("sbatch", f"Slurm takes no more jobs now ({error}); the rest follows later")

    def _alive(self, *phases: str) -> list[str]:
        """Ids of jobs that wait or run, or that are in one of the given phases."""
        wanted = phases or ("waiting", "running")
        return [job_id for job_id, state in self._states.items() if state.phase in wanted]

    # --- polling ---

    def poll(self, jobs: Sequence[WorkerJob]) -> dict[str, State]:
        """Return the states that squeue reported last; asks it now and then for all jobs."""
        if self._has_news(jobs):
            self._interval = LEAST_INTERVAL
        if jobs and time.monotonic() >= self._polled_at + self._interval:
            self._update(jobs)
        return {job.tag: self._state(job) for job in jobs}

    def _has_news(self, jobs: Sequence[WorkerJob]) -> bool:
        """Whether a worker has recorded its end since the last poll."""
        running = set(self._alive("running"))
        tags = (job.tag for job in jobs if job.job_id in running)
        news = {tag for tag in tags if self._ending(tag).exists()} - self._recorded
        self._recorded |= news
        return bool(news)

    def _update(self, jobs: Sequence[WorkerJob]) -> None:
        """Ask squeue. While it does not answer, the last known states stand."""
        self._polled_at = time.monotonic()
        try:
            states = job_states({*self._alive(), *(job.job_id for job in jobs)})
        except SlurmError as error:
            self._interval = MOST_INTERVAL
            self._warn("squeue", f"Slurm does not answer ({error}); waiting until it does")
            return
        self._warned.discard("squeue")
        changed = states != {job_id: self._states.get(job_id) for job_id in states}
        # squeue loads the controller that all users of the cluster share.
        self._interval = LEAST_INTERVAL if changed else min(2 * self._interval, MOST_INTERVAL)
        self._states.update(states)
        for reason in {state.reason for state in states.values() if state.needs_help}:
            self._warn(reason, f"Slurm keeps jobs waiting: {reason}")

    def _state(self, job: WorkerJob) -> State:
        state = self._states.get(job.job_id, JobState("PENDING"))
        if state.phase != "ended":
            return State(state.phase, reason=state.remark)
        if job.tag not in self._ended:
            self._ended[job.tag] = self._end(job, state)
        return self._ended[job.tag]

    def _end(self, job: WorkerJob, state: JobState) -> State:
        """How a worker ended: its recorded exit code, else that of Slurm."""
        os.listdir(self._folder)  # makes a network file system show new files
        code = read_ending(self._ending(job.tag))
        output = self._submitter.output(job.job_id)
        if code is None and output.exists():  # the job died before its worker: Slurm says why
            with open(self._folder / f"{job.tag}.log", "ab") as log:
                log.write(output.read_bytes()[-_MOST_LOG_BYTES:])
        self._submitter.remove_files(job.job_id, keep_output=code != EXIT_OK)
        return State("ended", state.exit_code if code is None else code, state.remark)

    def _ending(self, tag: str) -> Path:
        return self._folder / f"{tag}.exit"

    # --- ending ---

    def stop(self, jobs: Sequence[WorkerJob]) -> None:
        """Cancel jobs: SIGTERM, then SIGKILL after the site's KillWait."""
        try:
            cancel(job.job_id for job in jobs)
            self._warned.discard("scancel")
        except SlurmError as error:
            self._warn("scancel", f"Slurm does not cancel jobs: {error}")
        self._interval = LEAST_INTERVAL

    def kill(self, jobs: Sequence[WorkerJob]) -> None:
        """Cancel jobs: only administrators can kill them sooner than KillWait."""
        self.stop(jobs)

    def close(self) -> None:
        """Do nothing: the jobs go on."""

    def _warn(self, about: str, text: str) -> None:
        """Log a warning once for as long as its cause lasts."""
        if about not in self._warned:
            logger.warning("%s", text)
        self._warned.add(about)


def _check_partition(settings: SlurmSettings) -> None:
    if settings.partition:
        known = partitions()
        for name in settings.partition.split(","):
            if name not in known:
                raise unknown("executor.partition", name, known, "`sinfo` tells more of them.")


# --- submission by submitit ----------------------------------------------------------------------


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
"""What helps, by a part of sbatch's message in lower case."""


class Submitter:
    """Submits workers as arrays of jobs with the same resources.

    Args:
        settings: what a job is given.
        folder: for submitit's files, on a file system that all nodes share.
    Raises:
        UserError: submitit or Slurm's commands are missing.
    """

    def __init__(self, settings: SlurmSettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._submitit = _import_submitit()

    def submit(self, specs: Sequence[WorkerSpec], after: Sequence[str]) -> list[str]:
        """Submit an array with one job per worker.

        Args:
            specs: the workers.
            after: arrays that must end first.
        Returns:
            the job ids.
        Raises:
            SlurmError: sbatch refuses.
            StorageError: the disk is full or fails.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        python = f"{shlex.quote(sys.executable)} -P"
        engine = self._submitit.SlurmExecutor(self._folder, python=python)
        engine.update_parameters(**self._parameters(after))
        try:
            # submitit prints a refusal, which its exception contains as well.
            with _outside_of_jobs(), redirect_stderr(io.StringIO()), engine.batch():
                jobs = [engine.submit(self._job(spec)) for spec in specs]
        except RuntimeError as error:
            message = " ".join(re.sub("sbatch: (error: )?", "", str(error)).split())
            raise SlurmError(message) from error
        except OSError as error:
            raise StorageError(f"cannot write {self._folder}: {error.strerror or error}") from error
        finally:
            # Left over where sbatch refused, or submitit died between two of its steps.
            self._remove(".submission_file_*", f"{'[0-9a-f]' * 32}.pkl")
        return [str(job.job_id) for job in jobs]

    def output(self, job_id: str) -> Path:
        """The file with the output of Slurm and submitit for a job."""
        return self._folder / f"{job_id}_0_log.out"

    def remove_files(self, job_id: str, keep_output: bool) -> None:
        """Remove the files of a job that has ended."""
        self._remove(f"{job_id}_submitted.pkl")
        if not keep_output:
            self._remove(self.output(job_id).name)

    def _remove(self, *patterns: str) -> None:
        for pattern in patterns:
            for path in self._folder.glob(pattern):
                path.unlink(missing_ok=True)

    def _job(self, spec: WorkerSpec) -> SlurmJob:
        return SlurmJob(
            argv=spec.argv,
            log=str(spec.log),
            ending=str(spec.log.with_suffix(".exit")),
            device="cuda" if self._settings.gpus else "cpu",
            threads=self._settings.cpus,
        )

    def _parameters(self, after: Sequence[str]) -> dict[str, Any]:
        """submitit's parameters; options that it has no name for are `additional_parameters`."""
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


def _import_submitit() -> Any:
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
    """Hide the variables of a surrounding job: sbatch would apply them to the new ones."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(("SLURM_", "SRUN_", "SUBMITIT_")) and name != "SLURM_CONF"
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


def _remedy(error: SlurmError) -> str:
    message = str(error).lower()
    return next((f". {remedy}" for part, remedy in _REMEDIES.items() if part in message), "")
