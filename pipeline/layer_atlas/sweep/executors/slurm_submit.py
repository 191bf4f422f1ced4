"""Handing workers to Slurm: submitit writes the scripts, pickles the jobs and calls sbatch."""

import io
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

from layer_atlas.config.executors import SlurmSettings
from layer_atlas.errors import StorageError, UserError
from layer_atlas.sweep.executors.base import WorkerSpec
from layer_atlas.sweep.executors.slurm_job import SlurmError, SlurmJob

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
