"""Records of failures: what is given up, what is put back, which line says most."""

from pathlib import Path

import pytest
from toys import fail, fill_store, layer_info, make_plan

from layer_atlas.atlas.gather import layer_views
from layer_atlas.plan.jobs import STATUS
from layer_atlas.plan.plan import Plan
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.quarantine import attempts_at, cause, put_back, quarantined, read_failures

DEEP = "".join(f'  File "/x/{i}.py", line {i}, in forward\n    return f(x)\n' for i in range(30))

HEAD = "Traceback (most recent call last):\n"
HUNG = "Current thread 0x01 (most recent call first):\n"

SAID = {
    "exception": (f"{HEAD}{DEEP}ValueError: 7 is odd\n", "ValueError: 7 is odd"),
    "its beginning is lost": (f"{DEEP}        ^^^^^\nRuntimeError: CUDA\n", "RuntimeError: CUDA"),
    "several lines": (f"{DEEP}RuntimeError: 1\nSecond thought.\n\nThird.\n", "RuntimeError: 1"),
    "one after the other": (
        f"{HEAD}{DEEP}KeyError: 1\n\nDuring handling of the above exception, another exception "
        f"occurred:\n\n{HEAD}{DEEP}OSError: 2\n",
        "OSError: 2",
    ),
    "crash outside Python": (
        f"Fatal Python error: Segmentation fault\n\n{HUNG}{DEEP}\nExtension modules: numpy\n",
        "Fatal Python error: Segmentation fault",
    ),
    "where it hung": (f'{HUNG}  File "a.py", line 3 in f\n', 'File "a.py", line 3 in f'),
    "words": ("out of memory: batch size is now 4\nKilled\n", "Killed"),
    "nothing": ("\n \n", ""),
}


@pytest.mark.parametrize(("said", "expected"), SAID.values(), ids=SAID)
def test_the_line_that_says_most(said: str, expected: str) -> None:
    assert cause(said) == expected


@pytest.fixture
def plan() -> Plan:
    return make_plan(layer_info("a", 6))


def test_a_task_is_given_up_with_its_last_attempt(folder: OutputFolder, plan: Plan) -> None:
    first, second, _ = plan.shards()
    fail(folder, first, attempts=2, given_up=False)
    fail(folder, second, attempts=3)
    assert quarantined(read_failures(folder)) == {second.key}
    assert [attempts_at(folder, shard.key) for shard in plan.shards()] == [2, 3, 0]


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"task": 1}', "[" * 9999])
def test_a_record_that_cannot_be_read_gives_nothing_up(
    folder: OutputFolder, plan: Plan, text: str
) -> None:
    shard = next(plan.shards())
    fail(folder, shard)
    folder.failure(shard.key, 3).write_text(text)
    assert len(read_failures(folder)) == 2
    assert not quarantined(read_failures(folder))


def test_what_is_put_back_counts_no_more_and_is_not_lost(folder: OutputFolder, plan: Plan) -> None:
    first, second, _ = plan.shards()
    for _ in range(2):
        fail(folder, first)
        fail(folder, second)
        put_back(folder, {first.key})
        assert attempts_at(folder, first.key) == 0
        assert quarantined(read_failures(folder)) == {second.key}
    assert [f.attempt for f in read_failures(folder, put_back=True)] == [1, 1, 2, 2, 3, 3]


def failed_channels(folder: OutputFolder, plan: Plan) -> list[int]:
    """The channels that collation marks as failed."""
    (view,) = layer_views(folder, plan)
    return view.targets[view.initial_status()[:, 0] == STATUS["failed"]].tolist()


def test_collation_marks_as_failed_what_is_in_quarantine_and_still_missing(
    folder: OutputFolder, plan: Plan
) -> None:
    fill_store(folder, plan, {0: "missing", 2: "missing", 4: "missing"})
    first, second, third = plan.shards()
    fail(folder, first, attempts=2, given_up=False)
    fail(folder, second)
    fail(folder, third)
    assert failed_channels(folder, plan) == [2, 3, 4, 5]
    put_back(folder, {third.key})
    assert failed_channels(folder, plan) == [2, 3]
    fill_store(folder, plan)
    assert failed_channels(folder, plan) == []


def test_collation_marks_what_was_left_of_a_shard_and_was_given_up(folder: OutputFolder) -> None:
    wide = make_plan(layer_info("a", 6), shard_size=6)
    fill_store(folder, make_plan(layer_info("a", 6), channels=(0, 1, 2)))
    (view,) = layer_views(folder, wide)
    ((_, rest),) = view.left()
    fail(folder, rest)
    assert failed_channels(folder, wide) == [3, 4, 5]


def test_records_lie_in_the_folder(folder: OutputFolder, plan: Plan) -> None:
    shard = next(plan.shards())
    fail(folder, shard, attempts=1)
    (failure,) = read_failures(folder)
    assert (failure.layers, failure.request["targets"]) == (("a",), [0, 1])
    assert [folder.root / file for file in failure.files] == [folder.shard(shard)]
    assert not Path(failure.log).is_absolute()
