"""A sweep from beginning to end: plan, do what is missing stage by stage, collate."""

import sys
import time
from collections.abc import Iterable

from pipeline.collate.films import check_snapshots
from pipeline.collate.run import collate
from pipeline.config import Config
from pipeline.errors import EXIT_FAILED_JOBS, EXIT_OK, UserError
from pipeline.executors.local import LocalExecutor
from pipeline.jobs import Task
from pipeline.listing import Listing, write_listing
from pipeline.manifest import add_timings, write_manifest
from pipeline.photographs import open_dataset
from pipeline.plan import Plan, bytes_needed
from pipeline.progress import Bar
from pipeline.report import notices, summary
from pipeline.schedule import Outcome, Scheduler, clear_requests, device_times
from pipeline.stages import Finished, Stage, Sweep, stages
from pipeline.store import (
    DoneIndex,
    keep_inputs,
    locked,
    output_folder,
    prepare,
    sweep_temporary,
)

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
        sweep = Sweep(config, plan, folder, devices)
        write_manifest(folder, config, plan, devices)
        keep_inputs(folder, plan.inputs)
        _write_listing(sweep)
        timings = {"planning": time.monotonic() - started}
        outcome = _make_and_collate(sweep, timings)
        if not outcome.exit_code:
            timings["total"] = time.monotonic() - started
            times = device_times(devices, outcome.times, timings["total"])
            add_timings(folder, timings, times)
            print(summary(folder))
    return outcome.exit_code or (EXIT_FAILED_JOBS if outcome.failed else EXIT_OK)


def prepare_plan(config: Config) -> tuple[Plan, list[str]]:
    """Plan the sweep and find its devices; raises UserError. Writes nothing."""
    from pipeline.survey import find_devices, make_plan, survey

    check_snapshots(config.collate, config.snapshots)
    devices = find_devices(config.executor.devices)
    plan = make_plan(config, survey(config), devices)
    return plan, devices


def _write_listing(sweep: Sweep) -> None:
    """Write down which photographs there are. Raises StorageError, UserError."""
    study, dataset = sweep.plan.study, sweep.config.dataset
    if study is None or dataset is None:
        return
    path = sweep.folder.listing(study.listing)
    if path.exists() and Listing(path).digest == study.listing:
        return
    write_listing(open_dataset(dataset).entries(), path)
    if Listing(path).digest != study.listing:
        path.unlink()
        raise UserError(f"the photographs of {study.source} changed just now; start again.")


def _make_and_collate(sweep: Sweep, timings: dict[str, float]) -> Outcome:
    """Do what is missing and collate; again where a corrupt file was set aside."""
    outcome = Outcome()
    for _ in range(_ROUNDS):
        worked = [_do(stage, sweep, timings, outcome) for stage in stages(sweep)]
        if outcome.exit_code or ("collating" in timings and not any(worked)):
            break
        begun = time.monotonic()
        collate(sweep.folder, sweep.config.collate)
        timings["collating"] = timings.get("collating", 0.0) + time.monotonic() - begun
    return outcome


def _do(stage: Stage, sweep: Sweep, timings: dict[str, float], outcome: Outcome) -> bool:
    """Do what is missing of a stage, unless told to leave; returns whether anything was."""
    begun = time.monotonic()
    missing = [] if outcome.exit_code else without_failed(stage.missing(), outcome.failed)
    if missing:
        _schedule(stage, missing, sweep, outcome)
    finished = Finished() if outcome.exit_code else stage.finish()
    for path in finished.corrupt:
        print(f"corrupt file set aside, to be computed again: {path}", file=sys.stderr)
    timings[stage.name] = timings.get(stage.name, 0.0) + time.monotonic() - begun
    return bool(missing or finished.made or finished.corrupt)


def without_failed(tasks: Iterable[Task], failed: list[Task]) -> list[Task]:
    """The tasks that were not given up in this run."""
    given_up = {task.key for task in failed}
    return [task for task in tasks if task.key not in given_up]


def _schedule(stage: Stage, tasks: list[Task], sweep: Sweep, outcome: Outcome) -> None:
    from pipeline.pulse import DEVICE_VARIABLE
    from pipeline.worker import PARENT_VARIABLE

    # CPU workers without a task would only keep cores from others.
    busy = list(sweep.devices[: len(tasks)])
    executor = LocalExecutor(busy, PARENT_VARIABLE, DEVICE_VARIABLE)
    units = sum(task.units for task in tasks)
    attempts = sweep.config.executor.attempts
    with Bar(units, stage.total - units, stage.unit, sweep.devices) as bar:
        made = Scheduler(sweep.folder, executor, stage, attempts, bar).run(tasks)
    outcome.failed += made.failed
    outcome.times += made.times
    outcome.exit_code = made.exit_code
