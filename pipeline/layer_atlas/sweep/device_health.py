"""Which devices fail by themselves, so that a broken one does not use up the attempts at all tasks.

A task that is at fault ends workers on any device; a broken device ends workers with any task. So a
device that has failed twice in a row gets no more work, unless it is the last one; and the attempts
that it has cost are given back. If a task that it failed at fails elsewhere too, that failure is no
longer held against the device.
"""

from dataclasses import dataclass, field

FAILURES_IN_A_ROW = 2
"""Failures without a success in between, after which a device is suspected."""


@dataclass
class DeviceHealth:
    """The failures of each device since its last success."""

    excluded: dict[str, str] = field(default_factory=dict)
    """Devices that get no more work, with the reason."""
    _failures: dict[str, list[frozenset[str]]] = field(default_factory=dict)
    """Keys of the tasks at which each device failed, failure by failure."""
    _failed_on: dict[str, set[str]] = field(default_factory=dict)
    """Devices that each task has failed on, successes or not."""

    def record_success(self, device: str) -> None:
        """Record that a device has finished a task."""
        self._failures.pop(device, None)

    def record_failure(self, device: str, tasks: frozenset[str]) -> None:
        """Record that a worker on a device ended with some tasks in progress."""
        for task in tasks:
            self._failed_on.setdefault(task, set()).add(device)
        self._failures.setdefault(device, []).append(tasks)
        for failures in self._failures.values():
            failures[:] = [failed for failed in failures if not any(map(self._is_at_fault, failed))]

    def is_suspected(self, device: str) -> bool:
        """Whether a device has failed so often in a row that it may be broken."""
        return len(self._failures.get(device, [])) >= FAILURES_IN_A_ROW

    def exclude(self, device: str, reason: str) -> frozenset[str]:
        """Give a device no more work; returns the tasks that it failed at, and no other device."""
        self.excluded[device] = reason
        return frozenset(task for task, devices in self._failed_on.items() if devices == {device})

    def restored(self) -> list[str]:
        """Take back devices that were excluded for failures of tasks; returns them."""
        sound = [device for device in self.excluded if not self._failures.get(device)]
        for device in sound:
            del self.excluded[device]
        return sound

    def _is_at_fault(self, task: str) -> bool:
        """Whether a task has failed on several devices, for which none of them is at fault."""
        return len(self._failed_on.get(task, ())) > 1
