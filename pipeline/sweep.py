"""A sweep from beginning to end: plan, make what is missing, collate."""

import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pipeline.config import Config
from pipeline.errors import EXIT_FAILED_JOBS, EXIT_OK, UserError
from pipeline.executors.local import LocalExecutor
from pipeline.jobs import Shard
from pipeline.manifest import add_timings, write_manifest
from pipeline.plan import Plan
from pipeline.progress import Bar
from pipeline.schedule import Outcome, Scheduler, Workload, clear_logs
from pipeline.store import DoneIndex, OutputFolder, locked, prepare, safe_name, sweep_temporary

FLOPS_PER_SECOND = {"cpu": 3e10, "cuda": 2e13}
"""A guess at a worker's speed, for cutting bundles and for estimates before the first shard."""

_BYTES_PER_PIXEL = 3 * 2
"""An image is stored twice, in its shard and in the atlas; noise hardly compresses."""

_ROUNDS = 3


def run(config: Config) -> int:
    """Make the atlas that a config describes, or what is missing of it; returns the exit code.

    Raises:
        UserError: a mistake in config or input, or another run at work in the folder.
        StorageError: the disk is full or fails.
    """
    from pipeline.collate.run import collate
    from pipeline.report import summary

    started = time.monotonic()
    folder = output_folder(config)
    if folder.lock.exists():
        with locked(folder):  # refuse at once what would be refused after planning
            pass
    plan, devices = prepare_plan(config)
    pending = list(DoneIndex(folder).missing(plan.shards()))
    prepare(folder, bytes_needed(plan, pending))
    with locked(folder):
        sweep_temporary(folder)
        clear_logs(folder)
        write_manifest(folder, config, plan, devices)
        timings = {"planning": time.monotonic() - started}
        outcome = Outcome()
        # A corrupt shard shows when it is read; it is set aside and the next round makes it anew.
        for _ in range(_ROUNDS):
            pending = list(DoneIndex(folder).missing(plan.shards()))
            todo = without_failed(pending, outcome.failed)
            if todo:
                begun = time.monotonic()
                _make(config, folder, plan, devices, todo, outcome)
                timings["making"] = timings.get("making", 0.0) + time.monotonic() - begun
            if outcome.exit_code:
                return outcome.exit_code
            begun = time.monotonic()
            collate(folder, config.collate)
            timings["collating"] = time.monotonic() - begun
            if not without_failed(DoneIndex(folder).missing(plan.shards()), outcome.failed):
                break
        add_timings(folder, {name: round(seconds, 3) for name, seconds in timings.items()})
        print(summary(folder))
    return EXIT_FAILED_JOBS if outcome.failed else EXIT_OK


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


def output_folder(config: Config) -> OutputFolder:
    """The output folder of a sweep: its name is a folder name, not a path."""
    if safe_name(config.name) != config.name:
        raise UserError(
            f"name={config.name!r} cannot be a folder name; use letters, digits, - and _ "
            f"(for instance name={safe_name(config.name).split('~')[0].strip('_') or 'demo'}). "
            "The folder around it is set by output_root."
        )
    return OutputFolder(Path(config.output_root) / config.name)


def bytes_needed(plan: Plan, shards: list[Shard]) -> float:
    """About how much disk some shards will take."""
    size = {model.label: model.recipe.image_size for model in plan.models}
    images: Counter[str] = Counter()
    for shard in shards:
        images[shard.series.model] += len(shard.channels)
    return float(sum(n * size[label] ** 2 * _BYTES_PER_PIXEL for label, n in images.items()))


def _make(
    config: Config,
    folder: OutputFolder,
    plan: Plan,
    devices: list[str],
    shards: list[Shard],
    outcome: Outcome,
) -> None:
    from pipeline.worker import PARENT_VARIABLE

    executor = LocalExecutor(devices, PARENT_VARIABLE)
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
    outcome.exit_code = made.exit_code
