"""How a run ended, and what it had of its devices."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from layer_atlas.errors import EXIT_OK


@dataclass(frozen=True)
class WorkerTime:
    """What a device had of a worker, in seconds."""

    device: str
    alive: float
    """From its start to its end, loading included."""
    busy: float
    """Inside the making of batches: optimising and measuring."""


@dataclass
class Outcome:
    """How a run ended."""

    failed: set[str] = field(default_factory=set)
    """Keys of the tasks that were given up."""
    times: list[WorkerTime] = field(default_factory=list)
    """Of every worker that has ended."""
    exit_code: int = EXIT_OK
    at_work: int = 0
    """Workers that go on without this process."""

    @property
    def is_cut_short(self) -> bool:
        """Whether there is more to do, and not now."""
        return bool(self.exit_code or self.at_work)

    def add(self, later: "Outcome") -> None:
        """Count what came after it."""
        self.failed |= later.failed
        self.times += later.times
        self.exit_code, self.at_work = later.exit_code, later.at_work


def device_times(
    devices: Sequence[str], times: Iterable[WorkerTime], wall: float
) -> dict[str, dict[str, float]]:
    """What a run had of each device: how many workers, and what share of its time they computed.

    A device that is listed twice has two slots, and is busy throughout only if both are. One that
    is not listed, because an engine chose it, has a slot.

    >>> device_times(["cpu"], [WorkerTime("cpu", 9.0, 6.0), WorkerTime("cpu", 5.0, 2.0)], 16.0)
    {'cpu': {'slots': 1, 'workers': 2, 'alive': 14.0, 'busy': 8.0, 'busy_share': 0.5}}
    """
    told: dict[str, dict[str, float]] = {}
    times = list(times)
    for device in dict.fromkeys([*devices, *(worker.device for worker in times)]):
        here = [worker for worker in times if worker.device == device]
        slots, busy = max(1, devices.count(device)), sum(worker.busy for worker in here)
        told[device] = {
            "slots": slots,
            "workers": len(here),
            "alive": round(sum(worker.alive for worker in here), 3),
            "busy": round(busy, 3),
            "busy_share": round(busy / (slots * wall), 4),
        }
    return told
