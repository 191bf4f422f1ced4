"""Standing: every job of a layer is in one state, and all are counted."""

from toys import fail, fill_store, layer_info, make_plan

from layer_atlas.atlas.gather import layer_views
from layer_atlas.plan.plan import flops_per_job
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.inspection.layer_progress import layer_progress_of

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
