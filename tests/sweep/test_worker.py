"""The worker: what is made is committed beside the making, and kept whatever comes in between."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from forked import ForkedWorker
from runs import TINY
from toys import composed, make_recipe, make_result, make_series, stored_arrays

from layer_atlas.config.records import plain
from layer_atlas.errors import EXIT_IO, EXIT_NO_DEVICE, EXIT_OK, EXIT_PREEMPTED, StorageError
from layer_atlas.logs import without_routine
from layer_atlas.plan.jobs import Shard, ShardResult
from layer_atlas.plan.plan import flops_per_job
from layer_atlas.store.files import write_json
from layer_atlas.store.folder import OutputFolder, prepare
from layer_atlas.store.shards import commit
from layer_atlas.sweep.executors.base import WORKER_COMMAND
from layer_atlas.sweep.heartbeat import DEVICE_VARIABLE, Heartbeat
from layer_atlas.sweep.run import prepare_plan
from layer_atlas.sweep.stages import Sweep, stages
from layer_atlas.sweep.tasks import Committer, optimize
from layer_atlas.sweep.worker import attempt, work
from layer_atlas.visualization.optimization.renderer import LayerRenderer

TAG = "worker-test"
PATIENCE = 240
"""Seconds after which a worker is taken to hang; on a busy machine a start alone takes many."""


# --- the committer -------------------------------------------------------------------------------


@pytest.fixture
def heartbeat(folder: OutputFolder) -> Heartbeat:
    prepare(folder, 0)
    return Heartbeat(folder.heartbeat(TAG))


def batch(number: int, image_size: int = 16, n: int = 2) -> tuple[list[Shard], list[ShardResult]]:
    """Two shards with their results; noise, so that large images take long to pack."""
    series = make_series(recipe=make_recipe(image_size=image_size))
    shards = [Shard(series, tuple(range(n * i, n * i + n))) for i in (2 * number, 2 * number + 1)]
    noise = np.random.default_rng(number)
    results = []
    for shard in shards:
        result = make_result(shard)
        shape = result.arrays["image"].shape
        result.arrays["image"] = noise.integers(0, 256, shape, dtype=np.uint8)
        results.append(result)
    return shards, results


def submit(
    committer: Committer, folder: OutputFolder, shards: list[Shard], results: list[ShardResult]
) -> None:
    def write() -> None:
        for shard, result in zip(shards, results, strict=True):
            commit(folder, shard, result)

    committer.submit([shard.key for shard in shards], write)


def test_a_batch_is_committed_beside_what_the_main_thread_does(
    folder: OutputFolder, heartbeat: Heartbeat
) -> None:
    shards, results = batch(0, image_size=512, n=8)
    with Committer(heartbeat) as committer:
        submit(committer, folder, shards, results)
        assert not folder.shard(shards[-1]).exists(), "submitting waited for the commit"
        assert heartbeat.facts["unwritten"] == [shard.key for shard in shards]
    assert all(folder.shard(shard).exists() for shard in shards)


def test_commits_keep_the_order_and_few_batches_wait(
    folder: OutputFolder, heartbeat: Heartbeat
) -> None:
    submitted: list[Shard] = []
    with Committer(heartbeat) as committer:
        for number in range(5):
            shards, results = batch(number, image_size=256)
            submit(committer, folder, shards, results)
            submitted += shards
            unwritten = [shard for shard in submitted if not folder.shard(shard).exists()]
            assert len(unwritten) <= 2 * Committer.WAITING
            assert {shard.key for shard in unwritten} <= set(heartbeat.facts["unwritten"])
    written = [folder.shard(shard).stat().st_mtime_ns for shard in submitted]
    assert written == sorted(written)


def test_a_disk_that_fails_is_told_at_the_end_or_sooner(
    folder: OutputFolder, heartbeat: Heartbeat
) -> None:
    folder.store.touch()  # a file where a folder should be: nothing can be written below
    with pytest.raises(StorageError, match="cannot write"), Committer(heartbeat) as committer:
        submit(committer, folder, *batch(0))
    committer = Committer(heartbeat)
    for number in range(Committer.WAITING):
        with contextlib.suppress(StorageError):
            submit(committer, folder, *batch(number))
    with pytest.raises(StorageError, match="cannot write"):
        submit(committer, folder, *batch(Committer.WAITING))
    with pytest.raises(StorageError, match="cannot write"), committer:
        pass


def test_any_other_error_is_told_too_and_charged_to_its_shards(
    folder: OutputFolder, heartbeat: Heartbeat
) -> None:
    shards, results = batch(0)
    del results[1].arrays["status"]

    def work() -> None:
        with Committer(heartbeat) as committer:
            submit(committer, folder, shards, results)
            heartbeat.tick(tasks=["the next one"])

    with pytest.raises(KeyError):
        work()
    assert heartbeat.facts["tasks"] == [shard.key for shard in shards]


def test_an_error_in_the_main_thread_leaves_nothing_unwritten(
    folder: OutputFolder, heartbeat: Heartbeat
) -> None:
    shards, results = batch(0, image_size=256)

    def work() -> None:
        with Committer(heartbeat) as committer:
            submit(committer, folder, shards, results)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert all(folder.shard(shard).exists() for shard in shards)


# --- the process ---------------------------------------------------------------------------------


class RealWorker:
    """A worker process at a bundle of the demo network's first layer, in 8 shards of 3."""

    def __init__(self, folder: OutputFolder, *overrides: str) -> None:
        config = composed(*TINY, "layers=[conv1]", "shard_size=3", *overrides)
        plan, _ = prepare_plan(config)
        self.folder, self.shards = folder, list(plan.shards())
        model = plan.models[0]
        self.flops = plan.n_jobs * flops_per_job(model.layers[0], model.recipe)
        prepare(folder, 0)
        requests = [{"layer": "conv1", "seed": 0, "targets": s.targets} for s in self.shards]
        bundle = {"kind": "optimize", "models": plain(config.models), "plan": plain(model)}
        bundle |= {
            "device": "cpu",
            "dataset_plan": None,
            "dataset": None,
            "batch_size": 4,
            "requests": plain(requests),
        }
        write_json(folder.bundle(TAG), bundle)

    def start(self) -> ForkedWorker:
        """Start the worker as a fork of a process that has imported what it needs."""
        with open(self.folder.log(TAG), "ab") as log:
            return ForkedWorker(
                self._paths(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._variables("cpu"),
                start_new_session=True,
            )

    def run_from_nothing(self, *program: str, device: str = "cpu") -> tuple[int, int, str]:
        """Run the worker as its executors do; returns process id, exit code and what it said."""
        argv = [sys.executable, *(program or WORKER_COMMAND[1:]), *self._paths()]
        variables, said = self._variables(device), subprocess.PIPE
        process = subprocess.Popen(argv, stderr=said, text=True, env=variables)
        _, text = process.communicate(timeout=PATIENCE)
        return process.pid, process.returncode, text

    def _paths(self) -> list[str]:
        return [str(self.folder.root), str(self.folder.bundle(TAG))]

    def _variables(self, device: str) -> dict[str, str]:
        cpu = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", DEVICE_VARIABLE: device}
        return {**os.environ, **cpu}

    def heartbeat(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self.folder.heartbeat(TAG).read_text()))
        except FileNotFoundError:
            return {}

    def wait_until_made(self, n: int) -> None:
        """Wait until so many shards are made; the last may just be being written."""
        end = time.monotonic() + PATIENCE
        while self.shards[n - 1].key not in self.heartbeat().get("unwritten", []):
            assert time.monotonic() < end, self.heartbeat()
            time.sleep(0.001)

    def whole(self) -> set[str]:
        """The keys of the shards that are there, each of them readable."""
        done = [shard for shard in self.shards if self.folder.shard(shard).exists()]
        for shard in done:
            channels = stored_arrays(self.folder.shard(shard))["target"]
            assert tuple(channels) == shard.targets
        return {shard.key for shard in done}


@pytest.fixture
def worker(folder: OutputFolder) -> RealWorker:
    return RealWorker(folder)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize("device", ["cuda:0", "node7 cuda:3"])
def test_a_worker_without_the_gpu_that_it_is_to_use_leaves_before_its_first_task(
    worker: RealWorker, device: str
) -> None:
    _, code, said = worker.run_from_nothing(device=device)
    assert code == EXIT_NO_DEVICE
    assert "is to use a GPU, and cannot: " in said.splitlines()[-1]
    assert "NVIDIA driver" in said or "CUDA" in said
    assert worker.heartbeat()["tick"] == 0
    assert not worker.whole()


_CAPTURE_FAILS = """
import sys
from layer_atlas.sweep import worker
from layer_atlas.visualization.optimization.cuda_graphs import CaptureFailed
def fail(*_):
    raise CaptureFailed("operation not permitted when stream is capturing")
worker.attempt = fail
sys.exit(worker.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_after_a_failed_capture_a_fresh_process_does_the_bundle_in_its_place(
    worker: RealWorker,
) -> None:
    pid, code, said = worker.run_from_nothing("-c", _CAPTURE_FAILS)
    assert code == EXIT_OK
    assert "not permitted when stream is capturing; starting again without CUDA graphs" in said
    assert len(worker.whole()) == len(worker.shards)
    assert worker.heartbeat()["pid"] == pid


def test_nothing_of_a_layer_is_in_memory_when_the_next_is_measured(
    folder: OutputFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = composed(*TINY, "layers=[conv1,conv2]", "channels=0:2", "batch_size=auto")
    plan, _ = prepare_plan(config)
    prepare(folder, 0)
    alive: list[list[object]] = []
    renderers: list[weakref.ref[object]] = []
    both_measured = threading.Event()

    def measured(self: LayerRenderer, planned: int) -> int:
        alive.append([ref() for ref in renderers if ref() is not None])
        renderers.append(weakref.ref(self.loop))
        if len(renderers) == 2:
            both_measured.set()
        return 2

    def commit_late(folder: OutputFolder, shard: Shard, result: ShardResult) -> None:
        assert both_measured.wait(PATIENCE)
        commit(folder, shard, result)

    monkeypatch.setattr(optimize, "commit", commit_late)
    monkeypatch.setattr(LayerRenderer, "auto_batch", measured)
    sweep = Sweep(config, plan, folder, ["cpu"])
    write_json(folder.bundle(TAG), stages(sweep)[0].bundle(list(plan.shards())))
    assert attempt(folder, folder.bundle(TAG), Heartbeat(folder.heartbeat(TAG)), print) == EXIT_OK
    assert alive == [[], []]


@pytest.mark.slow
def test_a_worker_commits_all_and_tells_how_long_it_was_busy(worker: RealWorker) -> None:
    assert worker.start().wait(PATIENCE) == EXIT_OK
    assert len(worker.whole()) == len(worker.shards) == 8
    heartbeat = worker.heartbeat()
    assert heartbeat["device"] == "cpu"
    assert heartbeat["done"] == 24
    assert heartbeat["flops"] == pytest.approx(worker.flops)
    assert 0 < heartbeat["busy"] <= heartbeat["seconds"]


MADE, WRITTEN = ("optimizer.steps=100",), ("image_size=192", "optimizer.steps=1")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "times"),
    [
        pytest.param(MADE, 1, id="while one is made-1"),
        pytest.param(MADE, 2, id="while one is made-2", marks=pytest.mark.slow),
        pytest.param(WRITTEN, 1, id="while one is written-1", marks=pytest.mark.slow),
        pytest.param(WRITTEN, 2, id="while one is written-2"),
    ],
)
def test_sigterm_keeps_what_is_made_and_leaves_no_temporary_file(
    folder: OutputFolder, overrides: tuple[str, ...], times: int
) -> None:
    worker = RealWorker(folder, *overrides)
    process = worker.start()
    worker.wait_until_made(2)
    for _ in range(times):
        process.terminate()
    assert process.wait(PATIENCE) == EXIT_PREEMPTED
    assert {shard.key for shard in worker.shards[:2]} <= worker.whole()
    assert set(worker.heartbeat()["unwritten"]) <= worker.whole()
    assert len(worker.whole()) < 8
    assert not list(folder.store.rglob(".*"))


def test_kill_9_leaves_whole_shards_alone(folder: OutputFolder) -> None:
    worker = RealWorker(folder, "image_size=192", "optimizer.steps=1")
    process = worker.start()
    worker.wait_until_made(2)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait(PATIENCE) == -signal.SIGKILL
    before = worker.whole()
    assert len(before) < 8
    work(folder, folder.bundle(TAG), Heartbeat(folder.heartbeat(TAG)))
    assert before < worker.whole()
    assert len(worker.whole()) == 8


@pytest.mark.slow
def test_drain_finishes_the_shards_in_the_making(folder: OutputFolder) -> None:
    worker = RealWorker(folder, "optimizer.steps=100")
    process = worker.start()
    worker.wait_until_made(1)
    making = set(worker.heartbeat()["tasks"])
    folder.drain.touch()
    assert process.wait(PATIENCE) == EXIT_PREEMPTED
    assert making | set(worker.heartbeat()["unwritten"]) <= worker.whole()
    assert len(worker.whole()) < 8


def test_a_disk_that_fails_ends_the_worker_with_one_line(worker: RealWorker) -> None:
    worker.folder.store.touch()
    assert worker.start().wait(PATIENCE) == EXIT_IO
    # The driver quotes what is left of the log once routine records are dropped.
    (line,) = without_routine(worker.folder.log(TAG).read_text()).splitlines()
    assert line.startswith("cannot write")
