"""Shard files: what was committed comes back, and what is no shard is told from one."""

import io
import json
from dataclasses import replace
from typing import Any

import h5py
import numpy as np
import pytest
from toys import make_recipe, make_result, make_series

from pipeline.jobs import STATUS, Shard, ShardResult
from pipeline.objective_records import DiversityObjective
from pipeline.sealed_file import CorruptFile, seal
from pipeline.shard_file import (
    IMAGE_FILTERS,
    SCHEMA,
    check,
    decode,
    encode,
    packed_pictures,
    pictures_of,
    read_header,
)

SHARD = Shard(make_series(seed=3), (4, 5, 9))
RESULT = make_result(SHARD)
DATA = encode(SHARD, RESULT)


def test_what_was_written_comes_back() -> None:
    header, result = decode(DATA)
    assert (header.series, header.channels) == (SHARD.series.key, SHARD.channels)
    assert result.facts == RESULT.facts
    assert result.arrays.keys() == RESULT.arrays.keys()
    for name, array in RESULT.arrays.items():
        assert result.arrays[name].dtype == array.dtype, name
        assert np.array_equal(result.arrays[name], array), name


def test_values_that_are_not_finite_come_back() -> None:
    wild = {**RESULT.arrays, "activation": np.asarray([np.nan, np.inf, -0.0], np.float32)}
    read = decode(encode(SHARD, ShardResult(wild)))[1].arrays["activation"]
    assert read.tobytes() == wild["activation"].tobytes()


def test_header_is_read_from_the_first_bytes_alone() -> None:
    header = read_header(DATA[:512])
    assert header == check(DATA)
    assert header.user_block == 512


def test_header_of_a_large_shard_grows_with_its_channels() -> None:
    shard = Shard(SHARD.series, tuple(range(2000)))
    tiny = {"channel": np.arange(2000), "status": np.zeros(2000, np.uint8)}
    data = encode(shard, ShardResult(tiny))
    header = read_header(data)
    assert header.channels == shard.channels
    assert header.user_block > 512
    assert decode(data)[1].arrays["channel"].tolist() == list(range(2000))


def test_any_hdf5_tool_opens_the_file() -> None:
    with h5py.File(io.BytesIO(DATA), "r") as file:
        assert file.userblock_size == 512
        assert file["image"].shape == (3, 16, 16, 3)
        assert file["image"].chunks == (1, 16, 16, 3)
        assert file["image"][1, 0, 0].tolist() == [53, 53, 53]
        assert json.loads(file.attrs["identity"]) == SHARD.series.identity
        assert json.loads(file["status"].attrs["meaning"]) == STATUS


def test_same_result_gives_the_same_bytes() -> None:
    assert encode(SHARD, make_result(SHARD)) == DATA


@pytest.mark.parametrize(
    "header",
    [
        {"series": "a", "channels": 3},
        {"channels": [1, 2]},
        {"series": "a", "channels": [1], "schema": "layer-atlas-study/1"},
    ],
)
def test_a_sealed_file_that_is_no_shard_is_corrupt(header: dict[str, Any]) -> None:
    def fill(file: h5py.File) -> None:
        file.attrs["facts"] = "{}"

    with pytest.raises(CorruptFile):
        decode(seal({"schema": SCHEMA, **header}, fill))


def test_facts_that_are_none_are_corrupt() -> None:
    header = {"schema": SCHEMA, "series": "a", "channels": [1]}
    with pytest.raises(CorruptFile, match="facts"):
        decode(seal(header, lambda file: None))


def test_a_damaged_shard_is_corrupt() -> None:
    with pytest.raises(CorruptFile):
        decode(DATA[:-1])


FILMED = replace(make_recipe(), objective=DiversityObjective(images=2), snapshots=6)


def test_pictures_are_read_job_by_job_and_only_where_they_are_wanted() -> None:
    shard = Shard(make_series(recipe=FILMED), (4, 5, 9))
    made = make_result(shard)
    data = encode(shard, made)
    statistics = decode(data, pictures=False)[1].arrays
    assert made.arrays.keys() - statistics.keys() == {"image", "snapshot"}
    for name in ("image", "snapshot"):
        some = np.stack(list(pictures_of(data, name, [2, 0])))
        assert np.array_equal(some, made.arrays[name][[2, 0]])


def test_packed_pictures_can_be_put_elsewhere_as_they_are() -> None:
    shard = Shard(make_series(recipe=FILMED), (4, 5, 9))
    made = make_result(shard).arrays["snapshot"]
    with h5py.File(io.BytesIO(), "w") as file:
        copy = file.create_dataset(
            "copy", made.shape, "u1", chunks=(1, 1, 1, *made.shape[3:]), **IMAGE_FILTERS
        )
        data = encode(shard, make_result(shard))
        for row, corner, chunk in packed_pictures(data, "snapshot", [0, 2]):
            copy.id.write_direct_chunk((row, *corner), chunk)
        assert np.array_equal(copy[[0, 2]], made[[0, 2]])
        assert not copy[1].any()
