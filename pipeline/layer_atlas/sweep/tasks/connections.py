"""Weights between channels: those of one layer after the other."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch

from layer_atlas.models.connections import connections
from layer_atlas.models.device_model import DeviceModel
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.store.connections import (
    Connections,
    LayerConnections,
    connections_of,
    no_connections,
    write_connections,
)
from layer_atlas.sweep.tasks import Bundle, Commit, LayerTargets, WorkerContext

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ConnectionsBundle(Bundle):
    """Layers of one model. The bundle's plan has all layers of the model."""

    most: int
    """Incoming channels per channel and sign."""
    requests: tuple[LayerTargets, ...]

    def run(self, context: WorkerContext) -> None:
        """Compute and commit the missing weights, layer by layer.

        Raises:
            StorageError: the disk is full or fails.
        """

        def compute(task: LayerConnections) -> Commit:
            found = _computed(context.renderer.network, task, self._others(task))
            return partial(write_connections, context.folder, task, found)

        context.do(self.tasks(), compute)

    def tasks(self) -> list[LayerConnections]:
        """The tasks, in order."""
        layers = {layer.info.name: layer for layer in self.plan.layers}
        tasks = (
            connections_of(self.plan, layers[request.layer], request.targets, self.most)
            for request in self.requests
        )
        return [task for task in tasks if task is not None]

    def _others(self, task: LayerConnections) -> list[LayerInfo]:
        return [layer.info for layer in self.plan.layers if layer.info.name in task.candidates]


def _computed(
    device: DeviceModel, task: LayerConnections, others: Sequence[LayerInfo]
) -> Connections:
    """Compute the weights of a layer; none where the network takes no gradients."""
    network = device.network
    example = network.example(network.seen_size(device.size)).to(device.device)
    where = task.info, others, example, task.targets, task.most
    try:
        return connections(device.plain, *where)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a network's own code; images need no weights
        logger.warning("no weights of %s/%s: %s", task.model, task.info.name, error)
        return no_connections(len(task.targets), task.most, {})
