"""Shard files: what was committed comes back, and any changed byte is seen."""

import io
import json

import h5py
import numpy as np
import pytest
from toys import make_result, make_series

from pipeline.jobs import STATUS, Shard, ShardResult
from pipeline.sealed_file import CorruptFile
from pipeline.shard_file import check, decode, encode, read_header

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
            decode(bytes(damaged))
        except CorruptFile:
            continue
        unseen.append(position)
    assert unseen == []


def test_every_truncation_and_every_addition_is_seen() -> None:
    lengths = {*range(600), *range(0, len(DATA), len(DATA) // 200), len(DATA) - 1}
    for data in [*(DATA[:length] for length in sorted(lengths)), DATA + b"\0", DATA + DATA]:
        with pytest.raises(CorruptFile):
            decode(data)


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
        b'{"schema":"layer-atlas-shard/1","series":"a","channels":3,"user_block":512}\n',
    ],
    ids=lambda data: repr(data[:24]),
)
def test_files_of_another_kind_are_corrupt_and_nothing_worse(data: bytes) -> None:
    with pytest.raises(CorruptFile):
        decode(data)


def test_digest_copied_over_zeros_is_seen() -> None:
    # The digest is counted with zeros in its own place; those of the content must not pass for it.
    zeros = b"0" * 64
    data = encode(SHARD, ShardResult(RESULT.arrays, {"note": zeros.decode()}))
    start = data.index(b"\n") + len(b"\nsha256 ")
    assert decode(data)[1].facts == {"note": zeros.decode()}
    with pytest.raises(CorruptFile):
        decode(data.replace(zeros, data[start : start + 64]))


def test_two_swapped_stretches_are_seen() -> None:
    a, b, n = 700, len(DATA) - 300, 64
    damaged = bytearray(DATA)
    damaged[a : a + n], damaged[b : b + n] = DATA[b : b + n], DATA[a : a + n]
    assert bytes(damaged) != DATA
    with pytest.raises(CorruptFile):
        decode(bytes(damaged))
