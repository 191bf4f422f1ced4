"""Mutations of a file's bytes, as disks, networks and people make them."""

import copy
import json
import random
from collections.abc import Callable
from typing import Any

from layer_atlas.store.files import stamped

PAGE = 512

Mutation = Callable[[bytearray, random.Random], object]


def _flip(data: bytearray, draw: random.Random) -> None:
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _overwrite(data: bytearray, draw: random.Random) -> None:
    start, n = draw.randrange(len(data)), draw.choice([1, 2, 4, 8, 64])
    kinds = (bytes(n), b"\xff" * n, draw.randbytes(n), (2 ** draw.randrange(64)).to_bytes(8))
    chosen = draw.choice(kinds)[:n]
    data[start : start + len(chosen)] = chosen[: len(data) - start]


def _truncate(data: bytearray, draw: random.Random) -> None:
    del data[draw.randrange(len(data)) :]


def _insert(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(data) + 1)
    data[start:start] = draw.randbytes(draw.choice([1, 8, 100, PAGE]))


def _delete(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(data))
    del data[start : start + draw.choice([1, 8, 100, PAGE])]


def _swap(data: bytearray, draw: random.Random) -> None:
    n = draw.choice([1, 16, 100, PAGE])
    a, b = sorted(draw.randrange(max(1, len(data) - n)) for _ in range(2))
    first, second = data[a : a + n], data[b : b + n]
    data[a : a + n], data[b : b + n] = second, first


def _duplicate(data: bytearray, draw: random.Random) -> None:
    start, n = draw.randrange(len(data)), draw.choice([16, 100, PAGE])
    data[start:start] = data[start : start + n]


def _copy(data: bytearray, draw: random.Random) -> None:
    n = draw.choice([8, 64, PAGE])
    source, target = (draw.randrange(max(1, len(data) - n)) for _ in range(2))
    data[target : target + n] = data[source : source + n]


def _blank(data: bytearray, draw: random.Random) -> None:
    start = draw.randrange(len(data)) // PAGE * PAGE
    data[start : start + PAGE] = bytes(len(data[start : start + PAGE]))


def _append(data: bytearray, draw: random.Random) -> None:
    data += draw.choice([bytes(data), bytes(PAGE), b"\n", draw.randbytes(9)])


BYTES: dict[str, Mutation] = {
    function.__name__.strip("_"): function
    for function in (
        *(_flip, _overwrite, _truncate, _insert, _delete),
        *(_swap, _duplicate, _copy, _blank, _append),
    )
}
"""What can happen to the bytes of a file."""


def mutated(data: bytes, draw: random.Random, kind: str | None = None) -> bytes:
    """Other bytes than these, by one to four mutations of a kind or of any."""
    changed = bytearray(data)
    while bytes(changed) == data:
        for _ in range(draw.choice([1, 1, 1, 2, 4])):
            BYTES[kind or draw.choice(sorted(BYTES))](changed, draw)
            if not changed:
                break
    return bytes(changed)


# --- by somebody who makes the digest right -------------------------------------------------------

HOSTILE: tuple[Any, ...] = (
    *(-1, 0, 1, 2, 2**31, 2**62, 2**63, 2**64, 10**30, 1e308, 0.5, True, None, "", "..", "\0"),
    *("BOOL", "F32", "U8", [], [[]], [[[]]], {}, {"": 0}, [0], [-1], [2**63], float("nan")),
)
"""What numbers, texts and lists of a header can be replaced with."""


def resealed(data: bytes, draw: random.Random) -> bytes:
    """A mutated file whose digest is right: mutated in its bytes, or in what its header says."""
    if draw.random() < 0.5:
        changed = mutated(data, draw)
        return stamped(changed) if changed[8:35] == data[8:35] else changed
    return _with_other_header(data, draw)


def _with_other_header(data: bytes, draw: random.Random) -> bytes:
    """The file with other values in its record or in its table of arrays."""
    end = 8 + int.from_bytes(data[:8], "little")
    table = json.loads(data[8:end])
    metadata = table.pop("__metadata__")
    record = json.loads(metadata["record"])
    values = draw.choice([record, table])
    for _ in range(draw.choice([1, 1, 2, 3])):
        _change_one(values, draw)
    metadata["record"] = json.dumps(record)
    header = json.dumps({"__metadata__": metadata, **table}, separators=(",", ":")).encode()
    return stamped(len(header).to_bytes(8, "little") + header + data[end:])


def _change_one(values: Any, draw: random.Random) -> None:
    """Replace a value somewhere within lists and objects; or leave it out, or repeat it."""
    keys = list(values) if isinstance(values, dict) else list(range(len(values)))
    if not keys:
        return
    key = draw.choice(keys)
    inner = values[key]
    if isinstance(inner, dict | list) and inner and draw.random() < 0.8:
        _change_one(inner, draw)
    elif draw.random() < 0.1:
        del values[key]
    elif isinstance(inner, int) and draw.random() < 0.4:
        values[key] = inner + draw.choice([-1, 1, 8, 1000, -1000])
    else:
        values[key] = copy.deepcopy(draw.choice(HOSTILE))
