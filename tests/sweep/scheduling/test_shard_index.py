"""The stock: what is there, looked up again only after files came or went."""

from toys import fail, fill_store, make_plan, make_result

from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.shards import commit
from layer_atlas.sweep.scheduling.shard_index import ShardIndex


def test_what_is_missing_is_told_in_the_order_of_the_plan(folder: OutputFolder) -> None:
    plan = make_plan(seeds=(0, 1), shard_size=2)
    shards = list(plan.shards())
    shard_index = ShardIndex(folder, plan)
    assert shard_index.missing() == shards
    for shard in (shards[1], shards[-1]):
        commit(folder, shard, make_result(shard))
    assert shard_index.missing() == [shards[0], *shards[2:-1]]


def test_nothing_is_worked_out_again_until_files_come_or_go(folder: OutputFolder) -> None:
    plan = make_plan(shard_size=2)
    fill_store(folder, plan)
    shard_index = ShardIndex(folder, plan)
    views = shard_index.views()
    assert shard_index.views() is views
    shard = next(plan.shards())
    folder.shard(shard).unlink()
    assert shard_index.views() is not views
    assert shard_index.missing() == [shard]


def test_what_was_given_up_since_is_known(folder: OutputFolder) -> None:
    plan = make_plan()
    shard = next(plan.shards())
    shard_index = ShardIndex(folder, plan)
    assert shard.key not in shard_index.views()[0].given_up
    fail(folder, shard)
    assert shard.key in shard_index.views()[0].given_up
