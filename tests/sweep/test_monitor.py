"""Looking on: who is at work, and whether they move, by real heartbeats and a real lock."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from toys import fail, fill_store, layer_info, make_plan

from layer_atlas.atlas.gather import layer_views
from layer_atlas.plan.jobs import Shard
from layer_atlas.plan.plan import flops_per_job
from layer_atlas.store.files import write_json
from layer_atlas.store.folder import OutputFolder, prepare
from layer_atlas.store.lock import locked
from layer_atlas.sweep import monitor
from layer_atlas.sweep.executors.base import WorkerJob
from layer_atlas.sweep.executors.slurm_job import write_ending
from layer_atlas.sweep.heartbeat import Heartbeat
from layer_atlas.sweep.monitor import LiveStatus, WorkerStatus, layer_progress_of, live_status
from layer_atlas.sweep.workers import Worker, write_submission

LOOK_SECONDS = 0.4
SHARDS = list(make_plan(layer_info("a", 8)).shards())


def tag(number: int) -> str:
    return f"worker-{number:08}"


@pytest.fixture(autouse=True)
def ready(folder: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "LOOK_SECONDS", LOOK_SECONDS)
    prepare(folder, 0)


def submit(folder: OutputFolder, number: int, detached: bool = False) -> None:
    """What a scheduler leaves of a worker that it hands over."""
    write_json(folder.bundle(tag(number)), {})
    if detached:
        write_submission(folder, "slurm", Worker(WorkerJob(tag(number), "7"), SHARDS[:1]))


def begin(folder: OutputFolder, number: int, *shards: Shard, **facts: Any) -> Heartbeat:
    """A worker begins with some shards."""
    heartbeat = Heartbeat(folder.heartbeat(tag(number)))
    heartbeat.facts.update(kind="optimize", **facts)
    heartbeat.begin(shards or SHARDS[:1])
    return heartbeat


@contextmanager
def beating(heartbeat: Heartbeat) -> Iterator[None]:
    """The worker goes on."""
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(0.02):
            heartbeat.tick(tasks=heartbeat.facts["tasks"])  # which is written down at once

    thread = threading.Thread(target=tick)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def tags(status: LiveStatus) -> list[str]:
    return [worker.tag for worker in status.workers]


def test_nobody_is_at_work_where_a_run_left_its_requests(folder: OutputFolder) -> None:
    submit(folder, 0)
    begin(folder, 0)
    status = live_status(folder)
    assert (status.driver, status.workers) == (None, ())


def test_workers_of_a_run_are_those_whose_requests_are_there(folder: OutputFolder) -> None:
    for number in range(2):
        submit(folder, number)
    begin(folder, 0)
    begin(folder, 5)
    with locked(folder):
        status = live_status(folder)
    assert status.driver is not None
    assert status.driver.pid == os.getpid()
    assert tags(status) == [tag(0), tag(1)]
    assert [worker.heartbeat is not None for worker in status.workers] == [True, False]
    assert status.tasks == {SHARDS[0].key}


def test_workers_that_go_on_by_themselves_are_at_work_without_a_run(folder: OutputFolder) -> None:
    submit(folder, 0)
    submit(folder, 1, detached=True)
    submit(folder, 2, detached=True)
    write_ending(folder.ending(tag(2)), 1)
    status = live_status(folder)
    assert status.driver is None
    assert [(worker.tag, worker.engine) for worker in status.workers] == [(tag(1), "slurm")]


def test_who_moves_is_told_from_who_does_not(folder: OutputFolder) -> None:
    for number in range(3):
        submit(folder, number, detached=True)
    begin(folder, 0)
    with beating(begin(folder, 1)):
        status = live_status(folder)
    assert [worker.moves for worker in status.workers] == [False, True, False]


def test_looking_is_over_when_all_have_moved(folder: OutputFolder) -> None:
    submit(folder, 0, detached=True)
    submit(folder, 1, detached=True)
    with beating(begin(folder, 0)):
        started = time.monotonic()
        live_status(folder)
        assert time.monotonic() - started < 0.8 * LOOK_SECONDS


def test_the_clock_of_the_host_does_not_matter(folder: OutputFolder) -> None:
    submit(folder, 0, detached=True)
    with beating(begin(folder, 0)):
        os.utime(folder.heartbeat(tag(0)), (0, 0))
        (worker,) = live_status(folder).workers
    assert worker.moves


def test_a_worker_that_ends_meanwhile_is_not_shown(folder: OutputFolder) -> None:
    for number in range(2):
        submit(folder, number, detached=True)
        begin(folder, number)
    ending = threading.Timer(0.3 * LOOK_SECONDS, folder.heartbeat(tag(1)).unlink)
    ending.start()
    status = live_status(folder)
    ending.join()
    assert tags(status) == [tag(0)]


def test_what_is_made_and_not_yet_written_is_in_hand(folder: OutputFolder) -> None:
    submit(folder, 0, detached=True)
    heartbeat = begin(folder, 0, *SHARDS[2:4])
    heartbeat.facts["unwritten"] = [SHARDS[0].key]
    heartbeat.write()
    status = live_status(folder)
    assert status.tasks == {shard.key for shard in (SHARDS[0], *SHARDS[2:4])}
    (worker,) = status.workers
    assert worker.heartbeat is not None
    assert worker.heartbeat["at"] == "toy/a channels 4-5 seed 0 and 1 more"


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_heartbeat_that_cannot_be_read_is_of_a_worker_that_has_not_begun(
    folder: OutputFolder, text: str
) -> None:
    submit(folder, 0, detached=True)
    folder.heartbeat(tag(0)).write_text(text)
    (worker,) = live_status(folder).workers
    assert worker.heartbeat is None


# --- pace ----------------------------------------------------------------------------------------


def sighting(number: int, **heartbeat: Any) -> WorkerStatus:
    return WorkerStatus(tag(number), "", {"kind": "optimize", **heartbeat}, moves=True)


def test_pace_is_what_each_did_since_its_first_task_began() -> None:
    workers = (sighting(0, done=10.0, seconds=5.0), sighting(1, done=30.0, seconds=10.0))
    assert LiveStatus(None, workers).rate("done", "channels") == pytest.approx(5.0)


def test_who_has_nothing_to_show_yet_is_taken_to_be_as_fast_as_the_others() -> None:
    waiting = WorkerStatus(tag(2), "slurm", None, moves=False)
    workers = (sighting(0, done=10.0, seconds=5.0), sighting(1, done=0.0, seconds=2.0), waiting)
    assert LiveStatus(None, workers).rate("done", "channels") == pytest.approx(4.0)


def test_kinds_of_work_are_not_added_up() -> None:
    workers = (
        sighting(0, done=10.0, seconds=5.0),
        sighting(1, done=600.0, seconds=1.0, kind="statistics"),
    )
    status = LiveStatus(None, workers)
    assert status.units == ["channels", "photographs"]
    assert status.rate("done", "photographs") == 600.0
    assert LiveStatus(None, workers[:1]).rate("done", "photographs") == 0.0


def test_a_real_heartbeat_counts_from_the_first_task(folder: OutputFolder) -> None:
    heartbeat = Heartbeat(folder.heartbeat(tag(0)))
    time.sleep(0.2)
    heartbeat.begin(SHARDS[:1])
    assert heartbeat.facts["seconds"] < 0.1
    time.sleep(0.2)
    heartbeat.write()
    assert 0.2 <= heartbeat.facts["seconds"] < 10


PLAN = make_plan(layer_info("a", 9), layer_info("b", 4, flops_before=99), seeds=(0, 1))


def test_jobs_are_done_running_failed_or_missing(folder: OutputFolder) -> None:
    a, b = PLAN.models[0].layers
    shards = list(PLAN.shards())
    fill_store(folder, make_plan(a.info, channels=(0, 1, 2, 3, 8)))
    fail(folder, shards[3])
    at_work = {shards[2].key, shards[-1].key}
    first, second = (layer_progress_of(view, at_work) for view in layer_views(folder, PLAN))
    assert (first.model, first.layer, first.total) == ("toy", "a", 18)
    assert (first.done, first.running, first.failed, first.missing) == (5, 2, 2, 9)
    assert (second.done, second.running, second.failed, second.missing) == (0, 2, 0, 6)
    assert second.flops_left == 8 * flops_per_job(b, PLAN.models[0].recipe)


def test_what_was_committed_just_now_is_done_whatever_its_worker_says(
    folder: OutputFolder,
) -> None:
    fill_store(folder, PLAN)
    at_work = {shard.key for shard in PLAN.shards()}
    standings = [layer_progress_of(view, at_work) for view in layer_views(folder, PLAN)]
    assert [(s.done, s.running, s.missing) for s in standings] == [(18, 0, 0), (8, 0, 0)]
    assert sum(s.flops_left for s in standings) == 0
