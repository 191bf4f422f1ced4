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

from layer_atlas.errors import UnusableFile

_MOST_UNPACKED = 2**32
"""Largest size in bytes of the unpacked contents of a compressed file."""


def is_weights_file(weights: str) -> bool:
    """Return whether a `weights` setting names a file rather than a published set."""
    return Path(weights).suffix in (".safetensors", ".pth", ".pt") or os.sep in weights


def read_weights(path: Path) -> Mapping[str, Tensor]:
    """Read a state dict as data, without running code from the file.

    Raises:
        UnusableFile: not a weights file, truncated, or one that contains code.
    """
    expected = "a .safetensors file or a state dict saved by torch.save"
    return _unwrapped(_read(path, _load, expected), path)


def read_tensors(path: Path) -> Mapping[str, Tensor]:
    """Read the named tensors of an array file; an unnamed tensor gets the name "".

    Raises:
        UnusableFile: not a .npy, .npz, .safetensors, .pt or .pth file of real numbers.
    """
    of_numpy = path.suffix in (".npy", ".npz")
    expected = "a .npy, .npz, .safetensors or .pt file of numbers"
    loaded = _read(path, _load_numpy if of_numpy else _load, expected)
    if not of_numpy:
        loaded = {"": loaded} if isinstance(loaded, Tensor) else _unwrapped(loaded, path)
    for name, tensor in loaded.items():
        # A zero stride lets a tiny file stand for a tensor of any size.
        repeated = _is_plain(tensor) and tensor.untyped_storage().nbytes() < tensor.nbytes
        if not _is_plain(tensor) or tensor.is_complex() or repeated:
            raise UnusableFile(f"{name or 'what'!r} in {str(path)!r} is {_NOT_PLAIN}.")
    return loaded  # type: ignore[no-any-return]


def _read(path: Path, load: Callable[[Path], Any], expected: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # problems that matter are raised as UnusableFile
            return load(path)
    except UnusableFile:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise UnusableFile(
            f"{str(path)!r} is not a readable file ({reason}). Expected {expected}."
        ) from error


def _load(path: Path) -> Any:
    return _load_safetensors(path) if path.suffix == ".safetensors" else _load_torch(path)


def _load_numpy(path: Path) -> dict[str, Tensor]:
    _check_packed(path, _MOST_UNPACKED)
    loaded = np.load(path, allow_pickle=False)
    named = dict(loaded) if path.suffix == ".npz" else {"": loaded}
    return {name: torch.from_numpy(array) for name, array in named.items()}


def _load_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _check_packed(path: Path, most: int) -> None:
    """Check that the unpacked contents of a zip file stay within a number of bytes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as packed:
            # The directory gives the sizes without unpacking, which guards against zip bombs.
            size = sum(part.file_size for part in packed.infolist())
        if size > most:
            raise ValueError(f"it would unpack to {size} bytes")


def _load_torch(path: Path) -> Any:
    _check_packed(path, path.stat().st_size)  # torch.save does not compress
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnusableFile(
            f"{str(path)!r} holds Python objects or code besides tensors, or is not a weights "
            "file; it was not executed. Save it again with torch.save(model.state_dict(), path)."
        ) from error
    except (EOFError, struct.error) as error:
        raise UnusableFile(f"{str(path)!r} is cut short or is no weights file.") from error


def _unwrapped(loaded: Any, path: Path) -> Mapping[str, Tensor]:
    """Return the state dict inside the wrappers of training code."""
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping):
        raise UnusableFile(f"{str(path)!r} holds a {type(loaded).__name__}, not a state dict.")
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)}
    if not tensors:
        raise UnusableFile(f"{str(path)!r} holds no tensors.")
    # DataParallel prefixes every name with "module.".
    return {key.removeprefix("module."): value for key, value in tensors.items()}


def load_state(
    module: nn.Module, state: Mapping[str, Tensor], weights: str, label: str
) -> tuple[str, ...]:
    """Copy a state dict into the network; fill missing tensors with NaN and return their names.

    Tensors that contain NaN count as missing: nothing that depends on them has a value.

    Raises:
        UnusableFile: no tensor of the file belongs to the network, or one has another shape.
    """
    own = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    state = {name: tensor for name, tensor in state.items() if name in own}
    if not state:
        raise UnusableFile(
            f"weights {weights!r} do not fit model {label!r}: no tensor of the file has a name of "
            f"this network ({next(iter(own), 'no tensors')}, ...). Is it for another network?"
        )
    for name, tensor in state.items():
        misfit = _misfit(tensor, own[name])
        if misfit:
            raise UnusableFile(
                f"weights {weights!r} do not fit model {label!r}: {name} is {misfit}."
            )
    state = {name: tensor for name, tensor in state.items() if not tensor.isnan().any()}
    missing = [name for name in own if name not in state and own[name].is_floating_point()]
    for name in missing:
        own[name].fill_(float("nan"))
    # Not strict: missing names were handled above, and names of other heads are harmless.
    module.load_state_dict(state, strict=False)
    return tuple(missing)


_NOT_PLAIN = "no plain array of real numbers, but sparse, quantised, complex or empty of values"


def _misfit(tensor: Tensor, own: Tensor) -> str | None:
    """Return why a tensor of a file cannot be copied into one of the network, or None."""
    if tensor.shape != own.shape:
        return f"{list(tensor.shape)} in the file and {list(own.shape)} in the network"
    if not _is_plain(tensor) or tensor.is_complex() != own.is_complex():
        return f"{_NOT_PLAIN} in the file"
    return None


def _is_plain(tensor: Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_meta


def weights_digest(module: nn.Module) -> str:
    """Compute the SHA-256 over names, dtypes, shapes and bytes of all tensors of the network."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, Tensor):  # `get_extra_state` may return any object
            sha.update(f"{name} {type(tensor).__name__}\n".encode(errors="surrogatepass"))
            continue
        header = f"{name} {tensor.dtype} {list(tensor.shape)}\n"
        sha.update(header.encode(errors="surrogatepass"))  # names may hold lone surrogates
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()
