"""A broken GPU beside healthy ones: it is found, left out, and costs no task its attempts."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from toys import layer_info, make_plan, make_result, make_sweep

from layer_atlas.cli.status import status_table
from layer_atlas.config.executors import LocalSettings
from layer_atlas.errors import EXIT_NO_DEVICE, EXIT_OK, UserError
from layer_atlas.plan.jobs import Shard
from layer_atlas.store.folder import OutputFolder, prepare
from layer_atlas.store.manifest import excluded_devices, read_manifest, write_manifest
from layer_atlas.store.shards import commit
from layer_atlas.sweep import scheduler as module
from layer_atlas.sweep.executors.base import DeviceChooser, State, WorkerJob, WorkerSpec
from layer_atlas.sweep.gpus import DeviceHealth
from layer_atlas.sweep.scheduler import Outcome, Scheduler
from layer_atlas.sweep.stages import Sweep, stages

SIGABRT = -6
CRASH = {"code": SIGABRT, "tick": 1}
LEAVES = {"code": EXIT_NO_DEVICE, "tick": 0}

Fails = Callable[[str, Shard, int], dict[str, int] | None]
"""How a worker on a device ends at a shard, by the number of shards it has done; `None` if well."""


@dataclass
class Machine:
    """An executor with GPUs, some of which are broken."""

    folder: OutputFolder
    shards: list[Shard]
    devices: list[str]
    fails: Fails
    ended: dict[str, int] = field(default_factory=dict)
    made: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    detached = False
    poll_seconds = 0.0

    @property
    def max_parallel(self) -> int:
        return len(self.devices)

    max_submitted = max_parallel

    def use(self, devices: Sequence[str]) -> None:
        self.devices = list(devices)

    def submit(self, specs: Sequence[WorkerSpec]) -> list[WorkerJob]:
        return [self._start(*pair) for pair in zip(specs, self.devices, strict=False)]

    def _start(self, spec: WorkerSpec, device: str) -> WorkerJob:
        bundle = json.loads(Path(spec.argv[-1]).read_text())
        asked = [tuple(request["targets"]) for request in bundle["requests"]]
        heartbeat = {"device": device, "busy": 0.0, "done": 0.0, "tick": 1, "host": "here"}
        code, tasks = EXIT_OK, []
        for done, shard in enumerate(s for s in self.shards if s.targets in asked):
            if end := self.fails(device, shard, done):
                code, heartbeat["tick"], tasks = end["code"], end["tick"], [shard.key]
                self.lost.append(device)
                spec.log.write_text("CUDA error: unspecified launch failure\n")
                break
            commit(self.folder, shard, make_result(shard))
            self.made[device] = self.made.get(device, 0) + 1
        self.folder.heartbeat(spec.tag).write_text(json.dumps({**heartbeat, "tasks": tasks}))
        self.ended[spec.tag] = code
        return WorkerJob(spec.tag, "0")

    def poll(self, jobs: Sequence[WorkerJob]) -> dict[str, State]:
        return {job.tag: State("ended", self.ended[job.tag]) for job in jobs}

    def stop(self, jobs: Sequence[WorkerJob]) -> None: ...

    def kill(self, jobs: Sequence[WorkerJob]) -> None: ...

    def close(self) -> None: ...


def run(
    folder: OutputFolder, count: int, fails: Fails, attempts: int = 3
) -> tuple[Machine, Sweep, Outcome]:
    """Run a sweep of 48 shards on some GPUs."""
    plan = make_plan(layer_info(n_channels=96), shard_size=2)
    sweep = make_sweep(plan, folder)
    sweep.devices[:] = [f"cuda:{i}" for i in range(count)]  # type: ignore[index]
    machine = Machine(folder, list(plan.shards()), list(sweep.devices), fails)
    assert isinstance(machine, DeviceChooser)
    prepare(folder, 0)
    write_manifest(folder, sweep.config, plan, list(sweep.devices))
    settings = LocalSettings(attempts=attempts, bundle_minutes=1e-9)
    (stage,) = stages(sweep)
    scheduler = Scheduler(folder, machine, settings, stage, lambda finished, busy: None)
    return machine, sweep, scheduler.run(machine.shards)


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What trying a device finds, by its name; nothing unless a test says so."""
    found: dict[str, str] = {}
    monkeypatch.setattr(module, "trouble_of_device", lambda device: found.get(device, ""))
    return found


def all_done(machine: Machine) -> bool:
    return all(machine.folder.is_done(shard) for shard in machine.shards)


@pytest.mark.parametrize("found", ["", "uncorrectable ECC error"])
@pytest.mark.parametrize("how", [CRASH, LEAVES])
@pytest.mark.parametrize("attempts", [1, 2, 3])
def test_one_broken_gpu_of_eight_costs_two_workers_and_no_task(
    folder: OutputFolder, tries: dict[str, str], found: str, how: dict[str, int], attempts: int
) -> None:
    tries["cuda:5"] = found
    machine, sweep, outcome = run(
        folder, 8, lambda device, shard, done: how if device == "cuda:5" else None, attempts
    )
    assert all_done(machine)
    assert machine.lost in (["cuda:5"], ["cuda:5"] * 2)
    assert not outcome.failed
    assert not list(folder.failures.glob("*.json"))
    assert list(sweep.health.excluded) == ["cuda:5"]
    assert "cuda:5" not in sweep.usable_devices
    reason = excluded_devices(read_manifest(folder))["cuda:5"]
    assert found in reason or how is LEAVES
    assert f"not used any more: cuda:5, {reason}" in status_table(folder)


def test_a_gpu_that_breaks_half_way_is_left_out(
    folder: OutputFolder, tries: dict[str, str]
) -> None:
    works = 2

    def fails(device: str, shard: Shard, done: int) -> dict[str, int] | None:
        nonlocal works
        if device != "cuda:1":
            return None
        works -= 1
        return CRASH if works < 0 else None

    machine, sweep, outcome = run(folder, 2, fails)
    assert all_done(machine)
    assert machine.lost == ["cuda:1"] * 2
    assert machine.made["cuda:1"] == 2
    assert not outcome.failed
    assert list(sweep.health.excluded) == ["cuda:1"]


def test_tasks_that_fail_anywhere_cost_no_gpu(folder: OutputFolder, tries: dict[str, str]) -> None:
    rng = random.Random(3)
    poison = {(2 * n, 2 * n + 1) for n in rng.sample(range(48), 5)}
    machine, sweep, outcome = run(
        folder, 3, lambda device, shard, done: CRASH if shard.targets in poison else None
    )
    bad = {shard.key for shard in machine.shards if shard.targets in poison}
    assert outcome.failed == bad
    assert {shard.key for shard in machine.shards if not folder.is_done(shard)} == bad
    assert sweep.health.excluded == {}
    assert excluded_devices(read_manifest(folder)) == {}


def test_the_last_gpu_is_left_only_if_it_does_not_compute(
    folder: OutputFolder, tries: dict[str, str]
) -> None:
    _, sweep, outcome = run(folder, 1, lambda *_: CRASH, attempts=1)
    assert len(outcome.failed) == 48  # at fault may be the tasks, for all that is known
    assert sweep.health.excluded == {}


def test_a_sweep_whose_last_gpu_breaks_ends_and_charges_no_task(
    folder: OutputFolder, tries: dict[str, str]
) -> None:
    tries["cuda:0"] = "uncorrectable ECC error"
    with pytest.raises(UserError, match=r"no GPU works any more \(cuda:0: uncorrectable ECC"):
        run(folder, 1, lambda *_: CRASH)
    assert not list(folder.failures.glob("*.json"))


def test_a_later_run_uses_all_devices_again(folder: OutputFolder, tries: dict[str, str]) -> None:
    _, sweep, _ = run(folder, 2, lambda device, *_: CRASH if device == "cuda:1" else None)
    assert excluded_devices(read_manifest(folder))
    write_manifest(folder, sweep.config, sweep.plan, list(sweep.devices))
    assert excluded_devices(read_manifest(folder)) == {}


@pytest.mark.parametrize("value", [3, ["cuda:0"], None])
def test_a_manifest_of_somebody_else_excludes_nothing(value: object) -> None:
    assert excluded_devices({"excluded_devices": value}) == {}


def test_failures_that_happen_elsewhere_too_are_not_held_against_a_device() -> None:
    health = DeviceHealth()
    health.record_failure("a", frozenset({"x"}))
    health.record_failure("a", frozenset({"y"}))
    assert health.is_suspected("a")
    assert health.exclude("a", "its last 2 workers failed") == {"x", "y"}
    health.record_failure("b", frozenset({"y"}))
    assert not health.is_suspected("a")
    assert health.restored() == []  # one failure may still be its own
    health.record_failure("b", frozenset({"x"}))
    assert health.restored() == ["a"]
    assert not health.excluded
    assert not health.is_suspected("b")
    health.record_failure("b", frozenset({"x"}))
    health.record_failure("b", frozenset({"y"}))
    assert not health.is_suspected("b"), "tasks that are known to be at fault"
    assert health.exclude("b", "why not") == frozenset()


def test_a_success_makes_good_earlier_failures() -> None:
    health = DeviceHealth()
    health.record_failure("a", frozenset({"x"}))
    health.record_success("a")
    health.record_failure("a", frozenset({"y"}))
    assert not health.is_suspected("a")
