"""The scheduler: packs missing tasks into bundles and keeps an executor busy until all are done.

It holds no state worth keeping. What is done it reads from the store, what a worker is doing from
its heartbeat, what failed from the failure records; if it dies, the next run starts from these.
"""

import logging
import signal
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from types import FrameType
from typing import TypeVar

from layer_atlas.config.executors import ExecutorSettings
from layer_atlas.errors import (
    EXIT_INTERRUPTED,
    EXIT_IO,
    EXIT_NO_DEVICE,
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
from layer_atlas.store.manifest import write_excluded_devices
from layer_atlas.store.quarantine import put_back
from layer_atlas.sweep.executors.base import WORKER_COMMAND, DeviceChooser, Executor, WorkerSpec
from layer_atlas.sweep.gpus import FAILURES_IN_A_ROW, trouble_of_device
from layer_atlas.sweep.stages import Stage
from layer_atlas.sweep.workers import (
    Worker,
    attribute_failure,
    end_reason,
    log_tail,
    record_failure,
    remove_files,
    submissions,
    write_submission,
)

logger = logging.getLogger(__name__)

RELIST_SECONDS = 60.0
"""Longest delay until a network file system shows a file that another host wrote."""

MAX_FAILED_STARTS = 3
"""Workers in a row that may end before their first task; further ones would end the same way."""

Progress = Callable[[float, float], None]
"""Shows the finished units, with fractions of those in progress, and the workers' busy seconds."""

T = TypeVar("T")


@dataclass(frozen=True)
class WorkerTime:
    """Seconds that a worker spent on a device."""

    device: str
    alive: float
    """From its start to its end, loading included."""
    busy: float
    """Optimizing and measuring batches."""


@dataclass
class Outcome:
    """How a run ended."""

    failed: set[str] = field(default_factory=set)
    """Keys of the tasks in quarantine."""
    times: list[WorkerTime] = field(default_factory=list)
    """One entry per worker that has ended."""
    exit_code: int = EXIT_OK
    at_work: int = 0
    """Detached workers that go on without this process."""

    @property
    def is_cut_short(self) -> bool:
        """Whether tasks are left that this run will not do."""
        return bool(self.exit_code or self.at_work)

    def add(self, later: "Outcome") -> None:
        """Add the outcome of a later stage."""
        self.failed |= later.failed
        self.times += later.times
        self.exit_code, self.at_work = later.exit_code, later.at_work


def device_times(
    devices: Sequence[str], times: Iterable[WorkerTime], wall: float
) -> dict[str, dict[str, float]]:
    """Summarize the workers of each device, and the fraction of wall time that they were busy.

    A device that is listed twice has two slots, and is fully busy only if both are. A device that
    is not listed, because an engine chose it, has one slot.

    >>> device_times(["cpu"], [WorkerTime("cpu", 9.0, 6.0), WorkerTime("cpu", 5.0, 2.0)], 16.0)
    {'cpu': {'slots': 1, 'workers': 2, 'alive': 14.0, 'busy': 8.0, 'busy_share': 0.5}}
    """
    summary: dict[str, dict[str, float]] = {}
    times = list(times)
    for device in dict.fromkeys([*devices, *(worker.device for worker in times)]):
        own = [worker for worker in times if worker.device == device]
        slots, busy = max(1, devices.count(device)), sum(worker.busy for worker in own)
        summary[device] = {
            "slots": slots,
            "workers": len(own),
            "alive": round(sum(worker.alive for worker in own), 3),
            "busy": round(busy, 3),
            "busy_share": round(busy / (slots * wall), 4),
        }
    return summary


@dataclass
class Scheduler:
    """Keeps every slot of an executor busy until no task is pending."""

    folder: OutputFolder
    executor: Executor
    settings: ExecutorSettings
    stage: Stage
    progress: Progress
    outcome: Outcome = field(default_factory=Outcome, init=False)
    bundles: deque[list[Task]] = field(default_factory=deque, init=False)
    workers: list[Worker] = field(default_factory=list, init=False)
    failed_starts: int = field(default=0, init=False)
    given_up: dict[str, Task] = field(default_factory=dict, init=False)
    """Tasks that this scheduler has put into quarantine, by key."""
    finished: float = field(default=0.0, init=False)
    signals: list[int] = field(default_factory=list, init=False)

    def run(self, tasks: Iterable[Task], detach: bool = False) -> Outcome:
        """Do every task, or record its failure.

        Args:
            tasks: that are not done.
            detach: return as soon as all are submitted, if the executor's workers are detached.
        Raises:
            StorageError: the output folder takes no more data.
            UserError: a worker found a mistake that the driver could not see.
        """
        self.folder.drain.unlink(missing_ok=True)  # of a run that was interrupted
        self._pack(self._adopt(tasks))
        try:
            with deferred_signals() as self.signals:
                self._loop(detach)
            self.outcome.at_work = len(self.workers)
        except BaseException:
            self.executor.kill([worker.job for worker in self.workers])
            raise
        finally:
            self.executor.close()
        return self.outcome

    def _adopt(self, tasks: Iterable[Task]) -> list[Task]:
        """Adopt detached workers of earlier runs; returns the tasks that none of them does."""
        pending = {task.key: task for task in tasks}
        # Only the engine that started a worker can poll it.
        earlier = [s for s in submissions(self.folder) if s.engine == self.settings.engine]
        states = self.executor.poll([submission.job for submission in earlier])
        for submission in earlier:
            adopted = [pending.pop(key) for key in submission.tasks if key in pending]
            if adopted:
                self.workers.append(Worker(submission.job, adopted))
            elif states[submission.job.tag].phase == "ended":
                remove_files(self.folder, submission.job.tag)
        return list(pending.values())

    def _pack(self, tasks: Iterable[Task]) -> None:
        # A worker loads one model, so no bundle mixes models.
        by_model: dict[str, list[Task]] = {}
        for task in tasks:
            by_model.setdefault(task.model, []).append(task)
        slots, seconds = self.executor.max_parallel, 60 * self.settings.bundle_minutes
        for model_tasks in by_model.values():
            costs = self.stage.costs(model_tasks)
            self.bundles.extend(pack(model_tasks, costs, slots, seconds))

    def _loop(self, detach: bool) -> None:
        while self.workers or (self.bundles and not self.outcome.exit_code):
            self._submit()
            self._poll()
            preempted = self.outcome.exit_code == EXIT_PREEMPTED
            if (detach and not self.bundles) or (preempted and self.executor.detached):
                return
            time.sleep(self.executor.poll_seconds)
            self._handle_signals()

    # --- submitting ---

    def _submit(self) -> None:
        if self.outcome.exit_code or not self.bundles or self._backs_off():
            return
        room = self.executor.max_submitted - len(self.workers)
        bundles = [self.bundles.popleft() for _ in range(min(room, len(self.bundles)))]
        if not bundles:
            return
        specs = [self._spec(tasks) for tasks in bundles]
        jobs = self.executor.submit(specs)
        for job, tasks in zip(jobs, bundles, strict=False):
            self.workers.append(Worker(job, tasks))
            logger.debug("%s started: %d tasks of %s", job.tag, len(tasks), tasks[0].model)
            if self.executor.detached:
                write_submission(self.folder, self.settings.engine, self.workers[-1])
        # The executor took only the first of them: the rest is offered again later.
        for spec, tasks in zip(specs[len(jobs) :], bundles[len(jobs) :], strict=True):
            remove_files(self.folder, spec.tag)
            self.bundles.append(tasks)

    def _backs_off(self) -> bool:
        """Whether too many workers failed to start; then only one that begins ends the backoff."""
        begun = any(worker.has_begun for worker in self.workers)
        return self.failed_starts >= MAX_FAILED_STARTS and not begun

    def _spec(self, tasks: Sequence[Task]) -> WorkerSpec:
        tag = f"worker-{uuid.uuid4().hex[:8]}"
        write_json(self.folder.bundle(tag), self.stage.bundle(tasks))
        paths = [str(path.resolve()) for path in (self.folder.root, self.folder.bundle(tag))]
        return WorkerSpec((*WORKER_COMMAND, *paths), tag, self.folder.log(tag).resolve())

    # --- polling ---

    def _poll(self) -> None:
        states = self.executor.poll([worker.job for worker in self.workers])
        for worker in list(self.workers):
            worker.state = states[worker.tag]
            if worker.state.phase != "waiting":  # thousands may wait, and none has a heartbeat
                worker.update_heartbeat(self.folder)
            if worker.state.phase == "ended":
                self._handle_end(worker)
            else:
                self._check_progress(worker)
        running, ended = [worker.heartbeat for worker in self.workers], self.outcome.times
        done = sum(heartbeat.get("done", 0.0) for heartbeat in running)
        busy = sum(heartbeat.get("busy", 0.0) for heartbeat in running)
        self.progress(self.finished + done, busy + sum(worker.busy for worker in ended))

    def _check_progress(self, worker: Worker) -> None:
        """Stop a worker whose heartbeat stalls; kill one that outstays its grace period."""
        now = time.monotonic()
        if worker.state.phase == "waiting":
            worker.last_progress = now
        if worker.stopped_at is None:
            worker.stalled = now - worker.last_progress > self.settings.stall_seconds
            if worker.stalled:
                self._stop([worker])
        elif now - worker.stopped_at > self.settings.grace_seconds:
            worker.stopped_at = now  # kill again after another grace period, should this one fail
            self.executor.kill([worker.job])

    def _stop(self, workers: Sequence[Worker]) -> None:
        self.executor.stop([worker.job for worker in workers])
        for worker in workers:
            worker.stopped_at = time.monotonic()

    def _handle_end(self, worker: Worker) -> None:
        """Count what an ended worker did; requeue, quarantine or report what it left."""
        code = worker.state.exit_code
        left = [task for task in worker.tasks if not self.folder.is_done(task)]
        # The next round makes anew what the others read, and they come after it.
        left = [task for task in left if self.stage.can_begin(task)]
        if code == EXIT_OK and left and self._awaits_files(worker, left):
            return
        self.workers.remove(worker)
        remove_files(self.folder, worker.tag)
        reason = end_reason(worker, self.settings)
        logger.debug("%s ended (%s), %d tasks not done", worker.tag, reason, len(left))
        self._record_time(worker)
        self.finished += worker.units - sum(task.units for task in left)
        if len(left) < len(worker.tasks):
            self.stage.sweep.health.record_success(worker.heartbeat.get("device", ""))
        if not left:
            return
        if code == EXIT_IO:
            reason = log_tail(self.folder, worker.tag)
            raise StorageError(f"a worker could not write to {self.folder.root}: {reason}")
        if code == EXIT_USER_ERROR:
            raise UserError(log_tail(self.folder, worker.tag))
        if not worker.stalled and (code == EXIT_PREEMPTED or self.outcome.exit_code):
            self.bundles.appendleft(left)  # preempted, which is no fault of the tasks
        elif not worker.has_begun:
            if not self._is_of_device(worker, frozenset()):
                self.failed_starts += 1
            self._handle_failed_start(worker, left)
        else:
            self._retry_or_quarantine(worker, left)

    def _awaits_files(self, worker: Worker, left: Sequence[Task]) -> bool:
        """Whether files that a worker committed elsewhere may still become visible here."""
        self.folder.look_again(left)
        worker.ended_at = worker.ended_at or time.monotonic()
        return time.monotonic() - worker.ended_at < RELIST_SECONDS

    def _record_time(self, worker: Worker) -> None:
        self.failed_starts = 0 if worker.has_begun else self.failed_starts
        device = worker.heartbeat.get("device")
        if device is not None:  # else it died before its first heartbeat
            alive = time.monotonic() - worker.started
            self.outcome.times.append(WorkerTime(device, alive, worker.heartbeat["busy"]))

    def _handle_failed_start(self, worker: Worker, left: list[Task]) -> None:
        """Requeue tasks uncharged: a broken device or environment is not their fault.

        Raises:
            UserError: too many in a row, while no other worker shows that the environment works.
        """
        if self.failed_starts >= MAX_FAILED_STARTS and not self.workers:
            raise UserError(
                f"{self.failed_starts} workers in a row ended before they began "
                f"({end_reason(worker, self.settings)}): {log_tail(self.folder, worker.tag)} "
                f"See {self.folder.log(worker.tag)}."
            )
        self.bundles.append(left)

    def _retry_or_quarantine(self, worker: Worker, left: list[Task]) -> None:
        """Requeue the tasks of a crashed worker, each suspect in a bundle of its own."""
        found = attribute_failure(worker, left)
        self.bundles.extend([found.rest] if found.rest else [])
        self.bundles.extend([task] for task in found.suspects)
        for task in found.charged:
            if record_failure(self.folder, worker, task, self.settings).given_up:
                self.outcome.failed.add(task.key)
                self.given_up[task.key] = task
            else:
                self.bundles.append([task])
        self._is_of_device(worker, frozenset(task.key for task in found.charged))

    # --- broken devices ---

    def _is_of_device(self, worker: Worker, tasks: frozenset[str]) -> bool:
        """Count a failure against the device of a worker; returns whether it is at fault.

        A broken GPU gets no more work, and the attempts that it has cost are given back.

        Args:
            worker: that failed.
            tasks: keys of those that were charged.
        Raises:
            UserError: it was the last device.
        """
        device, health = worker.heartbeat.get("device") or "", self.stage.sweep.health
        if not (device.startswith("cuda") and isinstance(self.executor, DeviceChooser)):
            return False
        health.record_failure(device, tasks)
        sound, trouble = health.restored(), self._trouble(worker, device)
        if trouble:
            self._give_back(health.exclude(device, trouble))
            logger.warning("%s is not used any more: %s", device, trouble)
        if sound:
            logger.warning("%s used again: what failed there fails elsewhere too", ", ".join(sound))
        if sound or trouble:
            self._use_devices()
        return bool(trouble)

    def _trouble(self, worker: Worker, device: str) -> str:
        """Why a device seems to be broken; empty if it does not."""
        if worker.state.exit_code == EXIT_NO_DEVICE:  # the worker itself has tried it
            return log_tail(self.folder, worker.tag)
        sweep = self.stage.sweep
        if not sweep.health.is_suspected(device):
            return ""
        if trouble := trouble_of_device(device):
            return trouble
        is_last = sweep.usable_devices == [device]
        return "" if is_last else f"its last {FAILURES_IN_A_ROW} workers failed"

    def _use_devices(self) -> None:
        """Tell executor and status which devices are used from now on."""
        sweep = self.stage.sweep
        assert isinstance(self.executor, DeviceChooser)
        if not sweep.usable_devices:
            listed = "; ".join(f"{name}: {why}" for name, why in sweep.health.excluded.items())
            raise UserError(
                f"no GPU works any more ({listed}). What is done is kept: mend it and start the "
                "same command again."
            )
        self.executor.use(sweep.usable_devices)
        write_excluded_devices(self.folder, sweep.health.excluded)

    def _give_back(self, tasks: frozenset[str]) -> None:
        """Forget the attempts at some tasks, also those that were given up."""
        put_back(self.folder, tasks)
        for key in tasks & self.given_up.keys():
            self.outcome.failed.discard(key)
            self.bundles.append([self.given_up.pop(key)])

    # --- signals ---

    def _handle_signals(self) -> None:
        """Drain at the first Ctrl-C, kill at the second; stop all workers at SIGTERM and its like.

        A preempted driver leaves detached workers alone: the next run adopts them.
        """
        for number in self.signals:
            if number in LEAVING_SIGNALS:
                self.outcome.exit_code = EXIT_PREEMPTED
                if not self.executor.detached:
                    self._stop(self.workers)
            elif not self.outcome.exit_code:
                self._drain()
            else:
                self.executor.kill([worker.job for worker in self.workers])
        self.signals.clear()

    def _drain(self) -> None:
        """Have workers finish the shards in progress; those that wait would only begin new ones."""
        self.outcome.exit_code = EXIT_INTERRUPTED
        write_atomically(self.folder.drain, b"")
        self.executor.kill([w.job for w in self.workers if w.state.phase == "waiting"])
        logger.info("finishing the shards in progress; Ctrl-C again to stop at once")


@contextmanager
def deferred_signals() -> Iterator[list[int]]:
    """Collect SIGINT and the leaving signals in a list, for the loop to handle between polls.

    In another thread than the main one nothing is collected: Python handles signals there.
    """
    numbers: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield numbers
        return

    def note(number: int, frame: FrameType | None) -> None:
        numbers.append(number)

    previous = {s: signal.signal(s, note) for s in (signal.SIGINT, *LEAVING_SIGNALS)}
    try:
        yield numbers
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


# --- packing -------------------------------------------------------------------------------------


def pack(
    tasks: Sequence[T], seconds: Sequence[float], slots: int, most_seconds: float
) -> Iterator[list[T]]:
    """Pack the tasks of one model into bundles of about equal time, one per slot and wave.

    A bundle is a run of neighbours, so that the shards of a layer come to one worker, which sets
    the layer up once and fills its batches. At most one layer per bundle is split.

    Args:
        tasks: in plan order.
        seconds: estimated time of each task.
        slots: workers at once.
        most_seconds: about the longest that a bundle should take.
    """
    start, total = 0, 0.0
    for stop, cost in enumerate(seconds, 1):
        total += cost
        if total >= slots * most_seconds or stop == len(tasks):
            cuts = [start + cut for cut in _cuts(seconds[start:stop], slots)]
            yield from (list(tasks[a:b]) for a, b in pairwise(cuts))
            start, total = stop, 0.0


def _cuts(costs: Sequence[float], slots: int) -> list[int]:
    """Cut a row of costs into runs of about equal sums, one per slot; returns where they begin.

    Each run takes an equal part of what is left, to the nearest task, and one task at least.
    """
    cuts, left = [0], sum(costs)
    for slots_left in range(min(slots, len(costs)), 1, -1):
        begin, taken = cuts[-1], 0.0
        share, last = left / slots_left, len(costs) - slots_left
        end = begin
        while end <= last and (end == begin or taken + costs[end] / 2 < share):
            taken += costs[end]
            end += 1
        cuts.append(end)
        left -= taken
    return [*cuts, len(costs)]
