"""Weights: state dicts from local files, read as data and never as code, and their digest."""

import hashlib
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import UserError

_MOST_UNPACKED = 2**32
"""Bytes of numbers in a packed file."""

_MOST_REPEATED = 2**28
"""Bytes of a tensor of which the file holds fewer numbers than it has."""

_OTHER_KINDS: dict[str, Callable[[Tensor], bool]] = {
    "sparse": lambda tensor: tensor.layout is not torch.strided,
    "without numbers (meta)": lambda tensor: tensor.device.type != "cpu",
    "quantized": lambda tensor: tensor.is_quantized,
    "larger than what the file holds of it": lambda tensor: (
        tensor.nbytes > max(tensor.untyped_storage().nbytes(), _MOST_REPEATED)
    ),
}


def is_weights_file(weights: str) -> bool:
    """Whether a `weights` setting names a file rather than a published set."""
    return Path(weights).suffix in (".safetensors", ".pth", ".pt") or os.sep in weights


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Read a state dict as data: never runs code from the file.

    Raises:
        UserError: no such file, not a weights file, or one that holds code.
    """
    expected = "a .safetensors file or a state dict saved by torch.save"
    return _unwrapped(_read(path, _load, expected), path)


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Read the named tensors of a file of numbers; a tensor without a name is called "".

    Raises:
        UserError: no such file, or not a .npy, .npz, .safetensors, .pt or .pth file of numbers.
    """
    of_numpy = path.suffix in (".npy", ".npz")
    expected = "a .npy, .npz, .safetensors or .pt file of numbers"
    loaded = _read(path, _load_numpy if of_numpy else _load, expected)
    if of_numpy or isinstance(loaded, Tensor):
        return _checked(loaded if of_numpy else {"": loaded}, path)
    return _unwrapped(loaded, path)


def _read(path: Path, load: Callable[[Path], Any], expected: str) -> Any:
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is odd in it, which is told below
            return load(path)
    except UserError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UserError(
            f"{str(path)!r} is not a readable file ({reason}). Expected {expected}."
        ) from error


def _load(path: Path) -> Any:
    return _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)


def _load_numpy(path: Path) -> dict[str, Tensor]:
    _check_packed(path, _MOST_UNPACKED)
    loaded = np.load(path, allow_pickle=False)
    named = dict(loaded) if path.suffix == ".npz" else {"": loaded}
    return {name: torch.from_numpy(array) for name, array in named.items()}


def _check_packed(path: Path, most: int) -> None:
    """Make sure that what is packed in a file is no more than so many bytes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            size = sum(part.file_size for part in packed.infolist())
        if size > most:
            raise ValueError(f"it would unpack to {size} bytes")


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"weights file {str(path)!r} is a folder; name a file in it.")
    if path.exists() and not path.is_file():
        raise UserError(f"weights file {str(path)!r} is a pipe or a device; name a file.")
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*") if p.suffix == path.suffix)
        hint = f" Beside it: {', '.join(near[:8])}." if near else ""
        raise UserError(f"weights file {str(path)!r} does not exist.{hint}")


def _load_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _load_torch(path: Path) -> Any:
    _check_packed(path, path.stat().st_size)  # torch.save packs nothing
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{str(path)!r} holds Python objects or code besides tensors, or is no weights file at "
            "all; it was not executed. Save it anew with torch.save(model.state_dict(), path)."
        ) from error
    except (EOFError, struct.error) as error:
        raise UserError(f"{str(path)!r} is cut short or is no weights file.") from error


def _unwrapped(loaded: Any, path: Path) -> Mapping[str, Tensor]:
    """The state dict inside the wrappings that training code puts around it."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise UserError(f"{str(path)!r} holds a {type(loaded).__name__}, not a state dict.")
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
    if not tensors:
        raise UserError(f"{str(path)!r} holds no tensors.")
    return {key.removeprefix("module."): value for key, value in _checked(tensors, path).items()}


def _checked(tensors: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Tensors of plain numbers that are really there; raises UserError."""
    for name, tensor in tensors.items():
        kind = next((told for told, of in _OTHER_KINDS.items() if of(tensor)), None)
        if kind is not None:
            raise UserError(
                f"{str(path)!r}: tensor {name!r} is {kind}; save it as a tensor of plain numbers."
            )
    return tensors


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], weights: str, label: str
) -> tuple[str, ...]:
    """Copy a state dict into the network; mark what it lacks with NaN and return those names.

    Raises:
        UserError: no tensor of the file belongs to the network, or one has another shape.
    """
    own = module.state_dict()
    state = {name: tensor for name, tensor in state.items() if name in own}
    if not state:
        raise UserError(
            f"weights {weights!r} do not fit model {label!r}: no tensor of the file has a name of "
            f"this network ({next(iter(own), 'no tensors')}, ...). Is it for another network?"
        )
    for name, tensor in state.items():
        if _fit(tensor) != _fit(own[name]):
            raise UserError(
                f"weights {weights!r} do not fit model {label!r}: {name} is "
                f"{_fit(tensor)} in the file and {_fit(own[name])} in the network."
            )
    missing = [name for name in own if name not in state and own[name].is_floating_point()]
    for name in missing:
        own[name].fill_(float("nan"))
    module.load_state_dict(state, strict=False)
    return tuple(missing)


def _fit(tensor: Tensor) -> str:
    """What of a tensor must be the same in file and network."""
    return f"{list(tensor.shape)}{' of complex numbers' if tensor.is_complex() else ''}"


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors of the network."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()
