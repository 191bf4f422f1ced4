"""Sealed files: arrays come back, and any changed byte is seen before anything is read."""

import io
from typing import Any

import h5py
import numpy as np
import pytest

from layer_atlas.store.arrays import write_pictures
from layer_atlas.store.checksummed_file import (
    CorruptFile,
    check,
    read_header,
    seal,
    stamped,
    unseal,
)

SCHEMA = "toy/1"
ARRAYS: dict[str, Any] = {
    "numbers": np.arange(7.0),
    "nothing": np.zeros((0, 3), np.float32),
    "one": np.asarray(5, np.int32),
    "pixels": np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8),
}


def sealed(**header: Any) -> bytes:
    def fill(file: h5py.File) -> None:
        for name, array in ARRAYS.items():
            if name == "pixels":
                write_pictures(file, name, array, axes=2)
            else:
                file[name] = array

    return seal({"schema": SCHEMA, **header}, fill)


DATA = sealed(what="a toy")


def test_what_was_sealed_comes_back() -> None:
    read = unseal(DATA, SCHEMA)
    assert read.header["what"] == "a toy"
    arrays = {name: stored.read() for name, stored in read.arrays.items()}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        told = (arrays[name].dtype, arrays[name].shape, arrays[name].tobytes())
        assert told == (array.dtype, array.shape, array.tobytes())


def test_the_same_contents_are_the_same_bytes() -> None:
    assert sealed(what="a toy") == DATA


def test_header_is_read_from_the_first_bytes_alone() -> None:
    header = read_header(DATA[:128], SCHEMA)
    assert header == check(DATA, SCHEMA) == {"schema": SCHEMA, "what": "a toy", "user_block": 1024}


@pytest.mark.parametrize("n", [0, 3000])
def test_any_hdf5_tool_opens_the_file_however_long_its_header_is(n: int) -> None:
    data = sealed(channels=list(range(n)))
    header = read_header(data, SCHEMA)
    assert header["channels"] == list(range(n))
    with h5py.File(io.BytesIO(data)) as file:
        assert file.userblock_size == header["user_block"] == (16384 if n else 1024)
        assert file.attrs["schema"] == SCHEMA
        for name, array in ARRAYS.items():
            assert np.array_equal(file[name], array)


def test_what_was_sealed_can_be_sealed_again() -> None:
    assert stamped(DATA) == DATA
    changed = DATA[:-1] + bytes([DATA[-1] ^ 1])
    assert unseal(stamped(changed), SCHEMA).header == unseal(DATA, SCHEMA).header


def positions() -> list[int]:
    """Every byte of the two header lines, and 300 bytes spread over the rest."""
    header = DATA.index(b"\n", DATA.index(b"\n") + 1) + 1
    spread = np.random.default_rng(0).choice(np.arange(header, len(DATA)), 300, replace=False)
    return [*range(header), *sorted(spread.tolist()), len(DATA) - 1]


@pytest.mark.parametrize("flip", [0x01, 0x20, 0xFF])
def test_every_changed_byte_is_seen(flip: int) -> None:
    unseen = []
    for position in positions():
        damaged = bytearray(DATA)
        damaged[position] ^= flip
        try:
            unseal(bytes(damaged), SCHEMA)
        except CorruptFile:
            continue
        unseen.append(position)
    assert unseen == []


def test_every_truncation_and_every_addition_is_seen() -> None:
    lengths = {*range(600), *range(0, len(DATA), len(DATA) // 200), len(DATA) - 1}
    for data in [*(DATA[:length] for length in sorted(lengths)), DATA + b"\0", DATA + DATA]:
        with pytest.raises(CorruptFile):
            unseal(data, SCHEMA)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"[1]\n",
        b"{}\n",
        b'{"schema": "another/1"}\n',
        b"[" * 100_000 + b"\n",
        b"\xff\xfe\n",
        b"\x89HDF\r\n\x1a\n" + b"\0" * 600,
        b'{"schema":"toy/1"}\n',
    ],
    ids=lambda data: repr(data[:24]),
)
def test_files_of_another_kind_are_corrupt_and_nothing_worse(data: bytes) -> None:
    with pytest.raises(CorruptFile):
        unseal(data, SCHEMA)


def test_a_file_of_another_schema_is_corrupt() -> None:
    with pytest.raises(CorruptFile, match="toy/1"):
        unseal(DATA, "toy/2")


def test_digest_copied_over_zeros_is_seen() -> None:
    # The digest is counted with zeros in its own place; those of the content must not pass for it.
    zeros = b"0" * 64
    data = sealed(what=zeros.decode())
    start = data.index(b"\n") + len(b"\nsha256 ")
    assert unseal(data, SCHEMA).header["what"] == zeros.decode()
    with pytest.raises(CorruptFile):
        unseal(data.replace(zeros, data[start : start + 64]), SCHEMA)


def test_zeros_in_the_header_are_not_taken_for_the_digest() -> None:
    data = sealed(what="0" * 64)
    assert unseal(data, SCHEMA).header["what"] == "0" * 64


def test_two_swapped_stretches_are_seen() -> None:
    a, b, n = 700, len(DATA) - 300, 64
    damaged = bytearray(DATA)
    damaged[a : a + n], damaged[b : b + n] = DATA[b : b + n], DATA[a : a + n]
    assert bytes(damaged) != DATA
    with pytest.raises(CorruptFile):
        unseal(bytes(damaged), SCHEMA)
