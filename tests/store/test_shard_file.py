"""Shard files: what was committed comes back, and what is no such shard is told from one."""

import io
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import h5py
import numpy as np
import pytest
from toys import make_plan, make_recipe, make_result

from layer_atlas.config.objectives import DiversityObjective
from layer_atlas.plan.jobs import STATUS, ShardResult
from layer_atlas.plan.plan import Plan
from layer_atlas.store.arrays import PICTURE_FILTERS
from layer_atlas.store.checksummed_file import CorruptFile, seal
from layer_atlas.store.frames import most_bytes
from layer_atlas.store.shard_file import (
    SCHEMA,
    ShardFile,
    decode,
    encode,
    most_shard_bytes,
    read_header,
    shard_frames,
)

PLAN = make_plan(channels=(3, 4, 5), seeds=(3,), shard_size=3)
(SHARD,) = PLAN.shards()
RESULT = make_result(SHARD)
DATA = encode(SHARD, RESULT)


def decoded(data: bytes, plan: Plan = PLAN) -> ShardFile:
    (model,) = plan.models
    return decode(data, model, model.layers[0])


def test_what_was_written_comes_back() -> None:
    read = decoded(DATA)
    assert (read.header.series, read.header.channels) == (SHARD.series.key, SHARD.targets)
    assert read.result.facts == read.header.facts == RESULT.facts
    arrays = {**read.result.arrays, "image": read.pictures["image"].read()}
    assert arrays.keys() == RESULT.arrays.keys() - {"trace_step"}
    for name, array in arrays.items():
        assert array.dtype == RESULT.arrays[name].dtype, name
        assert np.array_equal(array, RESULT.arrays[name]), name


def test_values_that_are_not_finite_come_back() -> None:
    wild = {**RESULT.arrays, "activation": np.asarray([np.nan, np.inf, -0.0], np.float32)}
    read = decoded(encode(SHARD, ShardResult(wild))).result.arrays["activation"]
    assert read.tobytes() == wild["activation"].tobytes()


def test_header_is_read_from_the_first_bytes_alone() -> None:
    assert read_header(DATA[:512]) == decoded(DATA).header


def test_any_hdf5_tool_opens_the_file() -> None:
    with h5py.File(io.BytesIO(DATA), "r") as file:
        assert file["image"].shape == (3, 16, 16, 3)
        assert file["image"].chunks == (1, 16, 16, 3)
        assert file["image"][1, 0, 0].tolist() == [43, 43, 43]
        assert json.loads(file.attrs["identity"]) == SHARD.series.identity
        assert json.loads(file["status"].attrs["meaning"]) == STATUS


def test_same_result_gives_the_same_bytes() -> None:
    assert encode(SHARD, make_result(SHARD)) == DATA


def test_a_damaged_shard_is_corrupt() -> None:
    with pytest.raises(CorruptFile):
        decoded(DATA[:-1])


def test_a_shard_takes_no_more_than_the_most() -> None:
    (model,) = PLAN.models
    noise = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    data = encode(SHARD, ShardResult({**RESULT.arrays, "image": noise}))
    assert len(data) < most_shard_bytes(model, model.layers[0], 3)
    frames = shard_frames(model, model.layers[0], 3)
    assert most_bytes(frames.values()) == most_shard_bytes(model, model.layers[0], 3)


# --- pictures ------------------------------------------------------------------------------------

FILMED = make_plan(
    channels=(3, 4, 5),
    shard_size=3,
    recipe=replace(make_recipe(), objective=DiversityObjective(images=2), snapshots=6),
)
(FILMED_SHARD,) = FILMED.shards()


def test_pictures_are_read_job_by_job() -> None:
    made = make_result(FILMED_SHARD)
    read = decoded(encode(FILMED_SHARD, made), FILMED)
    assert read.pictures.keys() == {"image", "snapshot"}
    for name, stored in read.pictures.items():
        some = np.stack([stored.row(row) for row in (2, 0)])
        assert np.array_equal(some, made.arrays[name][[2, 0]])


def test_packed_pictures_can_be_put_elsewhere_as_they_are() -> None:
    made = make_result(FILMED_SHARD).arrays["snapshot"]
    read = decoded(encode(FILMED_SHARD, make_result(FILMED_SHARD)), FILMED)
    with h5py.File(io.BytesIO(), "w") as file:
        copy = file.create_dataset(
            "copy", made.shape, "u1", chunks=(1, 1, 1, *made.shape[3:]), **PICTURE_FILTERS
        )
        for row in (0, 2):
            for corner, chunk in read.packed("snapshot", row):
                copy.id.write_direct_chunk((row, *corner), chunk)
        assert np.array_equal(copy[[0, 2]], made[[0, 2]])
        assert not copy[1].any()


# --- sealed by somebody else ---------------------------------------------------------------------


def sealed(change: Callable[[h5py.File], None] = lambda file: None, **header: Any) -> bytes:
    """The shard with other contents, under a digest that is right."""

    def fill(file: h5py.File) -> None:
        with h5py.File(io.BytesIO(DATA), "r") as source:
            for name in source:
                source.copy(name, file)
        change(file)

    whose = {"series": SHARD.series.key, "channels": SHARD.targets, "facts": {}}
    return seal({"schema": SCHEMA, **whose, **header}, fill)


def replaced(name: str, array: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        if array is not None:
            file[name] = array

    return change


def test_a_shard_that_was_sealed_anew_is_one() -> None:
    assert decoded(sealed()).header.channels == SHARD.targets


@pytest.mark.parametrize(
    "header",
    [
        {"series": 7},
        {"channels": 3},
        {"channels": []},
        {"channels": [3, 4, "5"]},
        {"channels": [3, 4, [5]]},
        {"channels": [3, 4, 4]},
        {"channels": [-1, 3, 4]},
        {"channels": [3, 4, 5.0]},
        {"channels": [3, 4, 2**63]},
        {"channels": [5, 4, 3]},
        {"channels": list(range(5000))},
        {"facts": [1]},
        {"schema": "layer-atlas-study/2"},
    ],
    ids=lambda header: str(header)[:40],
)
def test_headers_that_no_shard_has(header: dict[str, Any]) -> None:
    with pytest.raises(CorruptFile):
        decoded(sealed(**header))


F4 = np.float32
CONTENTS = {
    "no channel": replaced("channel", None),
    "no image": replaced("image", None),
    "no activation": replaced("activation", None),
    "channels of the next": replaced("channel", np.arange(4, 7)),
    "channels as text": replaced("channel", np.asarray([3.0, 4.0, 5.0])),
    "more jobs": replaced("activation", np.zeros(4, F4)),
    "fewer jobs": replaced("status", np.zeros(2, np.uint8)),
    "other fates": replaced("status", np.full(3, 3, np.uint8)),
    "other precision": replaced("activation", np.zeros(3)),
    "more axes": replaced("activation", np.zeros((3, 1), F4)),
    "more channels": replaced("response", np.zeros((3, 7), F4)),
    "no axis": replaced("trace", F4(1)),
    "images as they are": replaced("image", np.zeros((3, 16, 16, 3), np.uint8)),
}


@pytest.mark.parametrize("change", CONTENTS.values(), ids=CONTENTS)
def test_contents_that_no_such_shard_has(change: Callable[[h5py.File], None]) -> None:
    with pytest.raises(CorruptFile):
        decoded(sealed(change))


def test_a_statistic_that_was_not_thought_of_yet_may_be_missing() -> None:
    for name in ("clipped", "trace", "response"):
        assert name not in decoded(sealed(replaced(name, None))).result.arrays


def test_arrays_that_nobody_asked_for_are_not_read() -> None:
    read = decoded(sealed(lambda file: file.create_dataset("more", data=np.zeros(9))))
    assert "more" not in read.result.arrays
