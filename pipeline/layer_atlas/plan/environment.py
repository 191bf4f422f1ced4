"""Environments: the versions and the device that images are made with, beside their recipe.

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
"""Letters of an environment as text; a worker writes fewer."""


@dataclass(frozen=True)
class Device:
    """A kind of processor or GPU."""

    name: str
    """Model of the processor or GPU, such as `NVIDIA H200`."""
    capability: str
    """Compute capability of a GPU, such as `9.0`, or the instruction set that torch uses on a CPU,
    such as `AVX512`."""
    libraries: dict[str, str] = field(default_factory=dict)
    """Versions of CUDA and cuDNN on a GPU."""

    def __hash__(self) -> int:
        return hash(canonical_json(plain(self)))


@dataclass(frozen=True)
class Environment:
    """The versions and the device that a worker computes with."""

    packages: dict[str, str]
    """Version of each Python package that decides bits, by name."""
    device: Device | None
    """Kind of the device; `None` in a wanted environment accepts any."""

    @property
    def text(self) -> str:
        """The environment as JSON, which identifies it."""
        return canonical_json(plain(self))

    def __hash__(self) -> int:
        return hash(self.text)

    def accepts(self, made: "Environment | None") -> bool:
        """Whether images of an environment count as done where this one is wanted."""
        return (
            made is not None
            and made.packages == self.packages
            and self.device in (None, made.device)
        )


def parse_environment(text: str) -> Environment | None:
    """Parse what `Environment.text` wrote; `None` for anything else."""
    # The text comes from a shard, which anybody may have written.
    if len(text) > _MOST_LETTERS:
        return None
    with suppress(ValueError, TypeError, RecursionError, UserError):
        return build(Environment, parse_object(text))
    return None


def environment_in(facts: Mapping[str, Any]) -> Environment | None:
    """Return the environment in the facts of a shard; `None` where an older version has none."""
    with suppress(ValueError, TypeError, RecursionError):
        return parse_environment(canonical_json(facts.get("environment")))
    return None


# --- this process --------------------------------------------------------------------------------


def environment_here(device: str | None, sources: Iterable[str]) -> Environment:
    """Return the environment of this process.

    Args:
        device: `cpu` or `cuda:1`; `None` where it is not known, because workers run elsewhere.
        sources: architectures of the networks: `timm/resnet18`, `mypackage.build`.
    """
    return Environment(_packages(sources), None if device is None else _device(device))


def _packages(sources: Iterable[str]) -> dict[str, str]:
    import torch

    packages = {"torch": str(torch.__version__)}
    for source in sources:
        package = re.match(r"(\w+)[./]", source)
        if package is not None:
            with suppress(metadata.PackageNotFoundError):  # the user's own code
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
