"""Progress for people: a bar on a terminal, plain lines in a log file."""

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

_LINE_SECONDS = 10.0


class Bar:
    """Shows what is finished, rate and time left; call it with the number finished so far."""

    def __init__(self, total: int, already: int, unit: str, devices: Sequence[str]) -> None:
        self.total, self.unit = total, unit
        self._bar: tqdm[None] | None = None
        self._started = self._printed = time.monotonic()
        if already and total:
            print(f"{already} of {already + total} {unit} are done already", file=sys.stderr)
        if total and sys.stderr.isatty():
            self._bar = tqdm(
                total=total,
                unit=f" {unit}",
                desc=" ".join(devices),
                bar_format="{desc} {bar} {n:.0f}/{total} [{elapsed}<{remaining}, {rate_fmt}]",
            )

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, finished: float) -> None:
        """Show how many are finished; fractions count those in the making."""
        if self._bar is not None:
            self._bar.update(max(0.0, finished - self._bar.n))
        elif time.monotonic() - self._printed > _LINE_SECONDS:
            self._print_line(finished)

    def _print_line(self, finished: float) -> None:
        self._printed = time.monotonic()
        seconds = self._printed - self._started
        rate = finished / max(seconds, 1e-9)
        left = (self.total - finished) / rate if rate > 0 else float("inf")
        text = f"{finished:.0f}/{self.total} {self.unit}, {rate:.2f}/s, "
        print(text + f"{duration(seconds)} elapsed, {duration(left)} left", file=sys.stderr)


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(3725)
    '1 h 2 min'
    """
    if seconds == float("inf"):
        return "unknown time"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if minutes < 100:
        return f"{minutes:.0f} min"
    if hours < 48:
        return f"{int(hours)} h {int(minutes % 60)} min"
    return f"{days:.1f} days"
