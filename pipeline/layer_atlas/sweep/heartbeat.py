"""The pulse of a worker: a small file that says what it is at."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layer_atlas.plan.jobs import Task

DEVICE_VARIABLE = "LAYER_ATLAS_DEVICE"
"""What its executor calls the device that a worker runs on."""

UNITS = {"optimize": "channels", "statistics": "photographs", "examples": "examples"}
"""What the work of a kind of bundle is counted in."""


_TEXTS, _LISTS = ("host", "device", "kind", "at"), ("tasks", "unwritten")
_NUMBERS = ("pid", "tick", "done", "flops", "busy", "seconds")


def known_facts(told: dict[str, Any]) -> dict[str, Any]:
    """What of a pulse is what a worker may say of itself; the rest is nobody's business."""
    return {
        **{name: told[name] for name in _TEXTS if isinstance(told.get(name), str)},
        **{name: told[name] for name in _NUMBERS if _is_number(told.get(name))},
        **{name: told[name] for name in _LISTS if _is_list_of_texts(told.get(name))},
    }


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < 2**63  # type: ignore[operator]


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


class Heartbeat:
    """Says what the worker is at; the driver reads it, nothing depends on it.

    `tasks` are in the making (`at` says which, for people), `unwritten` are made and perhaps not
    committed yet; `done` counts units of its kind, `flops` what the plan takes them to cost; `busy`
    are the seconds spent making, of `seconds` since the first task began. For the main thread
    alone.
    """

    INTERVAL = 0.25

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "device": os.environ.get(DEVICE_VARIABLE),
            "tick": 0,
            "tasks": [],
            "at": "",
            "unwritten": [],
            "done": 0.0,
            "flops": 0.0,
            "busy": 0.0,
            "seconds": 0.0,
        }
        self._begun: float | None = None
        self._written = 0.0

    def begin(self, tasks: Sequence[Task]) -> None:
        """Note what is in the making from now on."""
        if self._begun is None:
            self._begun = time.monotonic()
        more = f" and {len(tasks) - 1} more" if tasks[1:] else ""
        self.tick(tasks=[task.key for task in tasks], at=f"{tasks[0]}{more}")

    def tick(self, **facts: Any) -> None:
        """Note facts; write them down now and then, and at once when the tasks change."""
        self.facts.update(facts, tick=self.facts["tick"] + 1)
        if "tasks" in facts or time.monotonic() - self._written > self.INTERVAL:
            self.write()

    def write(self) -> None:
        """Write the facts down."""
        self._written = time.monotonic()
        self.facts["seconds"] = 0.0 if self._begun is None else self._written - self._begun
        temporary = self.path.with_suffix(".pulse.tmp")
        with contextlib.suppress(OSError):  # a full disk is met, and told, by the next commit
            self.path.parent.mkdir(exist_ok=True)
            temporary.write_text(json.dumps(self.facts))
            temporary.replace(self.path)
