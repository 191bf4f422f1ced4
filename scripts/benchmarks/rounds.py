"""Rounds: all systems in turn on all layers, and what was seen of each."""

import sys
from collections import defaultdict
from dataclasses import dataclass, field

from torch import Tensor

from benchmarks.systems import Case, Made, System, Unit, units


@dataclass
class Entry:
    """One system on one layer, and all that was seen of it so far."""

    system: System
    case: Case
    channels: tuple[int, ...]
    """Those that this system makes."""
    shared: tuple[int, ...]
    """Those of them that every system makes."""
    timings: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    images: dict[int, Tensor] = field(default_factory=dict)
    """By channel, (H, W, 3) uint8."""

    @property
    def work(self) -> list[Unit]:
        """The channels in full batches."""
        return units(self.channels, self.system.batch)

    def take(self, unit: Unit, made: Made) -> None:
        """Note what came of a unit."""
        for name, value in made.timings.items():
            self.timings[name].append(value)
        if made.pixels is not None:
            for channel, pixels in zip(unit.channels[: unit.wanted], made.pixels, strict=True):
                self.images[channel] = pixels

    def share(self, round_number: int, rounds: int) -> list[Unit]:
        """The units of a round: all are done once over the rounds, and at least one in each."""
        return self.work[round_number::rounds] or [self.work[round_number % len(self.work)]]


def measure(entries: list[Entry], repeats: int) -> None:
    """All systems in turn, again and again: noise of the machine hits all of them alike."""
    for entry in entries:
        _say(f"warming up {entry.system.label} on {entry.case.info.name}")
        entry.system.warm_up()
    for number in range(repeats):
        for entry in entries:
            _say(f"round {number + 1} of {repeats}: {entry.system.label}, {entry.case.info.name}")
            for unit in entry.share(number, repeats):
                entry.take(unit, entry.system.make(unit))


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)
