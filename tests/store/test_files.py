"""Checksummed files: arrays come back, any changed byte is detected, and no header is trusted."""

import hashlib
import json
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from layer_atlas.store.files import (
    HEADER_BYTES,
    ArraySpec,
    AtMost,
    CorruptFile,
    conforming,
    decode,
    encode,
    largest_file,
    read_record,
    stamped,
)

SCHEMA = "toy/1"
ARRAYS: dict[str, Any] = {
    "numbers": np.arange(7.0),
    "nothing": np.zeros((0, 3), np.float32),
    "one": np.asarray(5, np.int32),
    "Large": np.arange(6).reshape(2, 3),
    "small": np.float32([np.nan, np.inf, -0.0]),
    "pixels": np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8),
}


def encoded(**record: Any) -> bytes:
    return encode(SCHEMA, record, ARRAYS)


DATA = encoded(what="a toy")


def contents(arrays: Mapping[str, Any]) -> dict[str, Any]:
    return {name: (a.dtype, a.shape, a.tobytes()) for name, a in arrays.items()}


# --- what is written -----------------------------------------------------------------------------


def test_what_was_written_comes_back() -> None:
    read = decode(DATA, SCHEMA)
    assert read.record == {"what": "a toy"}
    assert contents(read.arrays) == contents(ARRAYS)


def test_the_same_contents_are_the_same_bytes() -> None:
    assert encode(SCHEMA, {"what": "a toy"}, dict(reversed(ARRAYS.items()))) == DATA


def test_arrays_are_read_without_a_copy_and_aligned() -> None:
    for array in decode(DATA, SCHEMA).arrays.values():
        assert not array.flags.owndata
        assert array.flags.aligned
        assert not array.flags.writeable


def test_the_safetensors_library_reads_the_file(tmp_path: Path) -> None:
    assert contents(safetensors.numpy.load(DATA)) == contents(ARRAYS)
    (tmp_path / "file").write_bytes(DATA)
    with safetensors.safe_open(tmp_path / "file", "numpy") as file:
        metadata = file.metadata()
    assert metadata.keys() == {"sha256", "schema", "record"}
    assert (metadata["schema"], json.loads(metadata["record"])) == (SCHEMA, {"what": "a toy"})


def test_the_digest_is_that_of_the_file_with_zeros_in_its_place() -> None:
    stated = DATA[35:99]
    assert DATA[:35].endswith(b'{"__metadata__":{"sha256":"')
    with_zeros = DATA.replace(stated, b"0" * 64)
    assert hashlib.sha256(with_zeros).hexdigest().encode() == stated


def test_arrays_that_are_no_plain_rows_are_written_as_they_look() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    strided = {"turned": array.T, "every second": array[:, ::2], "backwards": array[::-1]}
    assert contents(decode(encode(SCHEMA, {}, strided), SCHEMA).arrays) == contents(strided)


@pytest.mark.parametrize(
    "array", [np.zeros(2, np.uint16), np.zeros(2, bool), np.zeros(2, ">f4"), np.asarray(["a"])]
)
def test_other_dtypes_are_not_written(array: Any) -> None:
    with pytest.raises(TypeError, match="'a' is"):
        encode(SCHEMA, {}, {"a": array})


def test_a_header_that_no_reader_accepts_is_not_written() -> None:
    most = HEADER_BYTES - 200
    assert decode(encode(SCHEMA, {"long": "x" * most}, {}), SCHEMA).record["long"]
    with pytest.raises(ValueError, match="header"):
        encode(SCHEMA, {"long": "x" * HEADER_BYTES}, {})


# --- damage --------------------------------------------------------------------------------------


def header_end(data: bytes) -> int:
    return 8 + int.from_bytes(data[:8], "little")


def positions() -> list[int]:
    """Every byte of the header, and 300 bytes spread over the rest."""
    end = header_end(DATA)
    spread = np.random.default_rng(0).choice(np.arange(end, len(DATA)), 300, replace=False)
    return [*range(end), *sorted(spread.tolist()), len(DATA) - 1]


@pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
def test_every_changed_byte_is_seen(flip: int) -> None:
    unseen = []
    for position in positions():
        damaged = bytearray(DATA)
        damaged[position] ^= flip
        try:
            decode(bytes(damaged), SCHEMA)
        except CorruptFile:
            continue
        unseen.append(position)
    assert unseen == []


def test_every_truncation_and_every_addition_is_seen() -> None:
    lengths = {*range(900), *range(0, len(DATA), len(DATA) // 200), len(DATA) - 1}
    for data in [*(DATA[:length] for length in sorted(lengths)), DATA + b"\0", DATA + DATA]:
        with pytest.raises(CorruptFile):
            decode(data, SCHEMA)


def test_two_swapped_stretches_are_seen() -> None:
    a, b, n = header_end(DATA) + 200, len(DATA) - 300, 64
    damaged = bytearray(DATA)
    damaged[a : a + n], damaged[b : b + n] = DATA[b : b + n], DATA[a : a + n]
    assert bytes(damaged) != DATA
    with pytest.raises(CorruptFile):
        decode(bytes(damaged), SCHEMA)


def test_digest_copied_over_zeros_is_seen() -> None:
    # The digest is counted with zeros in its own place; those of the content must not pass for it.
    zeros = b"0" * 64
    data = encoded(what=zeros.decode())
    assert decode(data, SCHEMA).record["what"] == zeros.decode()
    with pytest.raises(CorruptFile):
        decode(data.replace(zeros, data[35:99]), SCHEMA)


def test_what_was_stamped_can_be_stamped_again() -> None:
    assert stamped(DATA) == DATA
    changed = DATA[:-1] + bytes([DATA[-1] ^ 1])
    assert decode(stamped(changed), SCHEMA).record == {"what": "a toy"}


# --- headers -------------------------------------------------------------------------------------


def test_the_record_is_read_from_the_header_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA[: header_end(DATA)])
    assert read_record(tmp_path / "file", SCHEMA) == {"what": "a toy"}


def test_a_file_of_another_schema_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(DATA)
    with pytest.raises(CorruptFile, match="toy/1"):
        decode(DATA, "toy/2")
    with pytest.raises(CorruptFile, match="toy/1"):
        read_record(tmp_path / "file", "toy/2")


def with_header(header: bytes, body: bytes = b"") -> bytes:
    """A file with any header, whose digest is right if it has a place."""
    return stamped(len(header).to_bytes(8, "little") + header + body)


OPENING = b'{"__metadata__":{"sha256":"' + b"0" * 64 + b'"'
HEADERS = {
    "nothing": b"",
    "no header": b"\0" * 8,
    "a huge header": (2**63).to_bytes(8, "little") + OPENING,
    "a header of 2 GB": (2**31).to_bytes(8, "little") + OPENING + bytes(10**6),
    "a header longer than the file": (2**16).to_bytes(8, "little") + OPENING + b"}}",
    "HDF5": b"\x89HDF\r\n\x1a\n" + b"\0" * 600,
    "no text": with_header(OPENING + b"\xff\xfe"),
    "cut short": with_header(OPENING),
    "nested": with_header(OPENING + b',"schema":' + b"[" * 100_000),
    "no schema": with_header(OPENING + b"}}"),
    "no record": with_header(OPENING + b',"schema":"toy/1"}}'),
    "a record that is no text": with_header(OPENING + b',"schema":"toy/1","record":{}}}'),
    "a record that is a list": with_header(OPENING + b',"schema":"toy/1","record":"[]"}}'),
    "a nested record": with_header(
        OPENING + b',"schema":"toy/1","record":"' + b"[" * 100_000 + b'"}}'
    ),
    "two sets of metadata": with_header(OPENING + b'},"__metadata__":3}'),
    "a digest elsewhere": with_header(b'{"a":{},"__metadata__":{"sha256":"' + b"0" * 99 + b'"}}'),
}


@pytest.mark.parametrize("data", HEADERS.values(), ids=HEADERS)
def test_files_of_another_kind_are_corrupt_and_nothing_worse(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(CorruptFile):
        decode(data, SCHEMA)
    with pytest.raises(CorruptFile):
        read_record(tmp_path / "file", SCHEMA)


def test_a_huge_header_takes_no_memory(tmp_path: Path) -> None:
    with open(tmp_path / "file", "wb") as file:
        file.write(HEADERS["a header of 2 GB"])
        file.truncate(2**32)
    tracemalloc.start()
    try:
        with pytest.raises(CorruptFile, match="header"):
            read_record(tmp_path / "file", SCHEMA)
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


# --- tables of arrays ----------------------------------------------------------------------------

BODY = bytes(range(200)) * 50


def with_table(table: Any) -> bytes:
    """A file with any table of arrays, and a digest that is right."""
    metadata = {"sha256": "0" * 64, "schema": SCHEMA, "record": "{}"}
    header = json.dumps({"__metadata__": metadata, **table}, separators=(",", ":"))
    return with_header(header.encode(), BODY)


def entry(**changes: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [2500], "data_offsets": [0, 10_000], **changes}


def halves(**changes: Any) -> dict[str, Any]:
    """Two arrays that fill the file, the second with other values."""
    half = {"shape": [1250], "data_offsets": [5_000, 10_000], **changes}
    return {"a": entry(shape=[1250], data_offsets=[0, 5_000]), "b": entry(**half)}


HUGE = 2**62
TABLES: dict[str, Any] = {
    "not an entry": {"a": 3},
    "no entry": {"a": None},
    "a list": {"a": []},
    "no arrays in a file with bytes": {},
    "no dtype": {"a": {"shape": [2500], "data_offsets": [0, 10_000]}},
    "no such dtype": {"a": entry(dtype="F16", shape=[5000])},
    "a numpy dtype": {"a": entry(dtype="<f4")},
    "objects": {"a": entry(dtype="|O")},
    "records": {"a": entry(dtype=[["a", "<f4"]])},
    "no shape": {"a": entry(shape=None)},
    "a shape of texts": {"a": entry(shape=["2500"])},
    "a shape of floats": {"a": entry(shape=[2500.0])},
    "a shape of no numbers": {"a": entry(shape=[float("nan")])},
    "a shape of bools": {"a": entry(shape=[2500, True])},
    "a negative side": {"a": entry(shape=[-2500])},
    "two negative sides": {"a": entry(shape=[-50, -50])},
    "a huge side": {"a": entry(shape=[10**12])},
    "a product that overflows": {"a": entry(shape=[HUGE, 4])},
    "huge sides around nothing": {
        "a": entry(), "b": entry(shape=[0, HUGE, HUGE], data_offsets=[10_000, 10_000])
    },
    "too many axes for numpy": {"a": entry(shape=[2500, *[1] * 99])},
    "another dtype": {"a": entry(dtype="F64")},
    "too few values": {"a": entry(shape=[2499])},
    "before the file": {"a": entry(data_offsets=[-8, 9_992])},
    "behind the file": {"a": entry(shape=[2502], data_offsets=[0, 10_008])},
    "far behind the file": {"a": entry(data_offsets=[10**30, 10**30 + 10_000])},
    "backwards": {"a": entry(data_offsets=[10_000, 0])},
    "one offset": {"a": entry(data_offsets=[0])},
    "three offsets": {"a": entry(data_offsets=[0, 5_000, 10_000])},
    "offsets as text": {"a": entry(data_offsets="09")},
    "offsets of floats": {"a": entry(shape=[1250], data_offsets=[0.0, 5e3]), "b": halves()["b"]},
    "offsets that are no numbers": {"a": entry(data_offsets=[float("nan"), float("nan")])},
    "an overlap": halves(shape=[1251], data_offsets=[4_996, 10_000]),
    "the same bytes twice": halves(data_offsets=[0, 5_000]),
    "the same bytes again and again": {str(i): entry() for i in range(64)},
    "a gap": halves(shape=[1249], data_offsets=[5_004, 10_000]),
    "bytes left over": halves(shape=[1249], data_offsets=[5_000, 9_996]),
    "offsets of two kinds": halves(data_offsets=["5000", "10000"]),
}  # fmt: skip


def test_tables_that_fill_the_file_are_read() -> None:
    for table in ({"a": entry()}, halves(), halves(dtype="U8", shape=[50, 100])):
        arrays = decode(with_table(table), SCHEMA).arrays
        assert b"".join(array.tobytes() for array in arrays.values()) == BODY


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_tables_that_cannot_be(table: dict[str, Any]) -> None:
    with pytest.raises(CorruptFile):
        decode(with_table(table), SCHEMA)


def test_errors_do_not_repeat_what_a_file_says() -> None:
    bell = {"\a" * 9_999: entry(shape=[3] * 9_999), "\a": entry(dtype="\a" * 9_999)}
    for data in (with_table(bell), DATA.replace(b"toy/1", b"\a" * 5)):
        with pytest.raises(CorruptFile) as caught:
            decode(stamped(data), SCHEMA)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 200


# --- specs ---------------------------------------------------------------------------------------

ROWS = AtMost(5, "rows")
SPECS = {
    "rows": ArraySpec("f4", (ROWS, 3)),
    "index": ArraySpec("i8", (ROWS,), range(-1, 4)),
    "further": ArraySpec("u1", (2,), required=False),
}


def arrays_with(**changes: Any) -> dict[str, Any]:
    good = {"rows": np.zeros((4, 3), np.float32), "index": np.asarray([-1, 0, 2, 3])}
    return {name: np.asarray(array) for name, array in {**good, **changes}.items()}


def test_arrays_that_conform_are_selected() -> None:
    assert conforming(arrays_with(other=[1, 2]), SPECS).keys() == {"rows", "index"}
    assert conforming(arrays_with(further=np.zeros(2, np.uint8)), SPECS).keys() == SPECS.keys()
    nothing = {"rows": np.zeros((0, 3), np.float32), "index": np.zeros(0, np.int64)}
    assert conforming(arrays_with(**nothing), SPECS)["index"].shape == (0,)


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": np.zeros((4, 3))},
        {"rows": np.zeros((4, 2), np.float32)},
        {"rows": np.zeros(12, np.float32)},
        {"rows": np.zeros((6, 3), np.float32)},
        {"rows": np.zeros((3, 3), np.float32)},
        {"index": np.asarray([0, 1, 2, 4])},
        {"index": np.asarray([0, 1, 2, -2])},
        {"index": np.asarray([0, 1, 2, -(2**63)])},
        {"further": np.zeros(3, np.uint8)},
    ],
    ids=str,
)
def test_arrays_that_do_not_conform_are_corrupt(changes: dict[str, Any]) -> None:
    with pytest.raises(CorruptFile, match="array"):
        conforming(arrays_with(**changes), SPECS)


def test_a_missing_array_is_corrupt() -> None:
    with pytest.raises(CorruptFile, match="no array 'index'"):
        conforming({name: a for name, a in arrays_with().items() if name != "index"}, SPECS)


def test_the_largest_file_has_the_largest_arrays() -> None:
    largest = {n: np.zeros(s.largest_shape, s.dtype) for n, s in SPECS.items()}
    size = sum(array.nbytes for array in largest.values())
    assert size == 5 * 3 * 4 + 5 * 8 + 2
    assert largest_file(SPECS.values()) - largest_file([]) == size
    assert len(encode(SCHEMA, {"long": "x" * (HEADER_BYTES - 400)}, largest)) < largest_file(
        SPECS.values()
    )
