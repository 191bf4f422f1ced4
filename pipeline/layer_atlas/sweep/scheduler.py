"""The scheduler: missing tasks to bundles, bundles to an executor, until all is done or given up.

It holds no state worth keeping. What is done it reads from the store, what a worker is doing from
its heartbeat, what failed from the records; when it dies, the next run starts from these again.
"""

import heapq
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

from layer_atlas.config.executors import ExecutorSettings
from layer_atlas.errors import (
    EXIT_INTERRUPTED,
    EXIT_IO,
    EXIT_OK,
    EXIT_PREEMPTED,
    EXIT_USER_ERROR,
    StorageError,
    UserError,
)
from layer_atlas.plan.jobs import Task
from layer_atlas.processes import LEAVING_SIGNALS
from layer_atlas.store.files import write_atomically, write_json
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.executors.base import Executor, State, WorkerSpec
from layer_atlas.sweep.workers import (
    Worker,
    charge,
    forget,
    how_it_ended,
    log_tail,
    shares,
    submissions,
    write_submission,
)

RELIST_SECONDS = 60.0
"""A network file system may show files that others wrote so much later, at most."""

MOST_FALSE_STARTS = 3
"""Workers in a row that end before they begin; more would not fare better."""


T = TypeVar("T")


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


class Progress(Protocol):
    """Is told how far a run is."""

    def __call__(self, finished: float, busy: float) -> None:
        """Show how many jobs are finished, fractions counting those in the making.

        `busy` are seconds that workers spent making them, those of all workers together.
        """
        ...


class TaskKind(Protocol):
    """What a scheduler must know of a kind of tasks."""

    def seconds(self, task: Any) -> float:
        """About how long a worker takes for a task; good enough to cut bundles."""
        ...

    def bundle(self, tasks: Sequence[Any]) -> dict[str, Any]:
        """What a worker is told that is to do these tasks of one model: plain data."""
        ...


class Scheduler:
    """Keeps every slot of an executor busy until no task is pending."""

    def __init__(
        self,
        folder: OutputFolder,
        executor: Executor,
        settings: ExecutorSettings,
        work: TaskKind,
        progress: Progress,
    ) -> None:
        self.folder, self.executor, self.settings = folder, executor, settings
        self.work, self.progress = work, progress
        self.outcome = Outcome()
        self.bundles: deque[list[Task]] = deque()
        self.workers: list[Worker] = []
        self.false_starts = 0
        self.finished = 0.0
        self.signals: list[int] = []

    def run(self, tasks: Iterable[Task], detach: bool = False) -> Outcome:
        """Do every task, or record why not.

        Args:
            tasks: that are not done.
            detach: leave as soon as all are handed over, if the executor's workers go on alone.
        Raises:
            StorageError: the output folder takes no more data.
            UserError: a worker found a mistake that the driver could not see.
        """
        self.folder.drain.unlink(missing_ok=True)
        self._cut(self._adopt(tasks))
        try:
            with noted_signals() as self.signals:
                self._loop(detach)
            self.outcome.at_work = len(self.workers)
        except BaseException:
            self.executor.kill([worker.handle for worker in self.workers])
            raise
        finally:
            self.executor.close()
        return self.outcome

    def _adopt(self, tasks: Iterable[Task]) -> list[Task]:
        """Take up workers of earlier runs that are still at it; returns what they do not do."""
        pending = {task.key: task for task in tasks}
        earlier = [s for s in submissions(self.folder) if s.engine == self.settings.engine]
        states = self.executor.poll([submission.handle for submission in earlier])
        for submission in earlier:
            wanted = [pending.pop(key) for key in submission.tasks if key in pending]
            if wanted:
                self.workers.append(Worker(submission.handle, wanted))
            elif states[submission.handle.tag].phase == "ended":
                forget(self.folder, submission.handle.tag)
        return list(pending.values())

    def _cut(self, tasks: Iterable[Task]) -> None:
        by_model: dict[str, list[Task]] = {}
        for task in tasks:
            by_model.setdefault(task.model, []).append(task)
        slots, seconds = self.executor.max_parallel, 60 * self.settings.bundle_minutes
        for model_tasks in by_model.values():
            self.bundles.extend(pack(model_tasks, self.work.seconds, slots, seconds))

    def _loop(self, detach: bool) -> None:
        while self.workers or (self.bundles and not self.outcome.exit_code):
            self._start_workers()
            self._look_around()
            if (detach and not self.bundles) or self._leaves_them():
                return
            time.sleep(self.executor.poll_seconds)
            self._obey_signals()

    # --- workers ---

    def _start_workers(self) -> None:
        if self.outcome.exit_code or not self.bundles or self._waits_for_a_good_start():
            return
        room = self.executor.max_submitted - len(self.workers)
        bundles = [self.bundles.popleft() for _ in range(min(room, len(self.bundles)))]
        if not bundles:
            return
        requests = [self._request(tasks) for tasks in bundles]
        handles = self.executor.submit(requests)
        for handle, tasks in zip(handles, bundles, strict=False):
            self.workers.append(Worker(handle, tasks))
            if self.executor.detached:
                write_submission(self.folder, self.settings.engine, self.workers[-1])
        for request, tasks in zip(requests[len(handles) :], bundles[len(handles) :], strict=True):
            forget(self.folder, request.tag)
            self.bundles.append(tasks)

    def _waits_for_a_good_start(self) -> bool:
        """Whether so many workers ended before they began that those under way must show first."""
        begun = any(worker.has_begun for worker in self.workers)
        return self.false_starts >= MOST_FALSE_STARTS and not begun

    def _request(self, tasks: Sequence[Task]) -> WorkerSpec:
        tag = f"worker-{uuid.uuid4().hex[:8]}"
        write_json(self.folder.bundle(tag), self.work.bundle(tasks))
        paths = [str(path.resolve()) for path in (self.folder.root, self.folder.bundle(tag))]
        argv = (sys.executable, "-P", "-m", "layer_atlas", "worker", *paths)
        return WorkerSpec(argv, tag, self.folder.log(tag).resolve())

    def _look_around(self) -> None:
        states = self.executor.poll([worker.handle for worker in self.workers])
        for worker in list(self.workers):
            worker.state = states[worker.tag]
            if worker.state.phase != "waiting":  # thousands may wait, and have nothing to say
                worker.listen(self.folder)
            if worker.state.phase == "ended":
                self._after(worker, worker.state)
            else:
                self._watch(worker)
        self._show()

    def _show(self) -> None:
        pulses = [worker.heartbeat for worker in self.workers]
        done = sum(heartbeat.get("done", 0.0) for heartbeat in pulses)
        busy = sum(heartbeat.get("busy", 0.0) for heartbeat in pulses)
        before = sum(worker.busy for worker in self.outcome.times)
        self.progress(self.finished + done, before + busy)

    def _watch(self, worker: Worker) -> None:
        """Send away a worker that shows no progress; kill one that was told to leave and stays."""
        now = time.monotonic()
        if worker.state.phase == "waiting":
            worker.heard = now
        if worker.asked_to_stop is None:
            worker.stalled = now - worker.heard > self.settings.stall_seconds
            if worker.stalled:
                self._send_away([worker])
        elif now - worker.asked_to_stop > self.settings.grace_seconds:
            worker.asked_to_stop = now
            self.executor.kill([worker.handle])

    def _send_away(self, workers: Sequence[Worker]) -> None:
        self.executor.stop([worker.handle for worker in workers])
        for worker in workers:
            worker.asked_to_stop = time.monotonic()

    def _after(self, worker: Worker, state: State) -> None:
        """See to what a worker leaves that has ended."""
        left = [task for task in worker.tasks if not self.folder.is_done(task)]
        if state.exit_code == EXIT_OK and left and self._may_show_yet(worker, left):
            return
        self.workers.remove(worker)
        forget(self.folder, worker.tag)
        self._clock_out(worker)
        self.finished += worker.units - sum(task.units for task in left)
        if not left:
            return
        if state.exit_code == EXIT_IO:
            words = log_tail(self.folder, worker.tag)
            raise StorageError(f"a worker could not write to {self.folder.root}: {words}")
        if state.exit_code == EXIT_USER_ERROR:
            raise UserError(log_tail(self.folder, worker.tag))
        if not worker.stalled and (state.exit_code == EXIT_PREEMPTED or self.outcome.exit_code):
            self.bundles.appendleft(left)  # it was told to go, which is no fault of the tasks
        elif not worker.has_begun:
            self._after_false_start(worker, left)
        else:
            self._after_crash(worker, left)

    def _may_show_yet(self, worker: Worker, left: Sequence[Task]) -> bool:
        """Whether files that a worker says it wrote may still become visible here."""
        self.folder.look_again(left)
        worker.ended = worker.ended or time.monotonic()
        return time.monotonic() - worker.ended < RELIST_SECONDS

    def _clock_out(self, worker: Worker) -> None:
        self.false_starts = 0 if worker.has_begun else self.false_starts
        device = worker.heartbeat.get("device")
        if device is not None:  # else it died before it could say where it was
            alive = time.monotonic() - worker.started
            self.outcome.times.append(WorkerTime(device, alive, worker.heartbeat["busy"]))

    def _after_false_start(self, worker: Worker, left: list[Task]) -> None:
        """Requeue what is no fault of the tasks: a broken device or environment. Raises UserError.

        A good worker that ends meanwhile shows that it is not the environment.
        """
        self.false_starts += 1
        if self.false_starts >= MOST_FALSE_STARTS and not self.workers:
            raise UserError(
                f"{self.false_starts} workers in a row ended before they began "
                f"({how_it_ended(worker, self.settings)}): {log_tail(self.folder, worker.tag)} "
                f"See {self.folder.log(worker.tag)}."
            )
        self.bundles.append(left)

    def _after_crash(self, worker: Worker, left: list[Task]) -> None:
        """Requeue what is not given up: the suspects each on its own."""
        found = shares(worker, left)
        self.bundles.extend([*([found.rest] if found.rest else []), *([t] for t in found.alone)])
        for task in found.charged:
            if charge(self.folder, worker, task, self.settings).given_up:
                self.outcome.failed.add(task.key)
            else:
                self.bundles.append([task])

    # --- signals ---

    def _obey_signals(self) -> None:
        """First Ctrl-C: finish the shards in progress; second: stop. SIGTERM: drop and leave."""
        for number in self.signals:
            if number in LEAVING_SIGNALS:
                self.outcome.exit_code = EXIT_PREEMPTED
                if not self.executor.detached:
                    self._send_away(self.workers)
            elif not self.outcome.exit_code:
                self._drain()
            else:
                self.executor.kill([worker.handle for worker in self.workers])
        self.signals.clear()

    def _drain(self) -> None:
        self.outcome.exit_code = EXIT_INTERRUPTED
        write_atomically(self.folder.drain, b"")
        self.executor.kill([w.handle for w in self.workers if w.state.phase == "waiting"])
        told = "finishing the shards in progress; Ctrl-C again to stop at once"
        print(f"\n{told}", file=sys.stderr)

    def _leaves_them(self) -> bool:
        """Whether workers are left alone that go on by themselves."""
        return self.executor.detached and self.outcome.exit_code == EXIT_PREEMPTED


# --- bin packing ----------------------------------------------------------------------------------


def pack(
    tasks: Sequence[T], seconds: Callable[[T], float], slots: int, most_seconds: float
) -> Iterator[list[T]]:
    """Cut the tasks of one model into bundles of about equal time, one per slot and wave.

    Within a wave the longest task goes to the slot with the least work (Graham 1969); a bundle's
    tasks stay in plan order, so that a worker has the shards of a layer back to back.

    Args:
        tasks: in plan order.
        seconds: about how long a task takes.
        slots: workers at once.
        most_seconds: about the longest that a bundle should take.
    """
    wave: list[tuple[float, int]] = []
    total = 0.0
    for number, task in enumerate(tasks):
        wave.append((seconds(task), number))
        total += wave[-1][0]
        if total >= slots * most_seconds:
            yield from ([tasks[i] for i in numbers] for numbers in _balance(wave, slots))
            wave, total = [], 0.0
    yield from ([tasks[i] for i in numbers] for numbers in _balance(wave, slots))


def _balance(wave: Sequence[tuple[float, int]], slots: int) -> list[list[int]]:
    loads: list[tuple[float, int, list[int]]] = [(0.0, slot, []) for slot in range(slots)]
    for cost, number in sorted(wave, key=lambda item: (-item[0], item[1])):
        load, slot, numbers = heapq.heappop(loads)
        heapq.heappush(loads, (load + cost, slot, [*numbers, number]))
    return [sorted(numbers) for _, _, numbers in sorted(loads, key=lambda x: x[1]) if numbers]


# --- signals --------------------------------------------------------------------------------------


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
