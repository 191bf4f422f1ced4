"""What an inspection of a network depends on, so that its answer can be kept.

An answer is kept under the network's identity and everything else that it may depend on: the
versions and the device, the code of this package, the files that the network's classes come from,
and what its modules consist of besides weights (their modes and attributes). Beside all that it is
kept under what the network has just computed: a network that computes anything else, for whatever
reason, is inspected anew.
"""

import hashlib
import platform
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

import layer_atlas
from layer_atlas.config.records import digest, plain
from layer_atlas.models.activations import main_tensor
from layer_atlas.models.code import is_identified, loaded_files
from layer_atlas.models.containment import attached, contained, restored
from layer_atlas.models.load import Network
from layer_atlas.models.structure import structure_digest
from layer_atlas.plan.environment import environment_here
from layer_atlas.store import cache as kept

T = TypeVar("T")


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
        return None if self._whole is None else kept.recall(self._whole, kind)

    def keep(self, answer: Any) -> None:
        """Keep a record as the answer."""
        if self._whole is not None:
            kept.keep(self._whole, answer)

    @cached_property
    def _whole(self) -> dict[str, Any] | None:
        """The question with all that every answer about the network depends on."""
        facts = None if self.question is None else _facts(self.network, self.device)
        return facts and {**facts, **(self.question or {})}


def may_be_kept(network: Network) -> bool:
    """Return whether answers about a network may be kept, as far as can be seen at once."""
    return not network.is_in_memory and kept.cache_folder() is not None


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
