"""Looking on: who is at work, and whether they move, by real pulses and a real lock."""

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from toys import layer_info, make_plan

from layer_atlas.plan.jobs import Shard
from layer_atlas.store.files import write_json
from layer_atlas.store.folder import OutputFolder, prepare
from layer_atlas.store.lock import locked
from layer_atlas.sweep.executors.base import Handle
from layer_atlas.sweep.executors.slurm_job import write_ending
from layer_atlas.sweep.inspection import monitor as watching
from layer_atlas.sweep.inspection.monitor import Scene, Sighting, look_at
from layer_atlas.sweep.scheduling.workers import Worker, write_submission
from layer_atlas.sweep.tasks.heartbeat import Pulse

LOOK_SECONDS = 0.4
SHARDS = list(make_plan(layer_info("a", 8)).shards())


def tag(number: int) -> str:
    return f"worker-{number:08}"


@pytest.fixture(autouse=True)
def ready(folder: OutputFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "LOOK_SECONDS", LOOK_SECONDS)
    prepare(folder, 0)


def hand_over(folder: OutputFolder, number: int, lasting: bool = False) -> None:
    """What a scheduler leaves of a worker that it hands over."""
    write_json(folder.bundle(tag(number)), {})
    if lasting:
        write_submission(folder, "slurm", Worker(Handle(tag(number), "7"), SHARDS[:1]))


def begin(folder: OutputFolder, number: int, *shards: Shard, **facts: Any) -> Pulse:
    """A worker begins with some shards."""
    pulse = Pulse(folder.pulse(tag(number)))
    pulse.facts.update(kind="ascend", **facts)
    pulse.begin(shards or SHARDS[:1])
    return pulse


@contextmanager
def beating(pulse: Pulse) -> Iterator[None]:
    """The worker goes on."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(0.02):
            pulse.beat(tasks=pulse.facts["tasks"])  # which is written down at once

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def tags(scene: Scene) -> list[str]:
    return [worker.tag for worker in scene.workers]


def test_nobody_is_at_work_where_a_run_left_its_requests(folder: OutputFolder) -> None:
    hand_over(folder, 0)
    begin(folder, 0)
    scene = look_at(folder)
    assert (scene.driver, scene.workers) == (None, ())


def test_workers_of_a_run_are_those_whose_requests_are_there(folder: OutputFolder) -> None:
    for number in range(2):
        hand_over(folder, number)
    begin(folder, 0)
    begin(folder, 5)
    with locked(folder):
        scene = look_at(folder)
    assert scene.driver is not None
    assert scene.driver.pid == os.getpid()
    assert tags(scene) == [tag(0), tag(1)]
    assert [worker.pulse is not None for worker in scene.workers] == [True, False]
    assert scene.tasks == {SHARDS[0].key}


def test_workers_that_go_on_by_themselves_are_at_work_without_a_run(folder: OutputFolder) -> None:
    hand_over(folder, 0)
    hand_over(folder, 1, lasting=True)
    hand_over(folder, 2, lasting=True)
    write_ending(folder.ending(tag(2)), 1)
    scene = look_at(folder)
    assert scene.driver is None
    assert [(worker.tag, worker.engine) for worker in scene.workers] == [(tag(1), "slurm")]


def test_who_moves_is_told_from_who_does_not(folder: OutputFolder) -> None:
    for number in range(3):
        hand_over(folder, number, lasting=True)
    begin(folder, 0)
    with beating(begin(folder, 1)):
        scene = look_at(folder)
    assert [worker.moves for worker in scene.workers] == [False, True, False]


def test_looking_is_over_when_all_have_moved(folder: OutputFolder) -> None:
    hand_over(folder, 0, lasting=True)
    hand_over(folder, 1, lasting=True)
    with beating(begin(folder, 0)):
        started = time.monotonic()
        look_at(folder)
        assert time.monotonic() - started < 0.8 * LOOK_SECONDS


def test_the_clock_of_the_host_does_not_matter(folder: OutputFolder) -> None:
    hand_over(folder, 0, lasting=True)
    with beating(begin(folder, 0)):
        os.utime(folder.pulse(tag(0)), (0, 0))
        (worker,) = look_at(folder).workers
    assert worker.moves


def test_a_worker_that_ends_meanwhile_is_not_shown(folder: OutputFolder) -> None:
    for number in range(2):
        hand_over(folder, number, lasting=True)
        begin(folder, number)
    ending = threading.Timer(0.3 * LOOK_SECONDS, folder.pulse(tag(1)).unlink)
    ending.start()
    scene = look_at(folder)
    ending.join()
    assert tags(scene) == [tag(0)]


def test_what_is_made_and_not_yet_written_is_in_hand(folder: OutputFolder) -> None:
    hand_over(folder, 0, lasting=True)
    pulse = begin(folder, 0, *SHARDS[2:4])
    pulse.facts["unwritten"] = [SHARDS[0].key]
    pulse.write()
    scene = look_at(folder)
    assert scene.tasks == {shard.key for shard in (SHARDS[0], *SHARDS[2:4])}
    (worker,) = scene.workers
    assert worker.pulse is not None
    assert worker.pulse["at"] == "toy/a channels 4-5 seed 0 and 1 more"


@pytest.mark.parametrize("text", ["", "{", "[]", "null"])
def test_a_pulse_that_cannot_be_read_is_of_a_worker_that_has_not_begun(
    folder: OutputFolder, text: str
) -> None:
    hand_over(folder, 0, lasting=True)
    folder.pulse(tag(0)).write_text(text)
    (worker,) = look_at(folder).workers
    assert worker.pulse is None


# --- pace ----------------------------------------------------------------------------------------


def sighting(number: int, **pulse: Any) -> Sighting:
    return Sighting(tag(number), "", {"kind": "ascend", **pulse}, moves=True)


def test_pace_is_what_each_did_since_its_first_task_began() -> None:
    workers = (sighting(0, done=10.0, seconds=5.0), sighting(1, done=30.0, seconds=10.0))
    assert Scene(None, workers).rate("done", "channels") == pytest.approx(5.0)


def test_who_has_nothing_to_show_yet_is_taken_to_be_as_fast_as_the_others() -> None:
    waiting = Sighting(tag(2), "slurm", None, moves=False)
    workers = (sighting(0, done=10.0, seconds=5.0), sighting(1, done=0.0, seconds=2.0), waiting)
    assert Scene(None, workers).rate("done", "channels") == pytest.approx(4.0)


def test_kinds_of_work_are_not_added_up() -> None:
    workers = (
        sighting(0, done=10.0, seconds=5.0),
        sighting(1, done=600.0, seconds=1.0, kind="study"),
    )
    scene = Scene(None, workers)
    assert scene.units == ["channels", "photographs"]
    assert scene.rate("done", "photographs") == 600.0
    assert Scene(None, workers[:1]).rate("done", "photographs") == 0.0


def test_a_real_pulse_counts_from_the_first_task(folder: OutputFolder) -> None:
    pulse = Pulse(folder.pulse(tag(0)))
    time.sleep(0.2)
    pulse.begin(SHARDS[:1])
    assert pulse.facts["seconds"] < 0.1
    time.sleep(0.2)
    pulse.write()
    assert 0.2 <= pulse.facts["seconds"] < 10
