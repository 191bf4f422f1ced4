"""Progress for people: a bar on a terminal, lines in the log."""

import logging
import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from layer_atlas.logs import terminal_shows

logger = logging.getLogger(__name__)

_LINE_SECONDS = 10.0
_FORMAT = "{desc}{postfix} {bar} {n:.0f}/{total} [{elapsed}<{remaining}, {rate_fmt}]"


class Bar:
    """Shows what is finished, the rate, the time left, and how busy the devices are."""

    def __init__(self, total: int, already: int, unit: str, devices: Sequence[str]) -> None:
        self.total, self.unit, self.slots = total, unit, max(1, len(devices))
        self._bar: tqdm[None] | None = None
        self._started = self._printed = time.monotonic()
        if already and total:
            logger.info("%d of %d %s are done already", already, already + total, unit)
        if total and sys.stderr.isatty() and terminal_shows(__name__, logging.INFO):
            self._bar = tqdm(
                total=total, unit=f" {unit}", desc=_counted(devices), bar_format=_FORMAT
            )

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, finished: float, busy: float) -> None:
        """Show it.

        Args:
            finished: how many are; fractions count those in the making.
            busy: seconds that workers spent making them.
        """
        if self._bar is not None:
            self._bar.set_postfix_str(self._share(busy).ljust(10), refresh=False)
            self._bar.update(max(0.0, finished - self._bar.n))
        if time.monotonic() - self._printed > _LINE_SECONDS:
            self._printed = time.monotonic()
            # Beside a bar the line is for the log of the run alone.
            level = logging.INFO if self._bar is None else logging.DEBUG
            logger.log(level, self._line(finished, busy))

    def _line(self, finished: float, busy: float) -> str:
        seconds = self._seconds()
        rate = finished / seconds
        left = (self.total - finished) / rate if rate > 0 else float("inf")
        return (
            f"{finished:.0f}/{self.total} {self.unit}, {rate:.2f}/s, {duration(seconds)} elapsed, "
            f"{duration(left)} left, devices {self._share(busy)}"
        )

    def _share(self, busy: float) -> str:
        """The fraction of their time in which the devices made something.

        Workers that an earlier run left at work may have been busy for longer than this one.
        """
        return f"busy {100 * min(1.0, busy / (self.slots * self._seconds())):.0f} %"

    def _seconds(self) -> float:
        return max(time.monotonic() - self._started, 1e-9)


def _counted(devices: Sequence[str]) -> str:
    """Devices for people.

    >>> _counted(["cpu", "cpu", "cuda:0"])
    '2 x cpu, cuda:0'
    """
    counts = {device: devices.count(device) for device in devices}
    return ", ".join(name if n == 1 else f"{n} x {name}" for name, n in counts.items())


def duration(seconds: float) -> str:
    """Seconds for people.

    >>> duration(8000)
    '2 h 13 min'
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
