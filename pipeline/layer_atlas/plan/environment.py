"""Environments: the versions and the device that images are made with, apart from their recipe.

An environment decides the last bits of an image and is recorded in every shard. It is no part of a
job's key: the same job may be made anywhere. Recorded are

- torch, whose kernels compute everything, with its build (`2.15.0+cu132`);
- the package that the network's code comes from, such as torchvision or timm, if there is one;
- the device: model and instruction set of a CPU, or model, compute capability, CUDA and cuDNN of a
  GPU.

Not recorded are layer-atlas, whose `algorithm` number is part of every recipe and so of every key,
and numpy and h5py, which only carry numbers that torch has computed.
"""

import platform
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from layer_atlas.config.records import build, canonical_json, parse_object, plain
from layer_atlas.errors import UserError

_MOST_LETTERS = 4096
"""Of an environment as text; more is not what a worker wrote."""


@dataclass(frozen=True)
class Device:
    """A kind of processor or GPU."""

    name: str
    """Model, such as `NVIDIA H200`."""
    capability: str
    """Compute capability of a GPU, such as `9.0`; the instruction set that torch uses of a CPU,
    such as `AVX512`."""
    libraries: dict[str, str] = field(default_factory=dict)
    """Versions of CUDA and cuDNN on a GPU."""

    def __hash__(self) -> int:
        return hash(canonical_json(plain(self)))


@dataclass(frozen=True)
class Environment:
    """The versions and the device that a worker computes with."""

    packages: dict[str, str]
    """Version of each Python package that decides bits."""
    device: Device | None
    """`None`, in what is wanted: any device."""

    @property
    def text(self) -> str:
        """The environment as JSON, by which it is told from others."""
        return canonical_json(plain(self))

    def __hash__(self) -> int:
        return hash(self.text)

    def accepts(self, made: "Environment | None") -> bool:
        """Whether images that were made with another environment are as wanted."""
        return (
            made is not None
            and made.packages == self.packages
            and self.device in (None, made.device)
        )


def parse_environment(text: str) -> Environment | None:
    """Read what `Environment.text` wrote; `None` for anything else."""
    if len(text) > _MOST_LETTERS:
        return None
    with suppress(ValueError, TypeError, RecursionError, UserError):
        return build(Environment, parse_object(text))
    return None


def environment_in(facts: Mapping[str, Any]) -> Environment | None:
    """The environment among the facts of a shard; `None` where an older version recorded none."""
    with suppress(ValueError, TypeError, RecursionError):
        return parse_environment(canonical_json(facts.get("environment")))
    return None


# --- what there is here --------------------------------------------------------------------------


def environment_here(device: str | None, sources: Iterable[str]) -> Environment:
    """The environment of this process.

    Args:
        device: `cpu`, `cuda:1`; `None`: not known, because workers run elsewhere.
        sources: what the networks are, as in their identities: `timm/resnet18`, `mypackage.build`.
    """
    return Environment(_packages(sources), None if device is None else _device(device))


def _packages(sources: Iterable[str]) -> dict[str, str]:
    import torch

    packages = {"torch": str(torch.__version__)}
    for source in sources:
        package = re.match(r"(\w+)[./]", source)
        if package is not None:
            with suppress(metadata.PackageNotFoundError):  # code of the user's own
                packages[package[1]] = metadata.version(package[1])
    return packages


def _device(device: str) -> Device:
    import torch

    if not device.startswith("cuda"):
        return Device(_processor_name(), torch.backends.cpu.get_cpu_capability())
    major, minor = torch.cuda.get_device_capability(torch.device(device))
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    libraries = {"CUDA": str(torch.version.cuda), "cuDNN": str(cudnn)}
    name = torch.cuda.get_device_name(torch.device(device))
    return Device(name, f"{major}.{minor}", libraries)


def _processor_name() -> str:
    with suppress(OSError):  # Linux alone has it
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.M)
        if found is not None:
            return found[1].strip()
    return platform.processor() or platform.machine()
