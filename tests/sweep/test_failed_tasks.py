"""Cases: what became of tasks that failed, by what the next run would do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from toys import (
    fail,
    fill_store,
    fill_study,
    layer_info,
    make_listing,
    make_manifest,
    make_plan,
    make_recipe,
    make_result,
)

from layer_atlas.datasets.sources import Listing
from layer_atlas.datasets.tasks import all_statistics, blocks_of, examples_of
from layer_atlas.errors import UserError
from layer_atlas.plan.plan import Plan
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.quarantine import quarantined, read_failures
from layer_atlas.store.shards import commit
from layer_atlas.sweep.failed_tasks import FailedTask, read_failed_tasks, retry, select

PLAN = make_plan(layer_info("block.conv", 6), layer_info("block.fc", 4))


def states(folder: OutputFolder, plan: Plan = PLAN) -> dict[str, str]:
    """The state of each case, by its channels."""
    cases = read_failed_tasks(folder, make_manifest(plan))
    return {case.last.what.split()[2]: case.state for case in cases}


def test_a_task_that_failed_is_in_one_of_four_states(folder: OutputFolder) -> None:
    first, second, third, *_ = PLAN.shards()
    (other,) = make_plan(layer_info("block.conv", 8), channels=(6, 7)).shards()
    fail(folder, first, attempts=1, given_up=False)
    fail(folder, second)
    fail(folder, third)
    commit(folder, third, make_result(third))
    fail(folder, other)
    assert states(folder) == {
        "0-1": "to be tried again",
        "2-3": "in quarantine",
        "4-5": "done since",
        "6-7": "no longer wanted",
    }


def test_what_a_changed_recipe_gave_up_is_no_longer_wanted(folder: OutputFolder) -> None:
    fail(folder, next(PLAN.shards()))
    changed = make_plan(layer_info("block.conv", 6), recipe=make_recipe(steps=13))
    assert states(folder, changed) == {"0-1": "no longer wanted"}


def test_blocks_and_examples_of_photographs_are_cases_too(folder: OutputFolder) -> None:
    dataset_plan = make_listing(folder, (f"{i}.png" for i in range(150)))
    plan = replace(make_plan(layer_info("a", 6)), dataset_plan=dataset_plan)
    (statistics,) = all_statistics(plan.models[0], dataset_plan)
    first, *_ = blocks_of((statistics,), Listing(folder.listing(dataset_plan.listing)))
    fail(folder, first)
    (case,) = read_failed_tasks(folder, make_manifest(plan))
    assert (case.state, case.last.layers) == ("in quarantine", ("a",))
    fill_study(folder, statistics, np.zeros((150, 6)), np.zeros((150, 6)), np.zeros((16, 4)))
    (case,) = read_failed_tasks(folder, make_manifest(plan))
    assert case.state == "done since"
    task = next(examples_of(plan, dataset_plan))
    fail(folder, task, when="2026-01-02")
    assert read_failed_tasks(folder, make_manifest(plan))[-1].last.what == str(task)


@pytest.fixture
def cases(folder: OutputFolder) -> list[FailedTask]:
    """Two tasks of block.conv, one of block.fc; the last one has attempts left."""
    first, second, _, third, _ = PLAN.shards()
    fail(folder, first)
    fail(folder, second)
    fail(folder, third, attempts=1, given_up=False)
    return read_failed_tasks(folder, make_manifest(PLAN))


def test_words_are_layers_or_beginnings_of_keys(cases: list[FailedTask]) -> None:
    first, second, third = sorted(cases, key=lambda case: case.last.what)
    assert select(cases, []) == cases
    assert sorted(c.key for c in select(cases, ["block.conv"])) == sorted((first.key, second.key))
    assert select(cases, [third.last.task[:11]]) == [third]
    assert len(select(cases, [third.key, "block.conv"])) == 3


@pytest.mark.parametrize("word", ["block.covn", "block", "", "ffffffffff", "*"])
def test_a_word_that_names_no_task_is_told_the_nearest(cases: list[FailedTask], word: str) -> None:
    with pytest.raises(UserError) as caught:
        select(cases, [word])
    assert str(caught.value).startswith(f"unknown failed task or layer {word!r}; choose from: ")
    if word == "block.covn":
        assert "choose from: block.conv, " in str(caught.value)


def test_retry_puts_back_what_is_in_quarantine_alone(
    folder: OutputFolder, cases: list[FailedTask]
) -> None:
    manifest = make_manifest(PLAN)
    given_up = next(case for case in cases if case.state == "in quarantine")
    (chosen,) = retry(folder, manifest, [given_up.key, "block.fc"])
    assert chosen.last.task == given_up.last.task
    assert len(quarantined(read_failures(folder))) == 1
    assert len(retry(folder, manifest, [])) == 1
    assert retry(folder, manifest, []) == []
    assert not quarantined(read_failures(folder))
    assert [c.state for c in read_failed_tasks(folder, manifest)] == ["to be tried again"] * 3


def test_the_story_goes_on_after_a_task_was_put_back(folder: OutputFolder) -> None:
    shard, manifest = next(PLAN.shards()), make_manifest(PLAN)
    fail(folder, shard)
    retry(folder, manifest, [])
    fail(folder, shard, attempts=2, given_up=False, when="2026-01-02")
    (case,) = read_failed_tasks(folder, manifest)
    assert [f.attempt for f in case.earlier] == [1, 2, 3]
    assert [f.attempt for f in case.attempts] == [1, 2]
    assert case.last.when.startswith("2026-01-02")
    fill_store(folder, PLAN)
    (case,) = read_failed_tasks(folder, manifest)
    assert case.state == "done since"
    assert retry(folder, manifest, []) == []


def test_nothing_failed(tmp_path: Path) -> None:
    assert read_failed_tasks(OutputFolder(tmp_path / "none"), make_manifest(PLAN)) == []
