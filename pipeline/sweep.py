"""A sweep from beginning to end: plan, make what is missing, collate."""

import sys
import time
from collections.abc import Iterable

from pipeline.collate.run import collate
from pipeline.config import Config
from pipeline.errors import EXIT_FAILED_JOBS, EXIT_OK
from pipeline.executors.local import LocalExecutor
from pipeline.jobs import Shard
from pipeline.manifest import add_timings, write_manifest
from pipeline.plan import FLOPS_PER_SECOND, Plan, bytes_needed
from pipeline.progress import Bar
from pipeline.report import notices, summary
from pipeline.schedule import Outcome, Scheduler, Workload, clear_requests, device_times
from pipeline.store import DoneIndex, OutputFolder, locked, output_folder, prepare, sweep_temporary

_ROUNDS = 3


def run(config: Config) -> int:
    """Make the atlas that a config describes, or what is missing of it; returns the exit code.

    Raises:
        UserError: a mistake in config or input, or another run at work in the folder.
        StorageError: the disk is full or fails.
    """
    started = time.monotonic()
    folder = output_folder(config.output_root, config.name)
    if folder.lock.exists():
        with locked(folder):  # refuse at once what would be refused after planning
            pass
    plan, devices = prepare_plan(config)
    for notice in notices(plan):
        print(f"note: {notice}", file=sys.stderr)
    prepare(folder, bytes_needed(plan, DoneIndex(folder).missing(plan.shards())))
    with locked(folder):
        sweep_temporary(folder)
        clear_requests(folder)
        write_manifest(folder, config, plan, devices)
        timings = {"planning": time.monotonic() - started}
        outcome = _make_and_collate(config, folder, plan, devices, timings)
        if not outcome.exit_code:
            timings["total"] = time.monotonic() - started
            times = device_times(devices, outcome.times, timings["total"])
            add_timings(folder, timings, times)
            print(summary(folder))
    return outcome.exit_code or (EXIT_FAILED_JOBS if outcome.failed else EXIT_OK)


def _make_and_collate(
    config: Config,
    folder: OutputFolder,
    plan: Plan,
    devices: list[str],
    timings: dict[str, float],
) -> Outcome:
    """Make what is missing and collate; again where collation set a corrupt shard aside."""
    outcome = Outcome()
    for _ in range(_ROUNDS):
        missing = without_failed(DoneIndex(folder).missing(plan.shards()), outcome.failed)
        if "collating" in timings and not missing:
            break
        begun = time.monotonic()
        if missing:
            _make(config, folder, plan, devices, missing, outcome)
        if outcome.exit_code:
            break
        made = time.monotonic()
        collate(folder, config.collate)
        timings["making"] = timings.get("making", 0.0) + made - begun
        timings["collating"] = timings.get("collating", 0.0) + time.monotonic() - made
    return outcome


def without_failed(shards: Iterable[Shard], failed: list[Shard]) -> list[Shard]:
    """The shards that were not given up in this run."""
    given_up = {shard.key for shard in failed}
    return [shard for shard in shards if shard.key not in given_up]


def prepare_plan(config: Config) -> tuple[Plan, list[str]]:
    """Plan the sweep and find its devices; raises UserError. Writes nothing."""
    from pipeline.survey import find_devices, make_plan, survey

    devices = find_devices(config.executor.devices)
    plan = make_plan(config, survey(config), devices)
    return plan, devices


def _make(
    config: Config,
    folder: OutputFolder,
    plan: Plan,
    devices: list[str],
    shards: list[Shard],
    outcome: Outcome,
) -> None:
    from pipeline.worker import DEVICE_VARIABLE, PARENT_VARIABLE

    busy = devices[: len(shards)]  # CPU workers without a shard would only keep cores from others
    executor = LocalExecutor(busy, PARENT_VARIABLE, DEVICE_VARIABLE)
    work = Workload(
        plan=plan,
        models={model.title: model for model in config.models},
        batch_size=config.batch_size,
        flops_per_second=min(FLOPS_PER_SECOND[device.split(":")[0]] for device in devices),
    )
    jobs = sum(len(shard.channels) for shard in shards)
    with Bar(jobs, plan.n_jobs - jobs, devices) as bar:
        made = Scheduler(folder, executor, work, config.executor.attempts, bar).run(shards)
    outcome.failed += made.failed
    outcome.times += made.times
    outcome.exit_code = made.exit_code
