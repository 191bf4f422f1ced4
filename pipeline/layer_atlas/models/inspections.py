"""Inspections of networks: what an answer depends on, and the cache that keeps it.

An answer is kept under the network's identity and everything else that it may depend on: the
versions and the device, the code of this package, the files that the network's classes come from,
and what its modules consist of besides weights (their modes and attributes). Beside all that it is
kept under what the network has just computed: a network that computes anything else, for whatever
reason, is inspected anew.

The question holds all of that, so that an answer is right or not found. It lies in the user's cache
folder, in a file of its own that appears whole or not at all. The cache decides nothing but time:
any file of it may be deleted, and one that is damaged or was written by somebody else counts as
none.
"""

import contextlib
import hashlib
import logging
import os
import platform
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import layer_atlas
from layer_atlas.config.records import build, digest, plain
from layer_atlas.errors import StorageError, UserError
from layer_atlas.models.activations import main_tensor, match_layers
from layer_atlas.models.containment import attached, contained, restored
from layer_atlas.models.digests import is_identified, loaded_files, structure_digest
from layer_atlas.models.load import Network
from layer_atlas.plan.environment import environment_here
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.store.files import read_object, write_json

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "LAYER_ATLAS_CACHE"
"""The folder of the cache; empty for none."""

SCHEMA = "layer-atlas-inspection/1"

_MOST_FILES = 1000
"""Answers that are kept; the oldest make way."""

T = TypeVar("T")


@dataclass(frozen=True)
class InspectedModel:
    """A loaded network and what one forward pass shows of it."""

    network: Network
    image_size: tuple[int, int]
    """Height and width of the images."""
    layers: list[LayerInfo]
    """Every layer that has channels."""
    behaviour: str | None = None
    """Digest of what all modules return for an image; `None` where nothing is to be kept."""

    def choose(self, patterns: tuple[str, ...]) -> list[LayerInfo]:
        """The layers that the patterns match; raises UserError."""
        return match_layers(patterns, self.layers, self.network.module, self.network.label)


class Inspection:
    """A question about a network on a device, and its answer from the cache.

    Args:
        network: the loaded network.
        device: where it is inspected.
        question: whatever else the answer depends on, as plain data; `None` if no answer is kept.
    """

    def __init__(
        self, network: Network, device: torch.device, question: Mapping[str, Any] | None
    ) -> None:
        self.network, self.device, self.question = network, device, question

    def recall(self, kind: type[T]) -> T | None:
        """Return the kept answer, a record of class `kind`; `None` if there is none."""
        return None if self._whole is None else recall(self._whole, kind)

    def keep(self, answer: Any) -> None:
        """Keep a record as the answer."""
        if self._whole is not None:
            keep(self._whole, answer)

    def answered(self, kind: type[T], find: Callable[[], T]) -> T:
        """Return the kept answer, or else find one and keep it."""
        if known := self.recall(kind):
            return known
        found = find()
        self.keep(found)
        return found

    @cached_property
    def _whole(self) -> dict[str, Any] | None:
        """The question with all that every answer about the network depends on."""
        facts = None if self.question is None else _facts(self.network, self.device)
        return facts and {**facts, **(self.question or {})}


def may_be_kept(network: Network) -> bool:
    """Return whether answers about a network may be kept, as far as can be seen at once."""
    return not network.is_in_memory and cache_folder() is not None


def _facts(network: Network, device: torch.device) -> dict[str, Any] | None:
    """Return what every answer about a network depends on; `None` if that is not fully known."""
    if not may_be_kept(network):
        return None
    structure = structure_digest(network.module)
    if structure is None or not is_identified(network.module):
        return None
    return {
        "package": _package_digest(),
        "python": platform.python_version(),
        "environment": plain(environment_here(str(device), [network.source])),
        "network": plain(network.identity),
        "stored_as": network.stored_as,
        "missing": list(network.missing),
        "structure": structure,
        "files": loaded_files(network.module),
    }


@cache
def _package_digest() -> str:
    """Compute a digest of this package's own code, whose checks may be others tomorrow."""
    folder = Path(layer_atlas.__file__).parent
    files = sorted(folder.rglob("*.py"))
    return digest([(str(f.relative_to(folder)), _sha256(f.read_bytes())) for f in files])


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def behaviour_of(network: nn.Module, example: Tensor) -> str | None:
    """Compute a digest of what every module returns for an image, in the order of the calls.

    Args:
        network: a network in eval mode; it is restored afterwards.
        example: normalized input (1, C, H, W).
    Returns: the digest; `None` if the network does not run on the image.
    """
    calls: list[tuple[str, list[int], str, bool]] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> None:
            tensor = main_tensor(output)
            if tensor is not None:
                numbers = tensor.detach()
                numbers = numbers.abs() if numbers.is_complex() else numbers.float()
                # As text: the norm may be infinite.
                norm = repr(float(numbers.norm()))
                calls.append((name, list(tensor.shape), norm, tensor.requires_grad))

        return hook

    hooks = (m.register_forward_hook(note(name)) for name, m in network.named_modules())
    try:
        with restored(network), contained(seed=0), attached(hooks), torch.enable_grad():
            # With a gradient requested, as for optimization; the second clone is no leaf, because a
            # network may write to its input.
            network(example.clone().requires_grad_().clone())
    except Exception:  # noqa: BLE001 - whoever inspects it meets the error, and reports it
        return None
    return digest(calls)


# --- the cache -----------------------------------------------------------------------------------


def cache_folder() -> Path | None:
    """The folder of the cache, by the conventions of the platform; `None` for no cache."""
    chosen = os.environ.get(CACHE_VARIABLE)
    try:
        if chosen is not None:
            return Path(chosen).expanduser() if chosen.strip() else None
        return _users_folder() / "layer-atlas"
    except RuntimeError:  # a user without a home
        return None


def _users_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    chosen = Path(os.environ.get("XDG_CACHE_HOME") or ".")
    # The convention has it that relative paths are ignored.
    return chosen if chosen.is_absolute() else Path.home() / ".cache"


def recall(question: Mapping[str, Any], kind: type[T]) -> T | None:
    """Return the kept answer to a question, a record of class `kind`; `None` if there is none."""
    folder = cache_folder()
    if folder is None:
        return None
    key = digest(question)
    try:
        values = read_object(_file(folder, key))
        if (values["schema"], values["question"]) != (SCHEMA, key):
            raise ValueError("it answers something else")
        if values["sha256"] != digest(values["answer"]):
            raise ValueError("it is damaged")
        answer = build(kind, values["answer"])
    except FileNotFoundError:
        return None
    # Whoever wrote it: what is no answer is found out again, and replaced.
    except (OSError, ValueError, LookupError, TypeError, RecursionError, UserError) as error:
        logger.debug("kept answer %s is not used: %s", key[:8], error)
        return None
    logger.debug("kept answer %s is used: %s", key[:8], kind.__name__)
    return answer


def keep(question: Mapping[str, Any], answer: Any) -> None:
    """Keep a record as the answer to a question, if the folder can be written."""
    folder = cache_folder()
    if folder is None or not _comes_back(answer):
        return
    key, values = digest(question), plain(answer)
    entry = {"schema": SCHEMA, "question": key, "sha256": digest(values), "answer": values}
    try:
        write_json(_file(folder, key), entry)
    except StorageError as error:
        logger.debug("an answer is not kept: %s", error)
        return
    _remove_oldest(_file(folder, key).parent)


def _comes_back(answer: Any) -> bool:
    """Whether a record is the same once it was written and read."""
    try:
        return bool(build(type(answer), plain(answer)) == answer)
    except UserError:  # such as a number out of bounds
        return False


def _file(folder: Path, key: str) -> Path:
    return folder / "inspections" / f"{key}.json"


def _remove_oldest(folder: Path) -> None:
    # Other processes may remove the same files. A killed one leaves a temporary file.
    with contextlib.suppress(OSError):
        files = list(folder.iterdir())
        if len(files) > _MOST_FILES:
            files.sort(key=lambda path: path.stat().st_mtime)
            for path in files[:-_MOST_FILES]:
                path.unlink(missing_ok=True)
