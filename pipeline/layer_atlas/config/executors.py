"""Where workers run, and what they may take there: one record per engine.

How a sweep is run decides no pixel: nothing of this is in a recipe or a key.
"""

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from layer_atlas.config.ranges import one_or_more, require


@dataclass(frozen=True)
class Patience:
    """How long and how often an engine's workers are waited for; common to all engines."""

    name: str = ""
    """The engine, as a config names it."""
    attempts: int = 3
    """How often a shard is tried, in all runs together, before it is put in quarantine."""
    stall_seconds: float = 900.0
    """A worker that shows no progress for so long is taken to hang, and is replaced."""
    grace_seconds: float = 10.0
    """How long a worker that is told to leave may take, before it is killed."""
    bundle_minutes: float = 20.0
    """About how long a worker runs before it is replaced by a fresh one."""

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts must be 1 or more, not {self.attempts}.")
        for name in ("stall_seconds", "bundle_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}.")
        if not self.grace_seconds >= 0:
            raise ValueError(f"grace_seconds must be 0 or more, not {self.grace_seconds}.")

    @property
    def engine(self) -> str:
        """What its workers are known by where they are written down."""
        return self.name


@dataclass(frozen=True)
class LocalSettings(Patience):
    """Worker processes on this machine, one per device."""

    name: str = "local"
    devices: str | tuple[str, ...] = "auto"
    """`auto` (all GPUs, else the CPU) or a list such as `[cuda:0,cuda:1]` or `[cpu,cpu]`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.devices:
            raise ValueError("devices must name at least one device.")


@dataclass(frozen=True)
class _Elsewhere(Patience):
    """Workers whose hardware is told, because it may be that of other machines."""

    gpus: int = 1
    """GPUs per worker: 1, or 0 for workers on CPUs."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gpus not in (0, 1):
            raise ValueError(f"gpus must be 0 or 1, not {self.gpus}: a worker uses one device.")


@dataclass(frozen=True)
class _Share(_Elsewhere):
    """What each worker of a cluster is given."""

    cpus: int = 4
    """CPU cores per worker."""
    memory_gb: float = 8.0
    """Memory per worker, in GB (10^9 bytes)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cpus < 1:
            raise ValueError(f"cpus must be 1 or more, not {self.cpus}.")
        if not self.memory_gb > 0:
            raise ValueError(f"memory_gb must be above 0, not {self.memory_gb}.")


@dataclass(frozen=True)
class RaySettings(_Share):
    """Workers as tasks of a Ray cluster, whose nodes share the output folder."""

    name: str = "ray"
    address: str = "local"
    """`local` starts Ray on this machine, `auto` joins the cluster that this machine is part of;
    `HOST:PORT` or `ray://HOST:10001` joins another."""
    workers: int | None = None
    """How many run at once; default: as many as the cluster has room for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"workers must be 1 or more, not {self.workers}.")
        if self.address not in ("local", "auto") and self.host_and_port is None:
            raise ValueError(
                f"address must be local, auto, HOST:PORT or ray://HOST:10001, not {self.address!r}."
            )

    @property
    def host_and_port(self) -> tuple[str, int] | None:
        """Where the cluster is, if the address says it."""
        place = urlsplit(f"//{self.address.removeprefix('ray://')}")
        try:
            return (place.hostname, place.port) if place.hostname and place.port else None
        except ValueError:  # a port that is no number
            return None


@dataclass(frozen=True)
class SlurmSettings(_Share):
    """Workers as jobs of a Slurm cluster, whose nodes share the output folder."""

    name: str = "slurm"
    jobs: int = 8
    """How many run at once."""
    minutes: int = 240
    """Time limit of a job; one that reaches it is queued again and goes on."""
    notice_seconds: int = 60
    """How long before its time limit a job is told to leave."""
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    options: dict[str, str | int | bool] = field(default_factory=dict)
    """Further options of sbatch by their long names: `{constraint: a100, exclude: node7}`."""
    setup: tuple[str, ...] = ()
    """Lines of shell that a job begins with: `[module load cuda]`."""
    detach: bool = False
    """Leave when all jobs are submitted; running again picks them up."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("jobs", "minutes", "notice_seconds"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, not {getattr(self, name)}.")
        if self.notice_seconds >= 60 * self.minutes:
            raise ValueError(
                f"notice_seconds must be less than the time limit, {60 * self.minutes} s, not "
                f"{self.notice_seconds}."
            )
        taken = _OWN_OPTIONS & self.sbatch_options.keys()
        if taken:
            raise ValueError(f"options must leave {min(taken)} alone: workers depend on it.")

    @property
    def sbatch_options(self) -> dict[str, str | int | bool]:
        """The options, spelt with `_` throughout; those that are false are left out."""
        return {
            name.lstrip("-").replace("-", "_"): value
            for name, value in self.options.items()
            if value is not False
        }


_OWN_OPTIONS = {"array", "dependency", "output", "error", "signal", "requeue", "no_requeue"}
"""Options of sbatch by which jobs are found, told to leave, and queued again."""


@dataclass(frozen=True)
class CustomSettings(_Elsewhere):
    """Workers where code of the user's own runs them."""

    name: str = "custom"
    target: str = ""
    """Dotted name of a callable that returns a `layer_atlas.sweep.executors.base.Executor`. It is
    given the workers' devices, as many as may run at once: `cpu` for each, or `cuda`."""
    args: dict[str, Any] | None = None
    """Keyword arguments besides."""
    workers: int = 1
    """How many run at once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.target), "target must name a callable: executor.target=mymodule.Mine.")
        one_or_more(workers=self.workers)

    @property
    def engine(self) -> str:
        """The code that runs them: other code does not know them."""
        return self.target


ExecutorSettings = LocalSettings | RaySettings | SlurmSettings | CustomSettings
