"""The worker: one process on one device that makes a bundle of shards and commits each.

Started as `python -m pipeline worker OUTPUT_FOLDER BUNDLE.json`. It reports by its exit code, by
the shards it commits, by records of failed attempts, and by a pulse file that says how far it is.
"""

import contextlib
import json
import os
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
from numpy.typing import NDArray

from pipeline.bench import LayerBench, Workbench
from pipeline.config import ModelConfig
from pipeline.errors import (
    EXIT_FAILED_JOBS,
    EXIT_IO,
    EXIT_OK,
    EXIT_PREEMPTED,
    EXIT_USER_ERROR,
    StorageError,
    UserError,
)
from pipeline.family import die_with
from pipeline.jobs import Series, Shard, ShardResult, joined
from pipeline.models import load_network
from pipeline.plan import ModelPlan
from pipeline.records import build
from pipeline.store import OutputFolder, commit

PARENT_VARIABLE = "LAYER_ATLAS_PARENT"
"""Process id of the driver; a worker that has one dies with it."""

DEVICE_VARIABLE = "LAYER_ATLAS_DEVICE"
"""What the driver calls the device that a worker runs on."""


@dataclass(frozen=True)
class ShardRequest:
    """Which shard, within the bundle's model."""

    layer: str
    seed: int
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Bundle:
    """What a worker is asked to do: shards of one model, layers back to back."""

    model: ModelConfig
    plan: ModelPlan
    batch_size: int | Literal["auto"]
    requests: tuple[ShardRequest, ...]

    def shards(self) -> list[Shard]:
        """The shards, in order."""
        plan = self.plan
        return [
            Shard(Series(plan.label, plan.network, r.layer, r.seed, plan.recipe), r.channels)
            for r in self.requests
        ]


class Preempted(BaseException):
    """SIGTERM: drop the shards in the making, finish writing those that are made, and leave."""


class Pulse:
    """A small file that says what the worker is at; the driver reads it, nothing depends on it.

    `shards` are in the making, `unwritten` are made and perhaps not committed yet; `done` counts
    jobs; `busy` are the seconds spent making, of `seconds` altogether. For the main thread alone.
    """

    INTERVAL = 0.25

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts: dict[str, Any] = {
            "pid": os.getpid(),
            "device": os.environ.get(DEVICE_VARIABLE),
            "beat": 0,
            "shards": [],
            "unwritten": [],
            "done": 0.0,
            "busy": 0.0,
        }
        self._started = time.monotonic()
        self._written = 0.0

    def beat(self, **facts: Any) -> None:
        """Note facts; write them down now and then, and at once when the shards change."""
        self.facts.update(facts, beat=self.facts["beat"] + 1)
        if "shards" in facts or time.monotonic() - self._written > self.INTERVAL:
            self.write()

    def write(self) -> None:
        """Write the facts down."""
        self._written = time.monotonic()
        self.facts["seconds"] = self._written - self._started
        temporary = self.path.with_suffix(".pulse.tmp")
        with contextlib.suppress(OSError):  # a full disk is met, and told, by the next commit
            temporary.write_text(json.dumps(self.facts))
            temporary.replace(self.path)


def main(argv: Sequence[str]) -> int:
    """Run the bundle that the command line names; returns the exit code."""
    if PARENT_VARIABLE in os.environ:
        die_with(int(os.environ[PARENT_VARIABLE]))
    signal.signal(signal.SIGTERM, _preempt)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's business
    folder, path = OutputFolder(Path(argv[0])), Path(argv[1])
    pulse = Pulse(folder.pulse(path.stem))
    try:
        bundle = build(Bundle, json.loads(path.read_text()))
        return work(folder, bundle, pulse)
    except Preempted:
        return EXIT_PREEMPTED
    except StorageError as error:
        print(error, file=sys.stderr)
        return EXIT_IO
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    except Exception:  # noqa: BLE001 - the driver reads it in the log and tries again
        traceback.print_exc()
        return EXIT_FAILED_JOBS
    finally:
        pulse.write()


def work(folder: OutputFolder, bundle: Bundle, pulse: Pulse) -> int:
    """Make and commit every shard of a bundle that is not there yet; returns the exit code."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_network(bundle.model)
    if network.identity != bundle.plan.network:
        raise UserError(
            f"the weights of model {network.label!r} changed while the sweep was running; start it "
            "again to make the atlas of the new ones."
        )
    bench = Workbench(network, bundle.plan.recipe, device)
    with Committer(folder, pulse) as committer:
        return _make_layers(folder, bundle, bench, committer, pulse)


def _make_layers(
    folder: OutputFolder, bundle: Bundle, bench: Workbench, committer: "Committer", pulse: Pulse
) -> int:
    """Make the missing shards, layer by layer, until done or told to leave; returns the exit code.

    Raises:
        StorageError: the disk is full or fails.
    """
    infos = {layer.info.name: layer.info for layer in bundle.plan.layers}
    for name, group in groupby(bundle.shards(), key=lambda shard: shard.series.layer):
        waiting = list(group)
        pulse.beat(shards=[waiting[0].key])  # what goes wrong from here on is charged to it
        runner = ShardRunner(bench.layer(infos[name]), bundle.batch_size, committer, pulse)
        for shards in together(waiting, runner.batch_size):
            if folder.drain.exists():
                return EXIT_PREEMPTED
            runner.run([shard for shard in shards if not folder.shard(shard).exists()])
    return EXIT_OK


class Committer:
    """Commits finished shards, in order, while the next ones are made.

    Leaving its context writes all that was handed over, however the work ended: a shard that is
    made is lost to nothing less than a kill.
    """

    WAITING = 2
    """Batches handed over and not yet written; more would take memory and win no time."""

    def __init__(self, folder: OutputFolder, pulse: Pulse) -> None:
        self.folder, self.pulse = folder, pulse
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="commit")
        self._waiting: deque[tuple[list[str], Future[None]]] = deque()

    def __enter__(self) -> "Committer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._thread.shutdown()
        self._settle(0)

    def submit(self, shards: Sequence[Shard], results: Sequence[ShardResult]) -> None:
        """Hand over a batch, then wait while too many are unwritten. Raises what those met."""
        written = self._thread.submit(self._commit, shards, results)
        self._waiting.append(([shard.key for shard in shards], written))
        self.pulse.beat(shards=[], unwritten=[key for keys, _ in self._waiting for key in keys])
        self._settle(self.WAITING)

    def _commit(self, shards: Sequence[Shard], results: Sequence[ShardResult]) -> None:
        for shard, result in zip(shards, results, strict=True):
            commit(self.folder, shard, result)

    def _settle(self, most: int) -> None:
        """Forget what is written; wait until at most so many are not. Raises their error."""
        while self._waiting and (len(self._waiting) > most or self._waiting[0][1].done()):
            keys, written = self._waiting[0]
            error = written.exception()
            if error is not None:
                self.pulse.beat(shards=keys)  # charged for it, rather than those in the making
                raise error
            self._waiting.popleft()


class ShardRunner:
    """Makes shards of one layer: batches of jobs in, shards for the committer out."""

    def __init__(
        self,
        bench: LayerBench,
        batch_size: int | Literal["auto"],
        committer: Committer,
        pulse: Pulse,
    ) -> None:
        self.bench, self.committer, self.pulse = bench, committer, pulse
        self.batch_size = bench.auto_batch() if batch_size == "auto" else batch_size

    def run(self, shards: Sequence[Shard]) -> None:
        """Make some shards together and have each committed. Raises what earlier commits met."""
        if not shards:
            return
        self.pulse.beat(shards=[shard.key for shard in shards])
        started = time.monotonic()
        jobs = [(key, c) for s in shards for key, c in zip(s.job_keys, s.channels, strict=True)]
        made = ShardResult(self._make(jobs))
        seconds = (time.monotonic() - started) / len(jobs)
        facts = {"seconds_per_job": round(seconds, 4), "device": _device_name()}
        results, end = [], 0
        for shard in shards:
            start, end = end, end + len(shard.channels)
            results.append(ShardResult(made.rows(slice(start, end)), facts))
        self.committer.submit(shards, results)

    def _make(self, jobs: list[tuple[str, int]]) -> dict[str, NDArray[Any]]:
        """Make jobs in batches; out of memory halves the batch, for the rest of the layer too."""
        parts: list[dict[str, NDArray[Any]]] = []
        start = 0
        while start < len(jobs):
            batch = jobs[start : start + self.batch_size]
            try:
                parts.append(self._make_batch(batch))
            except torch.OutOfMemoryError:
                if self.batch_size == 1:
                    raise
                self.batch_size //= 2
                torch.cuda.empty_cache()
                print(f"out of memory: batch size is now {self.batch_size}", file=sys.stderr)
                continue
            start += len(batch)
        return joined(parts)

    def _make_batch(self, batch: list[tuple[str, int]]) -> dict[str, NDArray[Any]]:
        done, busy = self.pulse.facts["done"], self.pulse.facts["busy"]
        parts = self.bench.recipe.optimizer.steps + 1  # measuring counts as one more step
        started = time.monotonic()

        def on_step(step: int) -> None:
            now = time.monotonic()
            self.pulse.beat(done=done + len(batch) * (step + 1) / parts, busy=busy + now - started)

        arrays = self.bench.make([key for key, _ in batch], [c for _, c in batch], on_step)
        on_step(parts - 1)
        return arrays


def together(shards: Sequence[Shard], batch_size: int) -> Iterator[list[Shard]]:
    """Group neighbouring shards so that each group fills a batch; a large shard stands alone."""
    group: list[Shard] = []
    for shard in shards:
        if group and sum(len(s.channels) for s in [*group, shard]) > batch_size:
            yield group
            group = []
        group.append(shard)
    if group:
        yield group


def _device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def _preempt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; what is made is being written
    raise Preempted
