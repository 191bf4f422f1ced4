"""The scheduler: pending tasks to bundles, bundles to an executor, until all is done or given up.

It holds no state worth keeping. What is done it reads from the store, what a worker is at from its
pulse; when it dies, the next run starts from the store again.
"""

import heapq
import json
import signal
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol, TypeVar

from pipeline.errors import (
    EXIT_INTERRUPTED,
    EXIT_IO,
    EXIT_OK,
    EXIT_PREEMPTED,
    EXIT_USER_ERROR,
    StorageError,
    UserError,
)
from pipeline.executors.base import Executor, Handle
from pipeline.jobs import Task
from pipeline.store import OutputFolder, write_json

T = TypeVar("T")

POLL_SECONDS = 0.1
BUNDLE_SECONDS = 1200.0
"""About how long a worker runs before it is replaced by a fresh one."""

GRACE_SECONDS = 10.0


class Progress(Protocol):
    """Is told how many jobs are finished; fractions count jobs in the making."""

    def __call__(self, finished: float) -> None:
        """Show it."""
        ...


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

    failed: list[Task] = field(default_factory=list)
    times: list[WorkerTime] = field(default_factory=list)
    """Of every worker that has ended."""
    exit_code: int = EXIT_OK


class Workload(Protocol):
    """What a scheduler must know of a kind of tasks."""

    def seconds(self, task: Any) -> float:
        """About how long a worker takes for a task; good enough to cut bundles."""
        ...

    def bundle(self, tasks: Sequence[Any]) -> dict[str, Any]:
        """What a worker is told that is to do these tasks of one model: plain data."""
        ...


@dataclass
class _Worker:
    """A bundle on its way."""

    handle: Handle
    tasks: list[Task]
    units: int
    started: float
    pulse: dict[str, Any] = field(default_factory=dict)


class Scheduler:
    """Keeps every slot of an executor busy until no task is pending."""

    def __init__(
        self,
        folder: OutputFolder,
        executor: Executor,
        work: Workload,
        attempts: int,
        progress: Progress,
    ) -> None:
        self.folder, self.executor, self.work = folder, executor, work
        self.attempts, self.progress = attempts, progress
        self.outcome = Outcome()
        self.bundles: deque[list[Task]] = deque()
        self.workers: list[_Worker] = []
        self.tried: dict[str, int] = {}
        self.finished = 0.0
        self.signals: list[int] = []

    def run(self, tasks: Iterable[Task]) -> Outcome:
        """Do every task, or record why not.

        Raises:
            StorageError: the output folder takes no more data.
            UserError: a worker found a mistake that the driver could not see.
        """
        self.folder.drain.unlink(missing_ok=True)
        by_model: dict[str, list[Task]] = {}
        for task in tasks:
            by_model.setdefault(task.model, []).append(task)
        for model_tasks in by_model.values():
            slots = self.executor.max_parallel
            self.bundles.extend(pack(model_tasks, self.work.seconds, slots))
        try:
            with self._catching_signals():
                self._loop()
        finally:
            self.executor.close()
        return self.outcome

    def _loop(self) -> None:
        while self.workers or (self.bundles and not self.outcome.exit_code):
            self._start_workers()
            time.sleep(POLL_SECONDS)
            self._obey_signals()
            for worker in list(self.workers):
                self._look_at(worker)
            self.progress(self.finished + sum(w.pulse.get("done", 0.0) for w in self.workers))

    # --- workers ---

    def _start_workers(self) -> None:
        while self.bundles and len(self.workers) < self.executor.max_parallel:
            if self.outcome.exit_code:
                return
            tasks = self.bundles.popleft()
            tag = f"worker-{uuid.uuid4().hex[:8]}"
            write_json(self.folder.bundle(tag), self.work.bundle(tasks))
            argv = [sys.executable, "-P", "-m", "pipeline", "worker"]
            argv += [str(self.folder.root.resolve()), str(self.folder.bundle(tag).resolve())]
            handle = self.executor.submit(argv, tag, self.folder.log(tag))
            units = sum(task.units for task in tasks)
            self.workers.append(_Worker(handle, tasks, units, time.monotonic()))

    def _look_at(self, worker: _Worker) -> None:
        worker.pulse = self._read_pulse(worker) or worker.pulse
        state = self.executor.poll(worker.handle)
        if state.exit_code is None:
            return
        self.workers.remove(worker)
        worker.pulse = self._read_pulse(worker) or worker.pulse
        self._clock_out(worker)
        left = [task for task in worker.tasks if not self.folder.is_done(task)]
        self.finished += worker.units - sum(task.units for task in left)
        if state.exit_code == EXIT_OK and not left:
            self._forget(worker)
        elif state.exit_code == EXIT_IO:
            raise StorageError(self._last_words(worker))
        elif state.exit_code == EXIT_USER_ERROR:
            raise UserError(self._last_words(worker))
        elif state.exit_code == EXIT_PREEMPTED or self.outcome.exit_code:
            if left:  # it was told to go, which is no fault of the tasks
                self.bundles.appendleft(left)
        else:
            self._after_crash(worker, left, state.exit_code)

    def _clock_out(self, worker: _Worker) -> None:
        device = worker.pulse.get("device")
        if device is not None:  # else it died before it could say where it was
            alive = time.monotonic() - worker.started
            self.outcome.times.append(WorkerTime(device, alive, worker.pulse["busy"]))

    def _after_crash(self, worker: _Worker, left: list[Task], exit_code: int) -> None:
        """Charge the tasks in the making; try each again on its own; requeue the rest.

        Tasks that were made and not yet written are charged only if none was in the making, but
        are on their own from then on: if it is writing them that kills, it will show.
        """
        making, unwritten = (
            [task for task in left if task.key in worker.pulse.get(fact, [])]
            for fact in ("tasks", "unwritten")
        )
        charged = making or unwritten or left[:1]
        alone = [task for task in unwritten if task not in charged]
        rest = [task for task in left if task not in charged and task not in alone]
        self.bundles.extend([*([rest] if rest else []), *([task] for task in alone)])
        for task in charged:
            self.tried[task.key] = attempt = self.tried.get(task.key, 0) + 1
            self._record_failure(worker, task, attempt, exit_code)
            if attempt < self.attempts:
                self.bundles.append([task])
            else:
                self.outcome.failed.append(task)

    def _record_failure(self, worker: _Worker, task: Task, attempt: int, code: int) -> None:
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        record = {
            "task": task.key,
            "what": str(task),
            "request": task.request(),
            "attempt": attempt,
            "given_up": attempt >= self.attempts,
            "how": how,
            "worker": worker.handle.tag,
            "log": str(self.folder.log(worker.handle.tag).relative_to(self.folder.root)),
            "traceback": self._last_words(worker, lines=40),
        }
        write_json(self.folder.failure(task.key, attempt), record)

    def _read_pulse(self, worker: _Worker) -> dict[str, Any] | None:
        try:
            pulse = json.loads(self.folder.pulse(worker.handle.tag).read_text())
        except (OSError, ValueError):
            return None
        return pulse if isinstance(pulse, dict) else None

    def _last_words(self, worker: _Worker, lines: int = 1) -> str:
        log = self.folder.log(worker.handle.tag)
        text = log.read_text(errors="replace") if log.exists() else ""
        return "\n".join(text.strip().splitlines()[-lines:]) or "(it said nothing)"

    def _forget(self, worker: _Worker) -> None:
        """Remove what a worker that is done leaves behind, but for what it said."""
        tag = worker.handle.tag
        self.folder.bundle(tag).unlink(missing_ok=True)
        self.folder.pulse(tag).unlink(missing_ok=True)
        if self.folder.log(tag).exists() and not self.folder.log(tag).stat().st_size:
            self.folder.log(tag).unlink()

    # --- signals ---

    @contextmanager
    def _catching_signals(self) -> Iterator[None]:
        def note(number: int, frame: FrameType | None) -> None:
            self.signals.append(number)

        previous = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _obey_signals(self) -> None:
        """First Ctrl-C: finish the shards in progress; second: stop. SIGTERM: drop and leave."""
        for number in self.signals:
            if number == signal.SIGTERM:
                self.outcome.exit_code = EXIT_PREEMPTED
                self.executor.cancel([worker.handle for worker in self.workers], GRACE_SECONDS)
            elif not self.outcome.exit_code:
                self.outcome.exit_code = EXIT_INTERRUPTED
                self.folder.drain.touch()
                print(
                    "\nfinishing the shards in progress; Ctrl-C again to stop at once",
                    file=sys.stderr,
                )
            else:
                self.executor.close()
        self.signals.clear()


def pack(tasks: Sequence[T], seconds: Callable[[T], float], slots: int) -> Iterator[list[T]]:
    """Cut the tasks of one model into bundles of about equal time, one per slot and wave.

    Within a wave the longest task goes to the slot with the least work (Graham 1969); a bundle's
    tasks stay in plan order, so that a worker has the shards of a layer back to back.
    """
    wave: list[tuple[float, int]] = []
    total = 0.0
    for number, task in enumerate(tasks):
        wave.append((seconds(task), number))
        total += wave[-1][0]
        if total >= slots * BUNDLE_SECONDS:
            yield from ([tasks[i] for i in numbers] for numbers in _balance(wave, slots))
            wave, total = [], 0.0
    yield from ([tasks[i] for i in numbers] for numbers in _balance(wave, slots))


def _balance(wave: Sequence[tuple[float, int]], slots: int) -> list[list[int]]:
    loads: list[tuple[float, int, list[int]]] = [(0.0, slot, []) for slot in range(slots)]
    for cost, number in sorted(wave, key=lambda item: (-item[0], item[1])):
        load, slot, numbers = heapq.heappop(loads)
        heapq.heappush(loads, (load + cost, slot, [*numbers, number]))
    return [sorted(numbers) for _, _, numbers in sorted(loads, key=lambda x: x[1]) if numbers]


def device_times(
    devices: Sequence[str], times: Iterable[WorkerTime], wall: float
) -> dict[str, dict[str, float]]:
    """What a run had of each device: how many workers, and what share of its time they computed.

    A device that is listed twice has two slots, and is busy throughout only if both are.

    >>> device_times(["cpu"], [WorkerTime("cpu", 9.0, 6.0), WorkerTime("cpu", 5.0, 2.0)], 16.0)
    {'cpu': {'slots': 1, 'workers': 2, 'alive': 14.0, 'busy': 8.0, 'busy_share': 0.5}}
    """
    told: dict[str, dict[str, float]] = {}
    times = list(times)
    for device in dict.fromkeys(devices):
        here = [worker for worker in times if worker.device == device]
        slots, busy = devices.count(device), sum(worker.busy for worker in here)
        told[device] = {
            "slots": slots,
            "workers": len(here),
            "alive": round(sum(worker.alive for worker in here), 3),
            "busy": round(busy, 3),
            "busy_share": round(busy / (slots * wall), 4),
        }
    return told


def clear_requests(folder: OutputFolder) -> None:
    """Remove what an earlier run asked of its workers; call it under the lock only."""
    for pattern in ("worker-*.json", "worker-*.pulse*"):
        for path in folder.logs.glob(pattern):
            path.unlink(missing_ok=True)
