"""A sweep from beginning to end: plan, do what is missing stage by stage, collate."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from layer_atlas.config.config import CollateSettings, Config
from layer_atlas.config.executors import SlurmSettings
from layer_atlas.datasets.projection import check_projection
from layer_atlas.datasets.sources import Listing, open_dataset, write_listing
from layer_atlas.errors import EXIT_FAILED_JOBS, EXIT_OK, UserError
from layer_atlas.logs import remove_old_logs, run_log
from layer_atlas.plan.jobs import Task
from layer_atlas.plan.labels import dropped, network_lines, notices, recipe_lines
from layer_atlas.plan.plan import (
    START_SECONDS,
    Plan,
    SkippedModel,
    bytes_needed,
    without_paths,
)
from layer_atlas.presentation.montages.montage import check_snapshots
from layer_atlas.presentation.names import with_labels
from layer_atlas.store.folder import (
    OutputFolder,
    keep_inputs,
    output_folder,
    prepare,
    sweep_temporary,
)
from layer_atlas.store.lock import locked
from layer_atlas.store.manifest import add_timings, plan_of, read_manifest, versions, write_manifest
from layer_atlas.store.quarantine import quarantined, read_failures
from layer_atlas.sweep.executors import check_target, open_executor
from layer_atlas.sweep.executors.warm import command_line
from layer_atlas.sweep.monitor import Bar
from layer_atlas.sweep.scheduler import Outcome, Scheduler, device_times
from layer_atlas.sweep.stages import Finished, Stage, StatisticsStage, Sweep, stages
from layer_atlas.sweep.workers import clear_requests, submissions

logger = logging.getLogger(__name__)

_ROUNDS = 3
"""Passes over the stages at most; each further one replaces corrupt files that were found."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    folder: OutputFolder
    exit_code: int
    is_collated: bool
    """Whether the atlas is up to date."""
    workers_left: int
    """Workers that continue without this process."""


Collate = Callable[[OutputFolder, CollateSettings, str], None]
"""Makes an atlas of the shards that are there, by settings of its pictures, with a content."""


def _make_atlas(folder: OutputFolder, settings: CollateSettings, content: str) -> None:
    # Imported once the images are there: workers need not wait for HDF5 and what draws montages.
    from layer_atlas.presentation.collate import make_atlas

    make_atlas(folder, settings, content)


def run(config: Config, collate: Collate = _make_atlas) -> RunResult:
    """Make the atlas that a config describes, or what is missing of it.

    Args:
        config: the sweep.
        collate: makes the atlas of its shards.
    Raises:
        UserError: a mistake in config or input, or another run at work in the folder.
        StorageError: the disk is full or fails.
    """
    started = time.monotonic()
    folder = output_folder(config.output_root, config.name)
    if folder.lock.exists():
        with locked(folder):  # a second run is refused here, not after minutes of planning
            _clean_up(folder)
    plan, devices = prepare_plan(config)
    # The file of labels may be gone when the images are made.
    pictures = with_labels(config.collate, plan)
    sweep = Sweep(config, plan, folder, devices)
    prepare(folder, bytes_needed(plan, sweep.shard_index.missing()))
    with locked(folder), run_log(folder.logs):
        incomplete = _log_plan(plan, devices)
        write_manifest(folder, config, plan, devices, command_line())
        keep_inputs(folder, plan.inputs)
        _write_listing(sweep)
        timings = {"planning": time.monotonic() - started}
        outcome = Outcome()
        sweep = _find_targets(sweep, timings, outcome)
        _make_and_collate(sweep, pictures, collate, timings, outcome)
        if not outcome.is_cut_short:
            timings["total"] = time.monotonic() - started
            times = device_times(devices, outcome.times, timings["total"])
            add_timings(folder, timings, times)
        exit_code = outcome.exit_code or (EXIT_FAILED_JOBS if outcome.failed else incomplete)
        logger.debug("exit code %d, %d tasks failed", exit_code, len(outcome.failed))
    return RunResult(folder, exit_code, not outcome.is_cut_short, outcome.at_work)


def _clean_up(folder: OutputFolder) -> None:
    """Remove what earlier runs left unfinished, and their oldest logs: both take disk space."""
    if not any(submissions(folder)):  # else detached workers may be writing
        sweep_temporary(folder)
    clear_requests(folder)
    remove_old_logs(folder.logs, {Path(failure.log).name for failure in read_failures(folder)})


def _log_plan(plan: Plan, devices: Sequence[str]) -> int:
    """Log what is about to be made; returns the exit code if everything else goes well."""
    # Hours may follow: a user sees here whether it is the network that was meant.
    for line in network_lines(plan):
        logger.info("model: %s", line)
    for line in recipe_lines(plan):
        logger.debug("recipe: %s", line)
    logger.debug("%d jobs on %s", plan.n_jobs, ", ".join(devices))
    for notice in notices(plan):
        logger.warning("%s", notice)
    return report_skipped_models(plan.skipped_models)


def prepare_plan(config: Config) -> tuple[Plan, list[str]]:
    """Plan the sweep and find its devices; raises UserError. Writes nothing."""
    from layer_atlas.sweep.planning import inspect_models, make_plan
    from layer_atlas.sweep.planning.dataset import with_maps
    from layer_atlas.sweep.planning.devices import find_devices, with_one_environment

    check_snapshots(config.collate, config.snapshots)
    check_projection(config.collate.map, "collate.map")
    check_target(config.executor)
    devices, earlier = find_devices(config.executor), _earlier(config)
    plan = make_plan(config, inspect_models(config), devices, earlier)
    for line in dropped(plan, earlier):
        logger.warning("%s", line)
    if config.versions == "strict":
        folder = output_folder(config.output_root, config.name)
        plan = with_one_environment(plan, folder, config.executor, devices)
    with_labels(config.collate, plan)
    names = [device.name for device in devices]
    return with_maps(plan, config, output_folder(config.output_root, config.name), names), names


def _earlier(config: Config) -> Plan | None:
    """Read the plan of an earlier run into the same folder, if there is a readable one.

    After a change of library versions its choices of computation paths do not count.
    """
    try:
        manifest = read_manifest(output_folder(config.output_root, config.name))
        plan = plan_of(manifest)
    except UserError:
        return None
    return plan if manifest["versions"] == versions() else without_paths(plan)


def report_skipped_models(models: Sequence[SkippedModel]) -> int:
    """Log the models that a sweep skips; returns the exit code if everything else goes well."""
    for model in models:
        logger.error("%s", model)
    return EXIT_FAILED_JOBS if models else EXIT_OK


def _write_listing(sweep: Sweep) -> None:
    """Write the list of the dataset's images. Raises StorageError, UserError."""
    dataset_plan, dataset = sweep.plan.dataset_plan, sweep.config.dataset
    if dataset_plan is None or dataset is None:
        return
    path = sweep.folder.listing(dataset_plan.listing)
    if path.exists() and Listing(path).digest == dataset_plan.listing:
        return
    write_listing(open_dataset(dataset).entries(), path)
    if Listing(path).digest != dataset_plan.listing:
        path.unlink()
        raise UserError(f"the photographs of {dataset_plan.source} changed just now; start again.")


def _find_targets(sweep: Sweep, timings: dict[str, float], outcome: Outcome) -> Sweep:
    """Make the maps that targets are found in, if any are missing, and plan again.

    Raises:
        UserError: parts of the dataset failed again and again.
    """
    from layer_atlas.sweep.planning.dataset import lacks_maps, with_maps

    dataset_plan, folder = sweep.plan.dataset_plan, sweep.folder
    for _ in range(_ROUNDS):
        if dataset_plan is None or not lacks_maps(sweep.plan):
            return sweep
        _do(StatisticsStage(sweep, dataset_plan), sweep, timings, outcome)
        if outcome.is_cut_short:
            return sweep
        plan = with_maps(sweep.plan, sweep.config, folder, sweep.devices)
        sweep = Sweep(sweep.config, plan, folder, sweep.devices, sweep.health)
        prepare(folder, bytes_needed(plan, sweep.shard_index.missing()))
        write_manifest(folder, sweep.config, plan, list(sweep.devices), command_line())
        keep_inputs(folder, plan.inputs)
    if missing := lacks_maps(sweep.plan):
        raise UserError(
            f"there is no map of {', '.join(missing[:5])}: part of the dataset failed. `atlas "
            f"status {folder.choice}` shows why, and `atlas retry {folder.choice}` tries again."
        )
    return sweep


def _make_and_collate(
    sweep: Sweep,
    settings: CollateSettings,
    collate: Collate,
    timings: dict[str, float],
    outcome: Outcome,
) -> None:
    """Do what is missing and collate; repeat where a corrupt file was set aside."""
    from layer_atlas.presentation.collate import content_of

    for _ in range(_ROUNDS):
        _set_outdated_aside(sweep)
        worked = [_do(stage, sweep, timings, outcome) for stage in stages(sweep)]
        if outcome.is_cut_short or ("collating" in timings and not any(worked)):
            break
        begun = time.monotonic()
        collate(sweep.folder, settings, content_of(sweep.plan, sweep.shard_index.views()))
        timings["collating"] = timings.get("collating", 0.0) + time.monotonic() - begun


def _set_outdated_aside(sweep: Sweep) -> None:
    """Rename the shards of an environment that `versions=strict` does not count.

    A shard under its own name is then done, for workers and scheduler alike.
    """
    if not sweep.plan.environments:
        return
    shards = [
        (view.index, shard) for view in sweep.shard_index.views() for _, shard in view.shards()
    ]
    others = [(index, shard) for index, shard in shards if index.has_other(shard)]
    if others:
        # Otherwise the old atlas could pass for one of the new shards.
        sweep.folder.summary.unlink(missing_ok=True)
    for index, shard in others:
        index.make_way(shard)


def _do(stage: Stage, sweep: Sweep, timings: dict[str, float], outcome: Outcome) -> bool:
    """Do what is missing of a stage, unless the run is cut short; returns whether it did any."""
    if outcome.is_cut_short:
        return False
    begun = time.monotonic()
    missing = _missing(stage, sweep, outcome)
    logger.debug("stage %s: %d tasks missing", stage.name, len(missing))
    if missing or any(submissions(sweep.folder)):  # detached workers may have done them all
        _schedule(stage, missing, sweep, outcome)
    finished = Finished() if outcome.is_cut_short else stage.finish()
    for path in finished.corrupt:
        logger.warning("corrupt file set aside, to be computed again: %s", path)
    timings[stage.name] = timings.get(stage.name, 0.0) + time.monotonic() - begun
    return bool(missing or finished.made or finished.corrupt)


def _missing(stage: Stage, sweep: Sweep, outcome: Outcome) -> list[Task]:
    """List the missing tasks of a stage; those in quarantine count as failed."""
    given_up = quarantined(read_failures(sweep.folder))
    missing = stage.missing()
    outcome.failed |= {task.key for task in missing if task.key in given_up}
    return [task for task in missing if task.key not in given_up]


def _schedule(stage: Stage, tasks: list[Task], sweep: Sweep, outcome: Outcome) -> None:
    settings = sweep.config.executor
    # A CPU worker without a task would only occupy a core.
    busy = sweep.usable_devices[: len(tasks)]
    executor = open_executor(settings, busy, sweep.folder.logs)
    units = sum(task.units for task in tasks)
    detach = isinstance(settings, SlurmSettings) and settings.detach
    seconds = START_SECONDS + sum(map(stage.seconds, tasks)) / max(1, len(busy))
    already = stage.total - units
    with Bar(stage.name, units, already, stage.unit, sweep.devices, seconds) as bar:
        made = Scheduler(sweep.folder, executor, settings, stage, bar).run(tasks, detach)
    outcome.add(made)
