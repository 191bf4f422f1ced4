"""What `plan` estimates: only what is missing, and no faster than the longest task."""

from dataclasses import replace

import pytest
from toys import IDENTITY, fill_store, layer_info, make_plan, make_study_plan

from layer_atlas.cli.tables import _run_seconds
from layer_atlas.datasets.statistics_files import write_arrays
from layer_atlas.datasets.tasks import all_statistics, judgings_of
from layer_atlas.plan.plan import COLLATING_SECONDS, START_SECONDS, Plan, flops_per_second
from layer_atlas.store.folder import OutputFolder

CPUS = ["cpu", "cpu"]
REST = COLLATING_SECONDS[0] + COLLATING_SECONDS[1] * 6
"""Seconds that the sweep below takes besides its tasks."""


def test_one_shard_keeps_one_device_busy_however_many_there_are(folder: OutputFolder) -> None:
    plan = make_plan()
    one, many = (_run_seconds(folder, plan, CPUS, tasks) for tasks in ([60.0], [10.0] * 6))
    assert one == pytest.approx(60 + START_SECONDS + REST)
    assert many == pytest.approx(30 + START_SECONDS + REST)
    assert _run_seconds(folder, plan, CPUS, []) == 0


def judged_plan() -> Plan:
    """A sweep whose dataset statistics take no time to speak of, and whose judge takes 20 s."""
    plan = make_plan()
    slow = layer_info("seen", flops_before=int(20 / 6 * flops_per_second(CPUS)))
    judge = make_plan(slow, label="judge-net").models[0]
    judge = replace(judge, network=replace(IDENTITY, source="net"), is_judge=True)
    return replace(plan, dataset_plan=make_study_plan(), judge=judge)


def test_judging_counts_until_it_is_done(folder: OutputFolder) -> None:
    plan = judged_plan()
    fill_store(folder, plan)
    assert plan.dataset_plan is not None
    for model in plan.dataset_models:
        for statistics in all_statistics(model, plan.dataset_plan):
            for product in statistics.products:
                write_arrays(folder, product, {})
    (first, *rest) = judgings_of(plan, plan.models[0], plan.models[0].layers[0])
    write_arrays(folder, first.products[0], {})
    left = _run_seconds(OutputFolder(folder.root), plan, CPUS, [])
    assert left == pytest.approx(20 * 2 / 3 / 2 + START_SECONDS + REST, rel=0.01)
    for task in rest:
        write_arrays(folder, task.products[0], {})
    assert _run_seconds(OutputFolder(folder.root), plan, CPUS, []) == 0
