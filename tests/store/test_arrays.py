"""Tables of arrays: what they tell is within the file, whoever wrote them."""

import io
import tracemalloc
import zlib
from typing import Any

import h5py
import numpy as np
import pytest
from numpy.typing import NDArray

from layer_atlas.store.arrays import (
    DTYPES,
    PICTURE_FILTERS,
    Pictures,
    fletcher32,
    read_table,
    table_of,
    unpacked,
    write_pictures,
)

BODY = memoryview(bytes(range(200)) * 50)


def written(fill: Any) -> tuple[dict[str, Any], memoryview]:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        fill(file)
        table = table_of(file)
    return table, memoryview(buffer.getvalue())


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(), (5,), (0, 4), (2, 3, 4)], ids=str)
def test_numbers_come_back(dtype: str, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).integers(0, 99, shape).astype(dtype)
    table, body = written(lambda file: file.create_dataset("a", data=array))
    read = read_table(table, body)["a"].read()
    assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, shape, array.tobytes())
    assert read.flags.writeable


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (2, 3, 9, 8, 1), (2, 1, 40, 40, 3)])
@pytest.mark.parametrize("noise", [True, False])
def test_pictures_come_back_each_by_itself(shape: tuple[int, ...], noise: bool) -> None:
    array = np.random.default_rng(0).integers(0, 256 if noise else 1, shape, dtype=np.uint8)
    table, body = written(lambda file: write_pictures(file, "a", array, len(shape[1:][-3:])))
    stored = read_table(table, body)["a"]
    assert isinstance(stored, Pictures)
    stored.check()
    assert np.array_equal(stored.read(), array)
    assert np.array_equal(stored.row(len(array) - 1), array[-1])


def test_numbers_of_other_types_are_not_written() -> None:
    for array in (np.zeros(2, np.uint16), np.zeros(2, bool), np.asarray(["a"], object)):
        with pytest.raises(TypeError):
            written(lambda file, array=array: file.create_dataset("a", data=array))


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000, 131_071, 131_072, 131_073, 400_001])
@pytest.mark.parametrize("kind", ["zeros", "ones", "noise"])
def test_checksums_are_those_of_hdf5(n: int, kind: str) -> None:
    noise: NDArray[np.uint8] = np.random.default_rng(n).integers(0, 256, n, dtype=np.uint8)
    data = {"zeros": bytes(n), "ones": b"\xff" * n, "noise": noise.tobytes()}[kind]
    if n:
        with h5py.File(io.BytesIO(), "w") as file:
            array = np.frombuffer(data, np.uint8)
            dataset = file.create_dataset("a", data=array, chunks=(n,), fletcher32=True)
            file.flush()
            assert dataset.id.read_direct_chunk((0,))[1] == data + fletcher32(data)
    assert len(fletcher32(data)) == 4


def number(**changes: Any) -> dict[str, Any]:
    return {"dtype": "<f4", "shape": [10], "start": 0, **changes}


def picture(**changes: Any) -> dict[str, Any]:
    return {"dtype": "|u1", "shape": [2, 4, 4], "packed": [[0, 9], [9, 9]], **changes}


HUGE = 2**62
TABLES: dict[str, Any] = {
    "not an entry": {"a": 3},
    "no entry": {"a": None},
    "a list": {"a": []},
    "no type": {"a": {"shape": [1], "start": 0}},
    "objects": {"a": number(dtype="|O")},
    "records": {"a": number(dtype=[["a", "<f4"]])},
    "a type with a shape": {"a": number(dtype="(99999,)<f4")},
    "no shape": {"a": number(shape=None)},
    "a shape of texts": {"a": number(shape=["10"])},
    "a shape of floats": {"a": number(shape=[10.0])},
    "a negative side": {"a": number(shape=[-1])},
    "two negative sides": {"a": number(shape=[-2, -2])},
    "a huge side": {"a": number(shape=[10**12])},
    "a product that overflows": {"a": number(shape=[HUGE, 4])},
    "too many axes for numpy": {"a": number(shape=[1] * 99)},
    "before the file": {"a": number(start=-8)},
    "behind the file": {"a": number(start=9_999)},
    "far behind the file": {"a": number(start=10**30)},
    "no number where": {"a": number(start="0")},
    "true": {"a": number(start=True)},
    "ten times the file": {str(i): number(shape=[2500]) for i in range(10)},
    "packed numbers": {"a": {**picture(), "dtype": "<f4"}},
    "pictures behind the file": {"a": picture(packed=[[0, 9], [9_999, 9]])},
    "pictures before the file": {"a": picture(packed=[[-4, 9], [9, 9]])},
    "places that overflow": {"a": picture(packed=[[2**63 - 1, 9], [9, 9]])},
    "places beyond 64 bits": {"a": picture(packed=[[2**64, 9], [9, 9]])},
    "lengths that make up for others": {
        "a": picture(shape=[3, 4, 4], packed=[[0, 9_000], [0, 9_000], [9_999, -9_000]])
    },
    "lengths that overflow": {"a": picture(packed=[[0, 2**63 - 1], [9, 9]])},
    "places that are none": {"a": picture(packed=[[0, 9], [9]])},
    "places in one": {"a": picture(packed=[0, 9, 9, 9])},
    "places as text": {"a": picture(packed="0999")},
    "places as an object": {"a": picture(packed={"0": 9})},
    "more places than rows": {"a": picture(packed=[[0, 9]] * 3)},
    "no places": {"a": picture(packed=[])},
    "pictures of no axes": {"a": picture(shape=[])},
    "no pictures with places": {"a": picture(shape=[0, 4, 4])},
    "the same bytes again and again": {"a": picture(shape=[64, 4, 4], packed=[[0, 9_000]] * 64)},
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_tables_that_cannot_be(table: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        read_table(table, BODY)


def packed(data: bytes) -> bytes:
    return data + fletcher32(data)


PIXELS = bytes(range(16))
STREAMS = {
    "nothing": b"",
    "no stream": packed(b"nothing of that kind"),
    "cut short": packed(zlib.compress(PIXELS)[:-1]),
    "fewer pixels": packed(zlib.compress(PIXELS[:-1])),
    "more pixels": packed(zlib.compress(PIXELS + b"0")),
    "a bomb": packed(zlib.compress(bytes(10**8))),
    "another checksum": zlib.compress(PIXELS) + b"abcd",
    "a checksum of its own that is wrong": packed(zlib.compress(PIXELS)[:-1] + b"x"),
}


@pytest.mark.parametrize("data", STREAMS.values(), ids=STREAMS)
def test_pictures_that_cannot_be_unpacked(data: bytes) -> None:
    assert unpacked(packed(zlib.compress(PIXELS)), 16) == PIXELS
    with pytest.raises(ValueError):
        unpacked(data, 16)


def test_what_unpacks_to_more_than_it_should_takes_no_memory() -> None:
    bomb = packed(zlib.compress(bytes(10**7)))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError):
            unpacked(bomb, 16)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


def test_a_picture_of_any_declared_size_takes_no_more_than_there_is() -> None:
    with pytest.raises(ValueError):
        unpacked(packed(zlib.compress(PIXELS)), 10**15)


def test_pictures_are_packed_as_the_atlas_packs_them() -> None:
    with h5py.File(io.BytesIO(), "w") as file:
        write_pictures(file, "a", np.zeros((2, 3, 4, 4), np.uint8), axes=2)
        assert file["a"].chunks == (1, 1, 4, 4)
        assert {name: getattr(file["a"], name) for name in PICTURE_FILTERS} == PICTURE_FILTERS
