"""Shard files: what was committed comes back, and what is no such shard is corrupt."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from toys import make_plan, make_recipe, make_result

from layer_atlas.config.config import LARGEST_SHARD
from layer_atlas.config.objectives import DiversityObjective
from layer_atlas.plan.jobs import Shard, ShardResult
from layer_atlas.plan.plan import Plan
from layer_atlas.store import files as checksummed_file
from layer_atlas.store.files import CorruptFile, largest_file
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.shards import (
    SCHEMA,
    ShardFile,
    commit,
    decode,
    encode,
    read_header,
    read_shard,
    shard_specs,
)

PLAN = make_plan(channels=(3, 4, 5), seeds=(3,), shard_size=3)
(MODEL,) = PLAN.models
(SHARD,) = PLAN.shards()
RESULT = make_result(SHARD)
DATA = encode(SHARD, RESULT)


def decoded(data: bytes, plan: Plan = PLAN) -> ShardFile:
    (model,) = plan.models
    return decode(data, model, model.layers[0])


def test_what_was_written_comes_back() -> None:
    read = decoded(DATA)
    assert (read.header.series, read.header.targets) == (SHARD.series.key, SHARD.targets)
    assert read.header.facts == RESULT.facts
    assert read.arrays.keys() == RESULT.arrays.keys() - {"trace_step"}
    for name, array in read.arrays.items():
        assert array.dtype == RESULT.arrays[name].dtype, name
        assert np.array_equal(array, RESULT.arrays[name]), name


def test_images_of_several_variants_and_steps_come_back() -> None:
    objective = DiversityObjective(images=2)
    recipe = replace(make_recipe(), objective=objective, snapshots=6)
    plan = make_plan(channels=(3, 4, 5), shard_size=3, recipe=recipe)
    (shard,) = plan.shards()
    made = make_result(shard)
    read = decoded(encode(shard, made), plan)
    for name in ("image", "snapshot"):
        assert np.array_equal(read.arrays[name], made.arrays[name])


def test_values_that_are_not_finite_come_back() -> None:
    wild = {**RESULT.arrays, "activation": np.asarray([np.nan, np.inf, -0.0], np.float32)}
    read = decoded(encode(SHARD, ShardResult(wild))).arrays["activation"]
    assert read.tobytes() == wild["activation"].tobytes()


def test_header_is_read_without_the_rest_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA[:4096])
    assert len(DATA) > 4096
    assert read_header(tmp_path / "file") == decoded(DATA).header


@pytest.mark.parametrize("name", ["target", "status", "activation", "image"])
def test_a_shard_that_no_reader_accepts_is_not_written(name: str) -> None:
    arrays = {key: array for key, array in RESULT.arrays.items() if key != name}
    with pytest.raises(KeyError, match=name):
        encode(SHARD, ShardResult(arrays))


def test_any_safetensors_tool_reads_the_file() -> None:
    arrays = safetensors.numpy.load(DATA)
    assert arrays["image"].shape == (3, 16, 16, 3)
    assert arrays["image"][1, 0, 0].tolist() == [43, 43, 43]
    assert checksummed_file.decode(DATA, SCHEMA).record["identity"] == SHARD.series.identity


def test_same_result_gives_the_same_bytes() -> None:
    assert encode(SHARD, make_result(SHARD)) == DATA


def test_a_damaged_shard_is_corrupt() -> None:
    with pytest.raises(CorruptFile):
        decoded(DATA[:-1])


def test_a_shard_in_the_format_of_earlier_versions_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b'{"channels":[3],"schema":"layer-atlas-shard/2"}\nsha256 ')
    with pytest.raises(CorruptFile):
        read_header(tmp_path / "file")


def test_a_shard_of_the_most_jobs_is_committed_and_read(folder: OutputFolder) -> None:
    # Its header is the largest: so many targets, of so many digits.
    targets = tuple(range(2**40, 2**40 + LARGEST_SHARD))
    shard = Shard(SHARD.series, targets)
    result = ShardResult(
        {
            "target": np.asarray(targets),
            "status": np.zeros(LARGEST_SHARD, np.uint8),
            "activation": np.zeros(LARGEST_SHARD, np.float32),
            "image": np.zeros((LARGEST_SHARD, 16, 16, 3), np.uint8),
        }
    )
    commit(folder, shard, result)
    read = read_shard(folder.shard(shard), MODEL, MODEL.layers[0])
    assert read.header.targets == targets


def test_a_shard_takes_no_more_than_the_most() -> None:
    most = largest_file(shard_specs(MODEL, MODEL.layers[0], 3).values())
    assert len(DATA) < most < len(DATA) + 2**20


def test_a_file_that_is_longer_than_its_header_allows_is_not_read(folder: OutputFolder) -> None:
    commit(folder, SHARD, RESULT)
    with open(folder.shard(SHARD), "r+b") as file:
        file.truncate(2**24)
    with pytest.raises(CorruptFile, match="longer"):
        read_shard(folder.shard(SHARD), MODEL, MODEL.layers[0])


# --- made by somebody else -----------------------------------------------------------------------


def forged(record: dict[str, Any] | None = None, **arrays: Any) -> bytes:
    """The shard with other contents, under a digest that is right; `None` leaves an array out."""
    whose = {"series": SHARD.series.key, "targets": SHARD.targets, "facts": {}}
    contents = {name: a for name, a in {**RESULT.arrays, **arrays}.items() if a is not None}
    return checksummed_file.encode(SCHEMA, {**whose, **(record or {})}, contents)


def test_a_shard_that_was_encoded_anew_is_one() -> None:
    assert decoded(forged()).header.targets == SHARD.targets


@pytest.mark.parametrize(
    "record",
    [
        {"series": 7},
        {"targets": 3},
        {"targets": []},
        {"targets": [3, 4, "5"]},
        {"targets": [3, 4, [5]]},
        {"targets": [3, 4, 4]},
        {"targets": [-1, 3, 4]},
        {"targets": [3, 4, 5.0]},
        {"targets": [3, 4, True]},
        {"targets": [3, 4, 2**63]},
        {"targets": [5, 4, 3]},
        {"targets": list(range(5000))},
        {"facts": [1]},
    ],
    ids=lambda record: str(record)[:40],
)
def test_headers_that_no_shard_has(record: dict[str, Any]) -> None:
    with pytest.raises(CorruptFile):
        decoded(forged(record))


def test_a_file_of_another_kind_is_no_shard() -> None:
    data = checksummed_file.encode("layer-atlas-study/3", {}, RESULT.arrays)
    with pytest.raises(CorruptFile, match="layer-atlas-study/3"):
        decoded(data)


F4 = np.float32
CONTENTS: dict[str, dict[str, Any]] = {
    "no target": {"target": None},
    "no image": {"image": None},
    "no activation": {"activation": None},
    "targets of the next": {"target": np.arange(4, 7)},
    "targets of another dtype": {"target": np.asarray([3.0, 4.0, 5.0])},
    "more jobs": {"activation": np.zeros(4, F4)},
    "fewer jobs": {"status": np.zeros(2, np.uint8)},
    "other fates": {"status": np.full(3, 3, np.uint8)},
    "other precision": {"activation": np.zeros(3)},
    "more axes": {"activation": np.zeros((3, 1), F4)},
    "more channels": {"response": np.zeros((3, 7), F4)},
    "no axis": {"trace": np.asarray(1, F4)},
    "larger images": {"image": np.zeros((3, 16, 17, 3), np.uint8)},
    "images of numbers": {"image": np.zeros((3, 16, 16, 3), F4)},
}


@pytest.mark.parametrize("arrays", CONTENTS.values(), ids=CONTENTS)
def test_contents_that_no_such_shard_has(arrays: dict[str, Any]) -> None:
    with pytest.raises(CorruptFile):
        decoded(forged(**arrays))


def test_a_statistic_that_was_not_thought_of_yet_may_be_missing() -> None:
    for name in ("clipped", "trace", "response"):
        assert name not in decoded(forged(**{name: None})).arrays


def test_arrays_that_nobody_asked_for_are_not_read() -> None:
    assert "more" not in decoded(forged(more=np.zeros(9))).arrays
