"""Shards of other versions: not counted where one environment is wanted, and never lost."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import layer_info, make_plan

from layer_atlas.plan.environment import Environment
from layer_atlas.plan.jobs import Shard
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.resume import DoneIndex
from layer_atlas.store.shards import read_environment
from tests.environments import NEW, OLD, OTHER, make, wanting

PLAN = make_plan(layer_info("a"), layer_info("b"), seeds=(0, 1), shard_size=2)
SHARDS = list(PLAN.shards())
MADE = st.lists(
    st.sampled_from(["not", None, OLD, NEW, OTHER]), min_size=len(SHARDS), max_size=len(SHARDS)
)
"""What each shard was made with, if it was."""


def strict(folder: OutputFolder) -> DoneIndex:
    return DoneIndex(folder, wanting(PLAN, NEW).environments)


def contents(folder: OutputFolder) -> list[bytes]:
    return sorted(path.read_bytes() for path in folder.store.rglob("*.safetensors"))


def missing(index: DoneIndex) -> list[Shard]:
    return list(index.missing(SHARDS))


@pytest.mark.slow
@given(MADE)
@settings(max_examples=30, deadline=None)
def test_exactly_the_shards_of_others_are_made_again_and_none_is_lost(
    made: list[Environment | str | None],
) -> None:
    with TemporaryDirectory() as root:
        folder = OutputFolder(Path(root))
        for shard, environment in zip(SHARDS, made, strict=True):
            if not isinstance(environment, str):
                make(folder, shard, environment)
        before = contents(folder)
        not_there = [shard for shard, how in zip(SHARDS, made, strict=True) if how == "not"]
        wanted = [shard for shard, how in zip(SHARDS, made, strict=True) if how != NEW]
        assert missing(DoneIndex(folder)) == not_there
        assert missing(strict(folder)) == wanted

        index = strict(folder)
        for shard in filter(index.has_other, SHARDS):
            index.make_way(shard)
        assert contents(folder) == before
        assert missing(DoneIndex(folder)) == not_there
        assert missing(strict(folder)) == wanted
        # Present under its name is done, for whoever asks without knowing what is wanted.
        assert [shard for shard in SHARDS if not folder.is_done(shard)] == wanted

        for shard in wanted:
            make(folder, shard, NEW)
        assert not missing(strict(folder))
        assert set(before) <= set(contents(folder))
        for index in (strict(folder), DoneIndex(folder)):
            found = [path for shard in SHARDS for path in index.locate(shard)]
            assert {read_environment(path) for path in found} == {NEW}


def test_going_back_to_earlier_versions_finds_what_they_made(folder: OutputFolder) -> None:
    for shard in SHARDS:
        make(folder, shard, OLD)
    index = strict(folder)
    for shard in SHARDS:
        index.make_way(shard)
        make(folder, shard, NEW)
    assert not missing(DoneIndex(folder, wanting(PLAN, OLD).environments))


def test_shards_cut_otherwise_count_only_if_they_are_of_the_environment(
    folder: OutputFolder,
) -> None:
    for environment, shard in zip([OLD, NEW] * 4, SHARDS, strict=False):
        make(folder, shard, environment)
    (whole,) = make_plan(layer_info("a"), shard_size=6).shards()
    (left,) = strict(folder).missing([whole])
    assert left.targets == (0, 1, 4, 5)


def test_a_damaged_shard_is_left_to_those_who_set_it_aside(folder: OutputFolder) -> None:
    make(folder, SHARDS[0], NEW)
    folder.shard(SHARDS[0]).write_bytes(b"nothing")
    index = strict(folder)
    assert index.has(SHARDS[0])
    assert not index.has_other(SHARDS[0])
    assert SHARDS[0] not in missing(index)
