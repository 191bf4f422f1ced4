"""Weights between channels, as they are stored: the task that computes those of a layer, its file.

The layers that a layer reads are found by whoever has the network. The task names the candidates:
all other layers of the sweep.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from layer_atlas.config.records import digest, plain
from layer_atlas.plan.jobs import LayerInfo, NetworkIdentity, Product
from layer_atlas.plan.plan import LayerPlan, ModelPlan, Plan
from layer_atlas.store import files
from layer_atlas.store.files import (
    ArraySpec,
    AtMost,
    CorruptFile,
    aside_if_corrupt,
    read_checked,
    write_atomically,
)
from layer_atlas.store.folder import OutputFolder

VERSION = 1
"""Version of the algorithm; increased with every code change that affects the weights."""

SCHEMA = "layer-atlas-connections/1"

LARGEST_GRID = 15
"""Largest height and width of a kernel; of a larger one, neighbouring positions are added up."""


@dataclass(frozen=True)
class Connections:
    """The strongest incoming channels of each of n channels of a layer.

    The first half of the N entries of a channel are those whose weights add up to 0 or more, the
    second half the others; each half begins with the strongest and ends with empty entries where
    there are fewer. Strength is the L1 norm of the kernel.
    """

    sources: tuple[str, ...]
    """Names of the layers that they are channels of."""
    source: NDArray[np.int32]
    """(n, N) index in `sources`; -1: empty."""
    channel: NDArray[np.int32]
    """(n, N) channel of that layer; -1: empty."""
    weight: NDArray[np.float32]
    """(n, N) sum of the kernel."""
    share: NDArray[np.float32]
    """(n, N) L1 norm of the kernel, as a fraction of that of all incoming channels."""
    kernel: NDArray[np.float32]
    """(n, N, h, w) weight at each offset, that of the central position in the middle."""
    stride: int = 1
    """Positions along each axis that a value of `kernel` is the sum of."""
    refused: dict[str, str] = field(default_factory=dict)
    """What is not linear, by the names of the layers that it stands before."""

    @property
    def arrays(self) -> files.Arrays:
        """The arrays by name."""
        names = ("source", "channel", "weight", "share", "kernel")
        return {name: getattr(self, name) for name in names}


def no_connections(count: int, most: int, refused: Mapping[str, str]) -> Connections:
    """Stand in for the connections of a layer that reads no other one linearly."""
    empty, zeros = np.full((count, 2 * most), -1, np.int32), np.zeros((count, 2 * most), np.float32)
    kernel = zeros[..., None, None]
    return Connections((), empty, empty, zeros, zeros, kernel, refused=dict(refused))


@dataclass(frozen=True)
class LayerConnections:
    """A task: the strongest incoming channels of the targets of a layer."""

    model: str
    """The model's label in this sweep; not part of the identity."""
    network: NetworkIdentity
    info: LayerInfo
    targets: Sequence[int]
    candidates: tuple[str, ...]
    """Names of the other layers of the sweep."""
    image_size: tuple[int, int]
    keep_prefix_tokens: bool
    most: int
    """Largest number of incoming channels with positive, and with negative weights."""

    @property
    def units(self) -> int:
        """Number of channels."""
        return len(self.targets)

    @cached_property
    def key(self) -> str:
        """SHA-256 of everything that decides the weights."""
        return digest(
            {
                "network": plain(self.network),
                "layer": self.info.name,
                "channels": list(self.targets),
                "candidates": self.candidates,
                "image_size": self.image_size,
                "keep_prefix_tokens": self.keep_prefix_tokens,
                "most": self.most,
                "version": VERSION,
            }
        )

    @property
    def product(self) -> Product:
        """The file of the weights."""
        return Product(self.model, self.info.name, self.key, "connections")

    @property
    def products(self) -> tuple[Product]:
        """The same, as a task has them."""
        return (self.product,)

    def request(self) -> dict[str, Any]:
        """Return the layer and its channels, as plain data."""
        return {"layer": self.info.name, "targets": list(self.targets)}

    def __str__(self) -> str:
        return f"connections of {self.model}/{self.info.name}"


def connections_of(
    model: ModelPlan, layer: LayerPlan, targets: Sequence[int], most: int
) -> LayerConnections | None:
    """Return the task of the weights of a layer; `None` where none are wanted.

    Args:
        model: with all its layers.
        layer: one of them.
        targets: of the layer.
        most: incoming channels per channel and sign.
    """
    objective = model.recipe.objective
    of_channels = objective.target_word in ("channel", "class")
    single = len(layer.target_space.sizes) == 1  # rather than a combination of channels
    others = tuple(other.info.name for other in model.layers if other.info.name != layer.info.name)
    if not (most and others and targets and of_channels and single):
        return None
    return LayerConnections(
        model.label,
        model.network,
        layer.info,
        targets,
        others,
        model.recipe.image_size,
        model.recipe.keep_prefix_tokens,
        most,
    )


def all_connections(plan: Plan) -> list[LayerConnections]:
    """List the tasks of weights of a sweep, layer by layer."""
    tasks = (
        connections_of(model, layer, layer.targets, plan.connections)
        for model in plan.models
        for layer in model.layers
    )
    return [task for task in tasks if task is not None]


def write_connections(folder: OutputFolder, task: LayerConnections, found: Connections) -> None:
    """Commit the weights of a layer. Raises StorageError."""
    record = {"sources": found.sources, "stride": found.stride, "refused": found.refused}
    data = files.encode(SCHEMA, record, found.arrays)
    write_atomically(folder.product(task.product), data)


def read_connections(folder: OutputFolder, task: LayerConnections) -> Connections:
    """Read the weights of a layer.

    Raises:
        FileNotFoundError: they are not computed yet.
        CorruptFile: their file was set aside, to be computed again.
    """
    path, specs = folder.product(task.product), _specs(task)
    with aside_if_corrupt(path):
        record, arrays = read_checked(path, SCHEMA, specs)
        sources, refused, stride = (record.get(name) for name in ("sources", "refused", "stride"))
        known = set(task.candidates)
        if not isinstance(sources, list) or not all(name in known for name in map(str, sources)):
            raise CorruptFile("it names other layers")
        if not isinstance(refused, dict) or not known.issuperset(refused):
            raise CorruptFile("it names other layers")
        if type(stride) is not int or int(arrays["source"].max(initial=-1)) >= len(sources):
            raise CorruptFile("its record is not that of its arrays")
        reasons = {name: str(reason) for name, reason in refused.items()}
        return Connections(tuple(map(str, sources)), **arrays, stride=stride, refused=reasons)


def _specs(task: LayerConnections) -> dict[str, ArraySpec]:
    shape = (len(task.targets), 2 * task.most)
    sides = AtMost(LARGEST_GRID, "rows"), AtMost(LARGEST_GRID, "columns")
    return {
        "source": ArraySpec("i4", shape, range(-1, len(task.candidates))),
        "channel": ArraySpec("i4", shape, range(-1, 2**24)),
        "weight": ArraySpec("f4", shape),
        "share": ArraySpec("f4", shape),
        "kernel": ArraySpec("f4", (*shape, *sides)),
    }
