"""Weights: state dicts from local files, read as data and never as code, and their digest."""

import hashlib
import os
import pickle
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import UserError


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
    if of_numpy:
        return loaded  # type: ignore[no-any-return]
    return {"": loaded} if isinstance(loaded, Tensor) else _unwrapped(loaded, path)


def _read(path: Path, load: Callable[[Path], Any], expected: str) -> Any:
    _check_file(path)
    try:
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
    loaded = np.load(path, allow_pickle=False)
    named = dict(loaded) if path.suffix == ".npz" else {"": loaded}
    return {name: torch.from_numpy(array) for name, array in named.items()}


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise UserError(f"weights file {str(path)!r} is a folder; name a file in it.")
    if not path.is_file():
        near = sorted(p.name for p in path.parent.glob("*") if p.suffix == path.suffix)
        hint = f" Beside it: {', '.join(near[:8])}." if near else ""
        raise UserError(f"weights file {str(path)!r} does not exist.{hint}")


def _load_safetensors(path: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(path)


def _load_torch(path: Path) -> Any:
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
    return {key.removeprefix("module."): value for key, value in tensors.items()}


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
        if tensor.shape != own[name].shape:
            raise UserError(
                f"weights {weights!r} do not fit model {label!r}: {name} is "
                f"{list(tensor.shape)} in the file and {list(own[name].shape)} in the network."
            )
    missing = [name for name in own if name not in state and own[name].is_floating_point()]
    for name in missing:
        own[name].fill_(float("nan"))
    module.load_state_dict(state, strict=False)
    return tuple(missing)


def weights_digest(module: nn.Module) -> str:
    """SHA-256 over names, types, shapes and bytes of all tensors of the network."""
    sha = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        sha.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()
