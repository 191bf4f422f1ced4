"""Signals, noted when they come and obeyed when there is time."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from layer_atlas.processes import LEAVING_SIGNALS


@contextmanager
def noted_signals() -> Iterator[list[int]]:
    """Ctrl-C and what asks a process to leave only append their numbers to a list for a while."""
    numbers: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        numbers.append(number)

    previous = {s: signal.signal(s, note) for s in (signal.SIGINT, *LEAVING_SIGNALS)}
    try:
        yield numbers
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
