"""The scheduler: who is charged for a crash, what is tried again, where the time went."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from toys import layer_info, make_plan, make_result, make_series, make_sweep

from layer_atlas.config.executors import LocalSettings
from layer_atlas.errors import EXIT_OK, UserError
from layer_atlas.plan.jobs import Shard
from layer_atlas.store.folder import OutputFolder, prepare
from layer_atlas.store.shards import commit
from layer_atlas.sweep.executors.base import RUNNING, State, WorkerJob, WorkerSpec
from layer_atlas.sweep.scheduler import Outcome, Scheduler, WorkerTime, device_times, pack
from layer_atlas.sweep.stages import stages

# --- after a crash -------------------------------------------------------------------------------

SIGKILL = -9


@dataclass
class Fate:
    """What becomes of a worker: what it commits, what its last heartbeat says, how it ends."""

    exit_code: int = EXIT_OK
    commits: Sequence[int] = (0, 1, 2, 3)
    heartbeat: dict[str, Any] = field(default_factory=dict)
    tick: int = 1


@dataclass
class Script:
    """An executor whose workers meet their fates in turn, each at once."""

    folder: OutputFolder
    shards: list[Shard]
    fates: list[Fate]
    bundles: list[list[int]] = field(default_factory=list)
    max_parallel = max_submitted = 1
    detached = False
    poll_seconds = 0.01

    def submit(self, specs: Sequence[WorkerSpec]) -> list[WorkerJob]:
        return [self._start(spec) for spec in specs]

    def _start(self, spec: WorkerSpec) -> WorkerJob:
        bundle = json.loads(Path(spec.argv[-1]).read_text())
        asked = [tuple(r["targets"]) for r in bundle["requests"]]
        numbers = [n for n, shard in enumerate(self.shards) if shard.targets in asked]
        fate = self.fates[len(self.bundles)] if len(self.bundles) < len(self.fates) else Fate()
        for n in set(fate.commits) & set(numbers):
            commit(self.folder, self.shards[n], make_result(self.shards[n]))
        named = {k: [self.shards[n].key for n in v] for k, v in fate.heartbeat.items()}
        heartbeat = {"device": "cpu", "busy": 0.25, "done": 0.0, "tick": fate.tick, **named}
        self.folder.heartbeat(spec.tag).write_text(json.dumps(heartbeat))
        self.bundles.append(numbers)
        return WorkerJob(spec.tag, str(fate.exit_code))

    def poll(self, jobs: Sequence[WorkerJob]) -> dict[str, State]:
        return {job.tag: State("ended", int(job.job_id)) for job in jobs}

    def stop(self, jobs: Sequence[WorkerJob]) -> None: ...

    def kill(self, jobs: Sequence[WorkerJob]) -> None: ...

    def close(self) -> None: ...


def run_script(
    folder: OutputFolder, *fates: Fate, attempts: int = 3, kind: type[Script] = Script
) -> tuple[Script, Outcome]:
    """Run a sweep of 4 shards whose workers meet these fates, then good ones."""
    plan = make_plan(layer_info(n_channels=8), shard_size=2)
    script = kind(folder, list(plan.shards()), list(fates))
    prepare(folder, 0)
    (stage,) = stages(make_sweep(plan, folder))
    settings = LocalSettings(attempts=attempts)
    scheduler = Scheduler(folder, script, settings, stage, lambda finished, busy: None)
    return script, scheduler.run(script.shards)


def charged(script: Script) -> list[tuple[int, int]]:
    """Number and attempt of every shard that has a record of failure."""
    number = {shard.key: n for n, shard in enumerate(script.shards)}
    records = [json.loads(path.read_text()) for path in script.folder.failures.glob("*.json")]
    return sorted((number[record["task"]], record["attempt"]) for record in records)


def test_a_crash_is_charged_to_the_shard_in_the_making(folder: OutputFolder) -> None:
    crash = Fate(SIGKILL, commits=[0], heartbeat={"tasks": [1], "unwritten": [0]})
    script, outcome = run_script(folder, crash)
    assert charged(script) == [(1, 1)]
    assert script.bundles == [[0, 1, 2, 3], [2, 3], [1]]
    assert not outcome.failed
    assert not list(folder.logs.iterdir()), "a worker that has ended seems to be at work"


def test_what_was_made_but_not_written_is_made_again_on_its_own_uncharged(
    folder: OutputFolder,
) -> None:
    crash = Fate(SIGKILL, commits=[], heartbeat={"tasks": [1], "unwritten": [0]})
    script, outcome = run_script(folder, crash, attempts=1)
    assert charged(script) == [(1, 1)]
    assert script.bundles == [[0, 1, 2, 3], [2, 3], [0]]
    assert outcome.failed == {script.shards[1].key}


def test_a_crash_with_nothing_in_the_making_is_charged_to_what_was_being_written(
    folder: OutputFolder,
) -> None:
    crash = Fate(SIGKILL, commits=[], heartbeat={"tasks": [], "unwritten": [0]})
    script, outcome = run_script(folder, crash, Fate(), crash, crash)
    assert charged(script) == [(0, 1), (0, 2), (0, 3)]
    assert script.bundles == [[0, 1, 2, 3], [1, 2, 3], [0], [0]]
    assert outcome.failed == {script.shards[0].key}


def test_a_worker_that_ends_before_it_began_costs_no_shard_an_attempt(
    folder: OutputFolder,
) -> None:
    script, outcome = run_script(folder, Fate(1, commits=[], tick=0))
    assert charged(script) == []
    assert script.bundles == [[0, 1, 2, 3]] * 2
    assert not outcome.failed


def test_no_more_workers_are_started_when_none_gets_to_begin(folder: OutputFolder) -> None:
    with pytest.raises(UserError, match=r"3 workers in a row ended .*exit code 1"):
        run_script(folder, *[Fate(1, commits=[], tick=0)] * 3)
    assert not folder.failures.exists()


def test_a_worker_that_is_only_starting_does_not_keep_bad_starts_going(
    folder: OutputFolder,
) -> None:
    """On two slots there is always another worker that has not ended yet."""

    class Staggered(Script):
        max_parallel = max_submitted = 2

        def poll(self, jobs: Sequence[WorkerJob]) -> dict[str, State]:
            last = {jobs[-1].tag: RUNNING} if len(jobs) > 1 else {}
            return super().poll(jobs) | last

    with pytest.raises(UserError, match=r"\d workers in a row ended"):
        run_script(folder, *[Fate(1, commits=[], tick=0)] * 20, kind=Staggered)


def test_attempts_of_earlier_runs_count(folder: OutputFolder) -> None:
    crash = Fate(SIGKILL, commits=[], heartbeat={"tasks": [0]})
    run_script(folder, crash, attempts=3)
    for shard in (folder.store).rglob("*.safetensors"):
        shard.unlink()
    script, outcome = run_script(folder, crash, Fate(), crash)
    assert charged(script) == [(0, 1), (0, 2), (0, 3)]
    assert outcome.failed == {script.shards[0].key}


# --- where the time went -------------------------------------------------------------------------


def test_the_time_of_every_worker_is_kept_also_of_those_that_die(folder: OutputFolder) -> None:
    crash = Fate(SIGKILL, commits=[0], heartbeat={"tasks": [1]})
    _, outcome = run_script(folder, crash)
    assert [(time.device, time.busy) for time in outcome.times] == [("cpu", 0.25)] * 3
    assert all(0 < time.alive < 60 for time in outcome.times)


SERIES = make_series()
MOST = 1200.0


def shards_of(costs: list[float]) -> tuple[list[Shard], dict[str, float]]:
    shards = [Shard(SERIES, (i,)) for i in range(len(costs))]
    return shards, {shard.key: cost for shard, cost in zip(shards, costs, strict=True)}


def random_costs(n: int, largest: float, seed: int) -> list[float]:
    random = Random(seed)
    return [largest * random.random() ** 3 for _ in range(n)]


CASES = [
    [],
    [5.0],
    [1.0] * 10,
    random_costs(40, 60.0, 0),  # one wave
    random_costs(300, MOST / 3, 1),  # many waves
    [3 * MOST, 1.0, 1.0],  # one shard longer than a bundle
    [0.0] * 7,
]


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("costs", CASES, ids=lambda costs: f"{len(costs)} shards")
def test_no_shard_is_lost_or_doubled_and_no_bundle_is_empty(costs: list[float], slots: int) -> None:
    shards, cost = shards_of(costs)
    bundles = list(pack(shards, list(cost.values()), slots, MOST))
    assert Counter(s.key for bundle in bundles for s in bundle) == Counter(s.key for s in shards)
    assert all(bundles)


@pytest.mark.parametrize("slots", [1, 2, 5])
@pytest.mark.parametrize("costs", CASES, ids=lambda costs: f"{len(costs)} shards")
def test_bundles_of_a_wave_differ_by_a_shard_at_most(costs: list[float], slots: int) -> None:
    shards, cost = shards_of(costs)
    bundles = list(pack(shards, list(cost.values()), slots, MOST))
    loads = [sum(cost[s.key] for s in bundle) for bundle in bundles]
    longest = max(costs, default=0.0)
    for start in range(0, len(loads), slots):
        wave = loads[start : start + slots]
        wave += [0.0] * (min(slots, len(costs)) - len(wave))
        assert max(wave) - min(wave) <= longest + 1e-9
    assert all(load <= MOST + longest + 1e-9 for load in loads)


def test_every_slot_gets_work_while_there_are_shards_enough() -> None:
    shards, cost = shards_of([1.0] * 3)
    assert [len(bundle) for bundle in pack(shards, list(cost.values()), 3, MOST)] == [1, 1, 1]


def test_bundles_keep_the_order_of_the_plan() -> None:
    costs = random_costs(300, MOST / 3, 2)
    shards, cost = shards_of(costs)
    bundles = list(pack(shards, list(cost.values()), 3, MOST))
    order = {shard.key: i for i, shard in enumerate(shards)}
    for bundle in bundles:
        places = [order[shard.key] for shard in bundle]
        assert places == sorted(places)
    waves = [
        [order[s.key] for bundle in bundles[i : i + 3] for s in bundle]
        for i in range(0, len(bundles), 3)
    ]
    assert len(waves) > 3
    assert all(max(earlier) < min(later) for earlier, later in pairwise(waves))


def test_busy_share_is_of_the_wall_time_of_every_slot() -> None:
    times = [WorkerTime("cpu", 8.0, 6.0), WorkerTime("cpu", 8.0, 4.0), WorkerTime("cuda:1", 5, 2)]
    told = device_times(["cpu", "cpu", "cuda:0", "cuda:1"], times, wall=10.0)
    assert list(told) == ["cpu", "cuda:0", "cuda:1"]
    assert told["cpu"] == {"slots": 2, "workers": 2, "alive": 16, "busy": 10, "busy_share": 0.5}
    assert told["cuda:0"] == {"slots": 1, "workers": 0, "alive": 0, "busy": 0, "busy_share": 0}
    assert told["cuda:1"]["busy_share"] == 0.2
