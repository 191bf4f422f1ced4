"""A sweep from beginning to end: plan, do what is missing stage by stage, collate."""

import sys
import time
from collections.abc import Sequence

from layer_atlas.config.config import Config
from layer_atlas.config.executors import SlurmSettings
from layer_atlas.datasets.listing import Listing, write_listing
from layer_atlas.datasets.sources import open_dataset
from layer_atlas.errors import EXIT_FAILED_JOBS, EXIT_OK, UserError
from layer_atlas.plan.jobs import Task
from layer_atlas.plan.labels import network_lines, sanitize
from layer_atlas.plan.plan import Plan, SkippedModel, bytes_needed, without_paths
from layer_atlas.presentation.collate import content_of, make_atlas
from layer_atlas.presentation.montages.animations import check_snapshots
from layer_atlas.store.failures import quarantined, read_failures
from layer_atlas.store.folder import (
    OutputFolder,
    keep_inputs,
    output_folder,
    prepare,
    sweep_temporary,
)
from layer_atlas.store.lock import locked
from layer_atlas.store.manifest import add_timings, plan_of, read_manifest, versions, write_manifest
from layer_atlas.sweep.executors import open_executor
from layer_atlas.sweep.executors.custom import check_target
from layer_atlas.sweep.report.plan import notices
from layer_atlas.sweep.report.summary import still_at_work, summary
from layer_atlas.sweep.report.tables import say
from layer_atlas.sweep.scheduling.outcome import Outcome, device_times
from layer_atlas.sweep.scheduling.progress import Bar
from layer_atlas.sweep.scheduling.schedule import Scheduler
from layer_atlas.sweep.scheduling.stages import Finished, Stage, Sweep, stages
from layer_atlas.sweep.scheduling.workers import clear_requests, submissions

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
            _clear_up(folder)
    plan, devices = prepare_plan(config)
    for line in network_lines(plan):  # before hours are spent on another network than was meant
        print(f"model: {line}", file=sys.stderr)
    for notice in notices(plan):
        print(f"note: {notice}", file=sys.stderr)
    incomplete = report_skipped_models(plan.skipped_models)
    sweep = Sweep(config, plan, folder, devices)
    prepare(folder, bytes_needed(plan, sweep.shard_index.missing()))
    with locked(folder):
        write_manifest(folder, config, plan, devices)
        keep_inputs(folder, plan.inputs)
        _write_listing(sweep)
        timings = {"planning": time.monotonic() - started}
        outcome = _make_and_collate(sweep, timings)
        if outcome.at_work:
            print(still_at_work(folder, outcome.at_work))
        elif not outcome.exit_code:
            timings["total"] = time.monotonic() - started
            times = device_times(devices, outcome.times, timings["total"])
            add_timings(folder, timings, times)
            say(summary(folder))
    return outcome.exit_code or (EXIT_FAILED_JOBS if outcome.failed else incomplete)


def _clear_up(folder: OutputFolder) -> None:
    """Remove what earlier runs left unfinished, which may take the space that is needed."""
    if not any(submissions(folder)):  # else they may be writing
        sweep_temporary(folder)
    clear_requests(folder)


def prepare_plan(config: Config) -> tuple[Plan, list[str]]:
    """Plan the sweep and find its devices; raises UserError. Writes nothing."""
    from layer_atlas.sweep.planning import inspect_models, make_plan
    from layer_atlas.sweep.scheduling.devices import find_devices
    from layer_atlas.sweep.scheduling.versions import with_one_environment

    check_snapshots(config.collate, config.snapshots)
    check_target(config.executor)
    devices = find_devices(config.executor)
    plan = make_plan(config, inspect_models(config), devices, _earlier(config))
    if config.versions == "strict":
        folder = output_folder(config.output_root, config.name)
        plan = with_one_environment(plan, folder, config.executor, devices)
    return plan, devices


def _earlier(config: Config) -> Plan | None:
    """The plan of an earlier run into the same folder, if there is one that can be read.

    With other versions of the libraries, paths are chosen anew.
    """
    try:
        manifest = read_manifest(output_folder(config.output_root, config.name))
        plan = plan_of(manifest)
    except UserError:
        return None
    return plan if manifest["versions"] == versions() else without_paths(plan)


def report_skipped_models(models: Sequence[SkippedModel]) -> int:
    """Say which models a sweep goes on without; returns its exit code if all else goes well."""
    for model in models:
        print(f"error: {sanitize(str(model))}", file=sys.stderr)
    return EXIT_FAILED_JOBS if models else EXIT_OK


def _write_listing(sweep: Sweep) -> None:
    """Write down which photographs there are. Raises StorageError, UserError."""
    dataset_stats, dataset = sweep.plan.dataset_plan, sweep.config.dataset
    if dataset_stats is None or dataset is None:
        return
    path = sweep.folder.listing(dataset_stats.listing)
    if path.exists() and Listing(path).digest == dataset_stats.listing:
        return
    write_listing(open_dataset(dataset).entries(), path)
    if Listing(path).digest != dataset_stats.listing:
        path.unlink()
        raise UserError(f"the photographs of {dataset_stats.source} changed just now; start again.")


def _make_and_collate(sweep: Sweep, timings: dict[str, float]) -> Outcome:
    """Do what is missing and collate; again where a corrupt file was set aside."""
    outcome, settings = Outcome(), sweep.config.collate
    for _ in range(_ROUNDS):
        _make_way(sweep)
        worked = [_do(stage, sweep, timings, outcome) for stage in stages(sweep)]
        if outcome.is_cut_short or ("collating" in timings and not any(worked)):
            break
        begun = time.monotonic()
        make_atlas(sweep.folder, settings, content_of(sweep.plan, sweep.shard_index.views()))
        timings["collating"] = timings.get("collating", 0.0) + time.monotonic() - begun
    return outcome


def _make_way(sweep: Sweep) -> None:
    """Rename shards that do not count because of what they were made with, to be made again.

    Then what is there under its name is done, for workers and scheduler alike.
    """
    if not sweep.plan.environments:
        return
    shards = [
        (view.index, shard) for view in sweep.shard_index.views() for _, shard in view.shards()
    ]
    others = [(index, shard) for index, shard in shards if index.has_other(shard)]
    if others:
        sweep.folder.summary.unlink(missing_ok=True)  # else the atlas might pass for one of the new
    for index, shard in others:
        index.make_way(shard)


def _do(stage: Stage, sweep: Sweep, timings: dict[str, float], outcome: Outcome) -> bool:
    """Do what is missing of a stage, unless told to leave; returns whether anything was."""
    if outcome.is_cut_short:
        return False
    begun = time.monotonic()
    missing = _wanted(stage, sweep, outcome)
    if missing or any(submissions(sweep.folder)):  # these are perhaps all done
        _schedule(stage, missing, sweep, outcome)
    finished = Finished() if outcome.is_cut_short else stage.finish()
    for path in finished.corrupt:
        print(f"corrupt file set aside, to be computed again: {path}", file=sys.stderr)
    timings[stage.name] = timings.get(stage.name, 0.0) + time.monotonic() - begun
    return bool(missing or finished.made or finished.corrupt)


def _wanted(stage: Stage, sweep: Sweep, outcome: Outcome) -> list[Task]:
    """The missing tasks of a stage; those in quarantine count as failed."""
    given_up = quarantined(read_failures(sweep.folder))
    missing = stage.missing()
    outcome.failed |= {task.key for task in missing if task.key in given_up}
    return [task for task in missing if task.key not in given_up]


def _schedule(stage: Stage, tasks: list[Task], sweep: Sweep, outcome: Outcome) -> None:
    settings = sweep.config.executor
    # CPU workers without a task would only keep cores from others.
    busy = list(sweep.devices[: len(tasks)])
    executor = open_executor(settings, busy, sweep.folder.logs)
    units = sum(task.units for task in tasks)
    detach = isinstance(settings, SlurmSettings) and settings.detach
    with Bar(units, stage.total - units, stage.unit, sweep.devices) as bar:
        made = Scheduler(sweep.folder, executor, settings, stage, bar).run(tasks, detach)
    outcome.add(made)
