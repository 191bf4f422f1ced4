"""The heartbeat of a worker: a small file of facts about its progress."""

import contextlib
import json
import logging
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layer_atlas.plan.jobs import Task

logger = logging.getLogger(__name__)

DEVICE_VARIABLE = "LAYER_ATLAS_DEVICE"
"""The executor's name for the device of a worker."""

UNIT_OF_KIND = {
    "optimize": "channels",
    "statistics": "photographs",
    "examples": "examples",
    "judge": "judged",
    "connections": "connected",
}
"""What `done` counts, by the kind of a bundle."""

_TEXTS, _LISTS = ("host", "device", "kind", "at"), ("tasks", "unwritten")
_NUMBERS = ("pid", "tick", "done", "flops", "busy", "seconds")


def known_facts(values: dict[str, Any]) -> dict[str, Any]:
    """Keep the facts that a worker writes, each if it has the right type.

    The file may be somebody else's: whatever else it holds must not reach calculations or tables.
    """
    return {
        **{name: values[name] for name in _TEXTS if isinstance(values.get(name), str)},
        **{name: values[name] for name in _NUMBERS if _is_number(values.get(name))},
        **{name: values[name] for name in _LISTS if _is_list_of_texts(values.get(name))},
    }


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < 2**63  # type: ignore[operator]


def _is_list_of_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


class Heartbeat:
    """Writes what the worker is doing; the driver reads it, no result depends on it.

    `tasks` are in progress (`at` names them for people), `unwritten` are finished and perhaps not
    committed yet. `done` counts units of the bundle's kind, `flops` their cost by the plan. `busy`
    are the seconds of optimizing and measuring, of `seconds` since the first task began. For the
    main thread alone.
    """

    INTERVAL = 0.25

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: dict[str, Any] = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "device": os.environ.get(DEVICE_VARIABLE),
            "at": "",
            **{name: [] for name in _LISTS},
            "tick": 0,
            **dict.fromkeys(("done", "flops", "busy", "seconds"), 0.0),
        }
        self._begun: float | None = None
        self._written = 0.0

    @property
    def device_kind(self) -> str:
        """Kind of this worker's device, `cuda` or `cpu`; empty if its executor gave it no name.

        The name may begin with a host: `node7 cuda:1`.
        """
        name = self.facts["device"] or ""
        kind = name.rpartition(" ")[2].partition(":")[0]
        return kind if kind in ("cuda", "cpu") else ""

    def begin(self, tasks: Sequence[Task]) -> None:
        """Record the tasks in progress."""
        if self._begun is None:
            self._begun = time.monotonic()
        at = f"{tasks[0]}" + (f" and {len(tasks) - 1} more" if tasks[1:] else "")
        logger.debug("making %s", at)
        self.tick(tasks=[task.key for task in tasks], at=at)

    def tick(self, **facts: Any) -> None:
        """Update facts; writes them at most every INTERVAL, but at once when the tasks change.

        Were a change of tasks written late, a crash would be charged to tasks that are done.
        """
        self.facts.update(facts, tick=self.facts["tick"] + 1)
        if "tasks" in facts or time.monotonic() - self._written > self.INTERVAL:
            self.write()

    def write(self) -> None:
        """Write the facts, whole or not at all."""
        self._written = time.monotonic()
        self.facts["seconds"] = 0.0 if self._begun is None else self._written - self._begun
        temporary = self.path.with_suffix(".heartbeat.tmp")
        with contextlib.suppress(OSError):  # the next commit meets a full disk, and reports it
            self.path.parent.mkdir(exist_ok=True)
            temporary.write_text(json.dumps(self.facts))
            temporary.replace(self.path)
