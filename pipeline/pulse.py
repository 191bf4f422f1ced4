"""The pulse of a worker: a small file that says what it is at."""

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

DEVICE_VARIABLE = "LAYER_ATLAS_DEVICE"
"""What its executor calls the device that a worker runs on."""

UNITS = {"ascend": "channels", "study": "photographs", "illustrate": "examples"}
"""What the work of a kind of bundle is counted in."""


class Pulse:
    """Says what the worker is at; the driver reads it, nothing depends on it.

    `tasks` are in the making, `unwritten` are made and perhaps not committed yet; `done` counts
    units of its kind; `busy` are the seconds spent making, of `seconds` altogether. For the main
    thread alone.
    """

    INTERVAL = 0.25

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "device": os.environ.get(DEVICE_VARIABLE),
            "beat": 0,
            "tasks": [],
            "unwritten": [],
            "done": 0.0,
            "busy": 0.0,
        }
        self._started = time.monotonic()
        self._written = 0.0

    def beat(self, **facts: Any) -> None:
        """Note facts; write them down now and then, and at once when the tasks change."""
        self.facts.update(facts, beat=self.facts["beat"] + 1)
        if "tasks" in facts or time.monotonic() - self._written > self.INTERVAL:
            self.write()

    def write(self) -> None:
        """Write the facts down."""
        self._written = time.monotonic()
        self.facts["seconds"] = self._written - self._started
        temporary = self.path.with_suffix(".pulse.tmp")
        with contextlib.suppress(OSError):  # a full disk is met, and told, by the next commit
            self.path.parent.mkdir(exist_ok=True)
            temporary.write_text(json.dumps(self.facts))
            temporary.replace(self.path)
