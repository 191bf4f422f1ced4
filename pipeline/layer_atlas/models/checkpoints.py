"""Checkpoints: the tensors in files of any trainer, read as data and never as code.

Pickles are read as records of calls that are not made (`pickles`), among which tensors are
recognised. So hyperparameters, configs and whole modules beside the tensors do no harm, whether
their classes are installed or not.

A file becomes one flat mapping. `state["model"]["conv.weight"]` is called `model.conv.weight`; its
container is `model`. Tensors are read only when they are wanted: a checkpoint may hold three times
as many as the network has.
"""

import io
import json
import mmap
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from layer_atlas.errors import UnusableFile, kind_and_reason
from layer_atlas.models.pickles import Foreign, Hostile, Storage, as_bytes, outline, walk

T = TypeVar("T")

REAL, COMPLEX, ODD = "real", "complex", "odd"
"""Kinds of tensors."""

EXPECTED = "a .safetensors file or a state dict saved by torch.save"


@dataclass(frozen=True)
class TensorRef:
    """A tensor of a file that is not read yet."""

    shape: tuple[int, ...]
    kind: str
    """Kind of its numbers: real, complex, or odd if it is no plain array of numbers."""
    read: Callable[[], Tensor]
    container: str = ""
    """Dotted path of the mapping or object that holds it."""


@dataclass(frozen=True)
class Checkpoint:
    """The tensors of a file by their dotted names."""

    path: str
    tensors: Mapping[str, TensorRef]
    root: str = "mapping"
    """Kind of the outermost object, for messages."""

    def read(self, name: str) -> Tensor:
        """Read a tensor; raises UnusableFile if the file is damaged there."""
        return explained(Path(self.path), self.tensors[name].read, EXPECTED)


def in_memory(tensors: Mapping[str, Tensor], path: str = "") -> Checkpoint:
    """Make a checkpoint of tensors in memory."""
    return Checkpoint(path, {name: _ref(tensor) for name, tensor in tensors.items()})


def read_checkpoint(path: Path, expected: str = EXPECTED) -> Checkpoint:
    """Read the names and shapes of the tensors in a file, without running code from it.

    Raises:
        UnusableFile: not a weights file, truncated, or one that calls functions of the system.
    """
    return explained(path, lambda: _checkpoint(path), expected)


def explained(path: Path, do: Callable[[], T], expected: str) -> T:
    """Do something with a file; whatever fails becomes one message with its path."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # problems that matter are raised
            return do()
    except UnusableFile:
        raise
    except pickle.UnpicklingError as error:
        raise UnusableFile(f"{str(path)!r} is not a weights file. Expected {expected}.") from error
    except (EOFError, struct.error) as error:
        raise UnusableFile(
            f"{str(path)!r} is cut short or is no weights file. Expected {expected}."
        ) from error
    except Exception as error:
        raise UnusableFile(
            f"{str(path)!r} is not a readable file ({kind_and_reason(error)}). Expected {expected}."
        ) from error


def _ref(tensor: Tensor) -> TensorRef:
    kind = _kind_of(tensor.dtype) if is_plain(tensor) else ODD
    return TensorRef(tuple(tensor.shape), kind, lambda: tensor)


def _kind_of(dtype: torch.dtype) -> str:
    return COMPLEX if dtype.is_complex else REAL


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is an array of values: not sparse, quantised or on no device."""
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta


# --- kinds of files ------------------------------------------------------------------------------

_OTHER_KINDS = (
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file; run `git lfs pull`"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes it; convert it to a state dict of PyTorch"),
    (b"GGUF", "is a GGUF file; give the weights that it was converted from"),
    (b"\x1f\x8b", "is compressed by gzip; unpack it first"),
    (b"<!DOCTYPE", "is a web page, perhaps of a login; download the file again"),
    (b"<html", "is a web page, perhaps of a login; download the file again"),
)
"""First bytes of files that are mistaken for weights, and the remedy."""


def _checkpoint(path: Path) -> Checkpoint:
    """Read a file as what its first bytes say that it is."""
    with open(path, "rb") as file:
        head = file.read(64)
    for magic, what in _OTHER_KINDS:
        if head.startswith(magic):
            raise UnusableFile(f"{str(path)!r} {what}.")
    if path.suffix == ".json":
        return _from_index(path)
    # saev writes a line of JSON in front of what torch.save writes; zip files begin at their end.
    packed = head.startswith(b"PK") or (head.startswith(b"{") and zipfile.is_zipfile(path))
    if path.suffix == ".safetensors" or (head[8:10] == b'{"' and not packed):
        return Checkpoint(str(path), _from_safetensors(path))
    if not head:
        raise EOFError
    if packed:
        root, storages = _open_zip(path)
    else:
        root, storages = _open_pickles(path)
    tensors = dict(_named(root, _Tensors(storages)))
    return Checkpoint(str(path), tensors, _kind(root, tensors))


def _kind(root: Any, tensors: Mapping[str, TensorRef]) -> str:
    if "" in tensors:
        return "Tensor"
    if isinstance(root, Foreign):
        return root.path.rpartition(".")[2]
    return "mapping" if isinstance(root, dict) else type(root).__name__


def _from_index(path: Path) -> Checkpoint:
    """Read the parts of a file that an index lists, as transformers and accelerate write them."""
    index = json.loads(path.read_text(encoding="utf-8"))
    parts = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(parts, dict):
        raise UnusableFile(
            f"{str(path)!r} is no index of weights; name the .safetensors or .bin file itself."
        )
    tensors: dict[str, TensorRef] = {}
    for part in sorted({str(part) for part in parts.values()}):
        # An index names files beside it, and nothing elsewhere.
        if Path(part).name != part or part.endswith(".json"):
            raise UnusableFile(f"{str(path)!r} names {part!r}, which is no file beside it.")
        if not (path.parent / part).is_file():
            raise UnusableFile(f"{str(path)!r} needs {part!r} beside it, which is missing.")
        tensors |= _checkpoint(path.parent / part).tensors
    return Checkpoint(str(path), tensors)


def _from_safetensors(path: Path) -> dict[str, TensorRef]:
    from safetensors import safe_open

    file: Any = safe_open(path, "pt")  # stays open for as long as a reference has it

    def ref(name: str) -> TensorRef:
        part = file.get_slice(name)
        kind = COMPLEX if part.get_dtype().startswith("C") else REAL
        return TensorRef(tuple(part.get_shape()), kind, lambda: file.get_tensor(name))

    return {name: ref(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping


def check_packed(path: Path, most: int) -> None:
    """Check that the unpacked contents of a zip file stay within a number of bytes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            # The directory gives the sizes without unpacking, which guards against zip bombs.
            size = sum(part.file_size for part in packed.infolist())
        if size > most:
            raise ValueError(f"it would unpack to {size} bytes")


Storages = Callable[[str], bytes]
"""Returns the bytes of a storage by its key."""


def _open_zip(path: Path) -> tuple[Any, Storages]:
    """Open what torch.save writes since 1.6: a zip file with a pickle and a file per storage."""
    packed = zipfile.ZipFile(path)
    names = packed.namelist()
    pickles = [name for name in names if name.count("/") == 1 and name.endswith("/data.pkl")]
    if any(name.endswith("/constants.pkl") for name in names):
        raise UnusableFile(
            f"{str(path)!r} is a TorchScript file, a program with its weights. Save the weights "
            f"alone: torch.save(torch.jit.load({path.name!r}).state_dict(), 'weights.pth')."
        )
    if not pickles:
        exported = any("exported_program" in name or "archive_format" in name for name in names)
        what = "an exported program" if exported else "a zip file without a state dict"
        raise UnusableFile(
            f"{str(path)!r} is {what}. Save the weights with torch.save(model.state_dict(), path)."
        )
    check_packed(path, path.stat().st_size)  # torch.save does not compress
    root = pickles[0].removesuffix("data.pkl")
    if f"{root}byteorder" in names and packed.read(f"{root}byteorder") != b"little":
        raise UnusableFile(f"{str(path)!r} is of a big-endian machine; save it on another.")
    found = _outline(path, io.BytesIO(packed.read(pickles[0])))
    return found, lambda key: packed.read(f"{root}data/{key}")


_MAGIC = 0x1950A86A20F9469CFC6C
"""Number at the beginning of what torch.save wrote before 1.6."""


def _open_pickles(path: Path) -> tuple[Any, Storages]:
    """Open a plain pickle, or the pickles in a row that torch.save wrote before 1.6."""
    # A map, because reads from it end with the file, whatever size a pickle asks for.
    with open(path, "rb") as file:
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _in_a_row(path, data)


def _in_a_row(path: Path, data: Any) -> tuple[Any, Storages]:
    first = _outline(path, data)
    if first != _MAGIC:
        return first, _no_storages
    _outline(path, data), _outline(path, data)  # protocol and machine
    root, keys = _outline(path, data), _outline(path, data)
    sizes = dict(_storage_sizes(root))
    places: dict[str, tuple[int, int]] = {}
    position = data.tell()
    for key in map(str, keys):
        data.seek(position)
        (count,) = struct.unpack("<q", data.read(8))
        length = count * sizes.get(key, 1)
        places[key] = (position + 8, length)
        position += 8 + length
        data.seek(0, io.SEEK_END)
        if count < 0 or position > data.tell():
            raise EOFError

    def read(key: str) -> bytes:
        start, length = places[key]
        data.seek(start)
        return bytes(data.read(length))

    return root, read


def _no_storages(key: str) -> bytes:
    raise KeyError(key)


def _outline(path: Path, file: Any) -> Any:
    try:
        return outline(file)
    except Hostile as error:
        raise UnusableFile(
            f"{str(path)!r} holds code besides tensors: it calls {error} when it is unpickled. It "
            "was not executed; do not open the file with pickle. Get the weights elsewhere, as "
            "saved by torch.save(model.state_dict(), path)."
        ) from None


# --- tensors -------------------------------------------------------------------------------------

_STORAGE_TYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexDouble": torch.complex128,
    "ComplexFloat": torch.complex64,
    "Untyped": torch.uint8,
}


_DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}


def _storage_type(storage: Any) -> torch.dtype | None:
    named = getattr(storage.args[0][1], "path", "") if isinstance(storage, Storage) else ""
    return _STORAGE_TYPES.get(named.rpartition(".")[2].removesuffix("Storage"))


def _storage_sizes(root: Any) -> Iterator[tuple[str, int]]:
    """Yield the keys of all storages with the bytes of one element; old files give counts alone."""
    for value, _ in walk(root, lambda value: isinstance(value, Storage), whole=True):
        dtype = _storage_type(value)
        named = getattr(value.args[0][1], "path", "")
        odd = {"QInt32Storage": 4}.get(named.rpartition(".")[2], 1)
        yield str(value.args[0][2]), dtype.itemsize if dtype else odd


class _Tensors:
    """Recognises tensors among the records of a pickle."""

    def __init__(self, storages: Storages) -> None:
        # Tensors of one storage mostly follow each other.
        self.storage = lru_cache(maxsize=1)(storages)
        self._pickled: dict[bytes, tuple[Any, Storages]] = {}

    def __call__(self, value: Any) -> TensorRef | None:
        """Return a reference to the tensor that a value stands for; None if it is another thing."""
        if not isinstance(value, Foreign):
            return None
        module, _, name = value.path.rpartition(".")
        if module in ("torch._utils", "torch._tensor"):
            return self._of_torch(name, value.args)
        if module in ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric"):
            return _of_numpy(name, value)
        return _of_numpy(name, value) if module == "numpy._core.numeric" else None

    def _of_torch(self, name: str, args: tuple[Any, ...]) -> TensorRef | None:
        if name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return self(args[0])
        if name == "_rebuild_from_type_v2":  # a subclass of Tensor
            return self._of_torch(args[0].path.rpartition(".")[2], args[2])
        if name in ("_rebuild_tensor", "_rebuild_tensor_v2"):
            return self._plain(args, None)
        if name == "_rebuild_tensor_v3":
            return self._plain(args, _DTYPES.get(_last(args[6])))
        if name == "_rebuild_device_tensor_from_numpy":
            return self(args[0])
        return _odd() if name.startswith("_rebuild") else None

    def _plain(self, args: tuple[Any, ...], dtype: torch.dtype | None) -> TensorRef:
        storage, offset, size, stride = args[:4]
        numbers, stored = self._numbers(storage)
        kind = dtype or stored
        if kind is None:
            return _odd()

        def read() -> Tensor:
            data = bytearray(numbers())
            flat = torch.frombuffer(data, dtype=kind) if data else torch.empty(0, dtype=kind)
            # Raises where the numbers would lie beyond the storage.
            return flat.as_strided(size, stride, offset)

        return TensorRef(_shape(size), _kind_of(kind), read)

    def _numbers(self, storage: Any) -> tuple[Callable[[], bytes], torch.dtype | None]:
        """Return how to read a storage, and the type of its numbers."""
        find: Storages = self.storage
        if isinstance(storage, Foreign) and storage.path == "torch.storage._load_from_bytes":
            # A tensor in a plain pickle holds its storage as torch.save wrote it.
            data = storage.args[0]
            if data not in self._pickled:
                self._pickled[data] = _in_a_row(Path("its storage"), io.BytesIO(as_bytes(data)))
            storage, find = self._pickled[data]
        if not isinstance(storage, Storage):
            return bytes, None
        key = str(storage.args[0][2])
        return lambda: find(key), _storage_type(storage)


def _last(value: Any) -> str:
    return str(getattr(value, "path", "")).rpartition(".")[2]


def _shape(size: Any) -> tuple[int, ...]:
    if not isinstance(size, tuple) or not all(type(side) is int and side >= 0 for side in size):
        raise ValueError("a tensor without a shape")
    return size


def _odd() -> TensorRef:
    """A tensor that is no plain array: sparse, quantised, nested or without values."""
    return TensorRef((), ODD, lambda: torch.empty(0, device="meta"))


_NUMPY_TYPE = re.compile(r"[<>|=]?(f2|f4|f8|i1|i2|i4|i8|u1|b1|c8|c16)")


def _of_numpy(name: str, value: Foreign) -> TensorRef | None:
    """Return a reference to an array of numpy's."""
    if name == "_reconstruct" and isinstance(value.state, tuple) and len(value.state) == 5:
        _, shape, kind, by_columns, data = value.state
        order = "F" if by_columns else "C"
    elif name == "_frombuffer" and len(value.args) == 4:
        data, kind, shape, order = value.args
    else:
        return None
    shape = shape if isinstance(shape, tuple) else (shape,)
    dtype = _numpy_type(kind)
    if dtype is None or isinstance(data, list):
        return _odd()

    def read() -> Tensor:
        array = np.frombuffer(as_bytes(data), dtype)
        array = array.reshape(shape, order="F" if order == "F" else "C")
        return torch.from_numpy(np.array(array, dtype.newbyteorder("=")))

    return TensorRef(_shape(shape), COMPLEX if dtype.kind == "c" else REAL, read)


def _numpy_type(kind: Any) -> "np.dtype[Any] | None":
    if not isinstance(kind, Foreign) or kind.path != "numpy.dtype":
        return None
    code, state = kind.args[0], kind.state
    order = state[1] if isinstance(state, tuple) and state[1:2] in (("<",), (">",)) else ""
    known = isinstance(code, str) and _NUMPY_TYPE.fullmatch(code)
    return np.dtype(order + code.lstrip("<>|=")) if known else None


def _named(root: Any, tensor: Callable[[Any], TensorRef | None]) -> Iterator[tuple[str, TensorRef]]:
    """Yield every tensor with its dotted name."""
    refs: dict[int, TensorRef] = {}

    def is_tensor(value: Any) -> bool:
        ref = tensor(value)
        if ref is not None:
            refs[id(value)] = ref
        return ref is not None

    for value, keys in walk(root, is_tensor):
        yield ".".join(keys), replace(refs[id(value)], container=".".join(keys[:-1]))
