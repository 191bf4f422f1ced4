"""Weights from somebody else: never executed, never more memory than the file; one message each."""

import io
import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runs import without_busy

from layer_atlas.cli.commands import main
from layer_atlas.errors import UserError
from layer_atlas.models.checkpoints import in_memory
from layer_atlas.models.weights import load_state, read_tensors, read_weights

pytestmark = [
    pytest.mark.usefixtures("bounded"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


class Payload:
    """What makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.marker}'",)


def torch_saved(value: object, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


# --- code ----------------------------------------------------------------------------------------

PAYLOADS: dict[str, tuple[str, Callable[[Payload], bytes]]] = {
    "a pickle": (".pth", pickle.dumps),
    "a pickle, .pt": (".pt", lambda payload: pickle.dumps({"conv.weight": payload})),
    "a pickle that calls itself safetensors": (".safetensors", pickle.dumps),
    "beside tensors": (".pth", lambda p: torch_saved({"a": torch.zeros(3), "b": p})),
    "beside tensors, as once": (
        ".pth",
        lambda p: torch_saved({"a": p}, _use_new_zipfile_serialization=False),
    ),
    "behind a length": (".safetensors", lambda p: struct.pack("<Q", 200) + pickle.dumps(p)),
    "numpy's objects": (".npy", lambda p: numpy_saved(np.asarray([p], object))),
    "a header of numpy's": (
        ".npy",
        lambda p: numpy_header(f"(__import__('os').system(\"touch '{p.marker}'\"),)"),
    ),
}


def numpy_saved(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def numpy_header(shape: str, dtype: str = "<f4", data: bytes = b"") -> bytes:
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


@pytest.mark.parametrize(("suffix", "make"), PAYLOADS.values(), ids=PAYLOADS)
@pytest.mark.parametrize("read", [read_weights, read_tensors])
def test_code_in_a_file_is_never_executed(
    tmp_path: Path,
    marker: Path,
    suffix: str,
    make: Callable[[Payload], bytes],
    read: Callable[[Path], object],
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(make(Payload(marker)))
    with pytest.raises(UserError) as told:
        read(path)
    assert str(path) in str(told.value)


def test_the_payload_would_be_executed_by_who_trusts_it(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "made")))
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
def test_a_command_tells_a_hostile_checkpoint_in_one_message(
    tmp_path: Path, marker: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(pickle.dumps(Payload(marker)))
    assert main(["layers", f"weights={path}", f"output_root={tmp_path}"]) == 2
    said = capsys.readouterr()
    error = without_busy(said.err)
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert said.out == ""


# --- headers that lie ----------------------------------------------------------------------------


def safetensors(header: object, data: bytes = bytes(8), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], **changes}}


LIES = {
    "a header of 2**60 bytes": safetensors(entry(), length=2**60),
    "a header of 2**64 - 1 bytes": safetensors(entry(), length=2**64 - 1),
    "a header beyond the file": safetensors(entry(), length=2**20),
    "numbers beyond the file": safetensors(entry(shape=[2**38], data_offsets=[0, 2**40])),
    "a shape that overflows": safetensors(entry(shape=[2**40, 2**40])),
    "a negative side": safetensors(entry(shape=[-2])),
    "offsets that fall": safetensors(entry(data_offsets=[8, 0])),
    "tensors of the same bytes": safetensors({**entry(), "b": entry()["a"]}),
    "bytes of no tensor": safetensors(entry(), bytes(16)),
    "an unknown type": safetensors(entry(dtype="OBJ")),
    "deep nesting": safetensors(b"[" * 1_000_000),
    "no JSON": safetensors(b"\xff" * 100),
    "nothing": b"",
    "three bytes": b"\1\2\3",
}


@pytest.mark.parametrize("data", LIES.values(), ids=LIES)
def test_safetensors_files_with_lying_headers_are_told(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    with pytest.raises(UserError, match="is not a readable file"):
        read_weights(path)


def test_odd_names_of_tensors_are_names_and_no_more(tmp_path: Path) -> None:
    names = ["a\0b", "../../x", "/etc/passwd", "\n", "<b>", "x" * 300]
    header = {n: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in names}
    (tmp_path / "odd.safetensors").write_bytes(safetensors(header, b""))
    assert set(read_weights(tmp_path / "odd.safetensors").tensors) == set(names)
    with pytest.raises(UserError, match="no tensor of the file has a name of this network"):
        load_state(torch.nn.Linear(2, 2), in_memory(dict.fromkeys(names, torch.zeros(1))), "m")


# --- tensors that are none -----------------------------------------------------------------------

TENSORS: dict[str, Callable[[], torch.Tensor]] = {
    "sparse": lambda: torch.eye(3).to_sparse(),
    "meta": lambda: torch.zeros(3, 3, device="meta"),
    "quantized": lambda: torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.qint8),
    "repeated": lambda: torch.zeros(1).expand(10**6, 10**6),
    "complex": lambda: torch.zeros(3, 3, dtype=torch.complex64),
}


@pytest.mark.parametrize("make", TENSORS.values(), ids=TENSORS)
def test_tensors_without_plain_numbers_are_told(
    tmp_path: Path, make: Callable[[], torch.Tensor]
) -> None:
    path = tmp_path / "odd.pth"
    torch.save({"weight": make()}, path)
    with pytest.raises(UserError, match="no plain array of real numbers"):
        read_tensors(path)
    with pytest.raises(UserError, match="do not fit model 'm'"):
        load_state(torch.nn.Linear(3, 3), read_weights(path), "m")


# --- what unpacks to more than there is ----------------------------------------------------------


def zipped(parts: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for name, data in parts.items():
            packed.writestr(name, data)
    return buffer.getvalue()


def test_a_checkpoint_that_unpacks_to_a_thousand_times_its_size_is_told(tmp_path: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(torch_saved({"a": torch.zeros(10)}))) as saved:
        parts = {name: saved.read(name) for name in saved.namelist()}
    bomb = {n: bytes(2**24) if n.endswith("data/0") else data for n, data in parts.items()}
    (tmp_path / "bomb.pth").write_bytes(zipped(bomb))
    with pytest.raises(UserError, match="it would unpack to 16"):
        read_weights(tmp_path / "bomb.pth")


def declared(data: bytes, size: int) -> bytes:
    """A zip file that says of its last part that it unpacks to so many bytes."""
    place = data.rindex(b"PK\x01\x02") + 24
    return data[:place] + struct.pack("<I", size) + data[place + 4 :]


NUMBERS = {
    "huge.npy": numpy_header("(1000000000000,)"),
    "overflow.npy": numpy_header("(1099511627776, 1099511627776)"),
    "large.npy": numpy_header("(400000000,)"),
    "negative.npy": numpy_header("(-4,)", data=bytes(16)),
    "objects.npy": numpy_header("(4,)", "|O", bytes(32)),
    "texts.npy": numpy_header("(4,)", "<U8", bytes(128)),
    "huge.npz": zipped({"a.npy": numpy_header("(1000000000000,)")}),
    "up.npz": zipped({"../../a.npy": numpy_header("(400000000,)")}),
    "packed.npz": declared(zipped(dict.fromkeys("ab", numpy_header("(0,)"))), 2**32 - 2),
    "none.npz": b"PK\x03\x04",
}


@pytest.mark.parametrize(("name", "data"), NUMBERS.items(), ids=NUMBERS)
def test_files_of_numbers_that_lie_are_told(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match="is not a readable file"):
        read_tensors(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_pipes_and_devices_are_not_waited_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    (tmp_path / "zero.pth").symlink_to("/dev/zero")
    for name in ("pipe.pth", "zero.pth"):
        assert main(["layers", f"weights={tmp_path / name}", f"output_root={tmp_path}"]) == 2
        assert "is no file but a device or pipe" in capsys.readouterr().err
