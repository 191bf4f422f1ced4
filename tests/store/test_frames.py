"""Frames: arrays that are not as they must be are told, and are not read."""

from typing import Any

import numpy as np
import pytest

from layer_atlas.store.arrays import Numbers, Stored
from layer_atlas.store.checksummed_file import CorruptFile
from layer_atlas.store.frames import Frame, UpTo, fitting, most_bytes, read_arrays

ROWS = UpTo(5, "rows")
FRAMES = {
    "rows": Frame("f4", (ROWS, 3)),
    "index": Frame("i8", (ROWS,), range(-1, 4)),
    "further": Frame("u1", (2,), needed=False),
}


def stored(array: Any) -> Stored:
    values = np.asarray(array)
    return Numbers(values.dtype.str, values.shape, 0, memoryview(values.tobytes()))


def arrays(**changes: Any) -> dict[str, Stored]:
    good = {"rows": np.zeros((4, 3), np.float32), "index": np.asarray([-1, 0, 2, 3])}
    return {name: stored(array) for name, array in {**good, **changes}.items()}


def read(found: dict[str, Stored]) -> dict[str, Any]:
    return read_arrays(fitting(found, FRAMES), FRAMES)


def test_what_fits_is_read_and_what_has_no_frame_is_left() -> None:
    assert read(arrays(other=[1, 2])).keys() == {"rows", "index"}
    assert read(arrays(further=np.zeros(2, np.uint8))).keys() == FRAMES.keys()
    nothing = {"rows": np.zeros((0, 3), np.float32), "index": np.zeros(0, np.int64)}
    assert read(arrays(**nothing))["index"].shape == (0,)


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
def test_what_does_not_fit_is_corrupt(changes: dict[str, Any]) -> None:
    with pytest.raises(CorruptFile, match="array"):
        read(arrays(**changes))


def test_what_is_missing_is_told() -> None:
    with pytest.raises(CorruptFile, match="no array 'index'"):
        read({name: array for name, array in arrays().items() if name != "index"})


def test_packed_and_unpacked_arrays_do_not_pass_for_each_other() -> None:
    frame = Frame("u1", (2, 2), packed=True)
    with pytest.raises(CorruptFile):
        fitting({"a": stored(np.zeros((2, 2), np.uint8))}, {"a": frame})


def test_a_file_may_be_twice_as_long_as_its_arrays() -> None:
    assert most_bytes(FRAMES.values()) - most_bytes([]) == 2 * (5 * 3 * 4 + 5 * 8 + 2)
