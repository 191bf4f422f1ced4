"""The executors: where workers run, and which hardware each of them gets.

How a sweep is run decides no pixel: nothing of this is in a recipe or a key.
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from layer_atlas.config.records import Choice, register, require, setting


@dataclass(frozen=True)
class ExecutorSettings(Choice, family="executor"):
    """Base of the executors: how often and how long the driver waits for workers."""

    attempts: int = setting(3, at_least=1)
    """Number of attempts at a shard, over all runs, before it is quarantined."""
    stall_seconds: float = setting(900.0, above=0)
    """Seconds without progress after which a worker is taken to hang, and is replaced."""
    grace_seconds: float = setting(10.0, at_least=0)
    """Seconds that a worker has to exit after SIGTERM, before it is killed."""
    bundle_minutes: float = setting(20.0, above=0)
    """Approximate minutes that a worker runs before a fresh one replaces it."""

    @property
    def engine(self) -> str:
        """Name of the executor in the records of its workers."""
        return self.name

    @property
    def most_workers(self) -> int:
        """Largest number of workers at once, as far as the settings name it."""
        return 1

    @property
    def on_gpus(self) -> bool:
        """Whether each worker gets a GPU, as far as the settings name it."""
        return False


@register("local")
class LocalSettings(ExecutorSettings):
    """Worker processes on this machine, one per device."""

    devices: str | tuple[str, ...] = setting("auto", needs="name at least one device")
    """`auto` for all GPUs, or without a GPU one CPU worker per core (at most 8, 2 GB each); or a
    list such as `[cuda:0,cuda:1]` or `[cpu,cpu]`."""


@register("in_process")
class InProcessSettings(ExecutorSettings):
    """One worker within the driver's own process: no process to start, one device.

    For modules in memory, notebooks and debuggers. Ctrl-C drops the shard in progress."""

    device: str = setting("auto", needs="name a device")
    """`auto` for the first GPU, or the CPU where there is none; or `cpu`, `cuda:1`."""


@dataclass(frozen=True)
class _Elsewhere(ExecutorSettings):
    """Base of executors whose workers may run on other machines."""

    gpus: int = setting(1, at_least=0, at_most=1)
    """GPUs per worker: 1, or 0 for workers on CPUs. A worker uses one device."""

    @property
    def on_gpus(self) -> bool:
        """Whether each worker gets a GPU."""
        return self.gpus > 0


@dataclass(frozen=True)
class _Cluster(_Elsewhere):
    """Base of executors of clusters, which reserve hardware for each worker."""

    cpus: int = setting(4, at_least=1)
    """CPU cores per worker."""
    memory_gb: float = setting(8.0, above=0)
    """Memory per worker, in GB (10^9 bytes)."""


@register("ray")
class RaySettings(_Cluster):
    """Tasks of a Ray cluster whose nodes share the output folder."""

    address: str = "local"
    """`local` starts Ray on this machine, `auto` joins the cluster that this machine belongs to,
    and `HOST:PORT` or `ray://HOST:10001` joins another."""
    workers: int | None = setting(None, at_least=1)
    """Largest number of workers at once; the default is as many as the cluster has room for."""

    def check(self) -> None:
        """Check the form of the address."""
        require(
            self.address in ("local", "auto") or self.host_and_port is not None,
            f"address must be local, auto, HOST:PORT or ray://HOST:10001, not {self.address!r}.",
        )

    @property
    def most_workers(self) -> int:
        """Largest number of workers at once; 1 where it depends on the cluster."""
        return self.workers or 1

    @property
    def host_and_port(self) -> tuple[str, int] | None:
        """Host and port of the cluster, if the address names them."""
        place = urlsplit(f"//{self.address.removeprefix('ray://')}")
        try:
            return (place.hostname, place.port) if place.hostname and place.port else None
        except ValueError:  # a port that is no number
            return None


@register("slurm")
class SlurmSettings(_Cluster):
    """Jobs of a Slurm cluster whose nodes share the output folder."""

    jobs: int = setting(8, at_least=1)
    """Largest number of jobs at once."""
    minutes: int = setting(240, at_least=1)
    """Time limit of a job in minutes. A job that reaches it is queued again and resumes."""
    notice_seconds: int = setting(60, at_least=1)
    """Seconds before its time limit at which a job receives SIGTERM."""
    partition: str | None = None
    """Partition to submit to; the default is the site's."""
    account: str | None = None
    """Account to charge; the default is the user's."""
    qos: str | None = None
    """Quality of service to ask for; the default is the site's."""
    options: dict[str, str | int | bool] = field(default_factory=dict)
    """Further options of sbatch by their long names: `{constraint: a100, exclude: node7}`."""
    setup: tuple[str, ...] = ()
    """Lines of shell that a job begins with: `[module load cuda]`."""
    detach: bool = False
    """Whether the driver exits when all jobs are submitted. Running again collects them."""

    def check(self) -> None:
        """Check the notice against the time limit, and the options against those of workers."""
        require(
            self.notice_seconds < 60 * self.minutes,
            f"notice_seconds must be less than the time limit, {60 * self.minutes} s, not "
            f"{self.notice_seconds}.",
        )
        # With these options changed, jobs could not be found or preempted.
        taken = min(_OWN_OPTIONS & self.sbatch_options.keys(), default=None)
        require(taken is None, f"options must leave {taken} alone: workers depend on it.")

    @property
    def most_workers(self) -> int:
        """Largest number of workers at once."""
        return self.jobs

    @property
    def sbatch_options(self) -> dict[str, str | int | bool]:
        """The options, spelt with `_` throughout, without those that are false."""
        return {
            name.lstrip("-").replace("-", "_"): value
            for name, value in self.options.items()
            if value is not False
        }


_OWN_OPTIONS = {"array", "dependency", "output", "error", "signal", "requeue", "no_requeue"}
"""Options of sbatch by which jobs are found, preempted and queued again."""


@register("custom")
class CustomSettings(_Elsewhere):
    """Workers that the user's own code runs."""

    target: str = setting("", needs="name a callable: executor.target=mymodule.Mine")
    """Dotted name of a callable that returns a `layer_atlas.sweep.executors.base.Executor`. It
    receives the workers' devices, as many as may run at once: `cpu` for each, or `cuda`."""
    args: dict[str, Any] | None = None
    """Further keyword arguments of the callable."""
    workers: int = setting(1, at_least=1)
    """Largest number of workers at once."""

    @property
    def engine(self) -> str:
        """The code that runs the workers: other code does not know them."""
        return self.target

    @property
    def most_workers(self) -> int:
        """Largest number of workers at once."""
        return self.workers
