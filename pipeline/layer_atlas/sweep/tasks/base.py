"""What every kind of bundle has in common."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import torch

from layer_atlas.config.config import ModelConfig
from layer_atlas.errors import UserError
from layer_atlas.models.load import Network, load_network
from layer_atlas.plan.jobs import NetworkIdentity
from layer_atlas.plan.plan import ModelPlan
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.tasks.committer import Committer
from layer_atlas.sweep.tasks.heartbeat import Heartbeat
from layer_atlas.visualization.optimization.renderer import Renderer

T = TypeVar("T")


class Bundle(Protocol):
    """Tasks of one kind and one model."""

    @property
    def models(self) -> tuple[ModelConfig, ...]:
        """How to load the network, and further ones that its images are for as well."""
        ...

    @property
    def plan(self) -> ModelPlan:
        """What is wanted of it; of its layers only those that the tasks need."""
        ...

    def run(self, place: "WorkerContext") -> None:
        """Do and commit every task that is not done yet."""
        ...


@dataclass(frozen=True)
class WorkerContext:
    """Where the tasks of a bundle are done."""

    folder: OutputFolder
    renderer: Renderer
    committer: Committer
    heartbeat: Heartbeat

    def until_asked_to_stop(self, tasks: Iterable[T]) -> Iterator[T]:
        """The tasks, until the driver wants no more of them to be begun."""
        for task in tasks:
            if self.folder.drain.exists():
                raise Drained
            yield task


class Drained(Exception):
    """The driver wants no more tasks to be begun."""


def open_workplace(
    bundle: Bundle, folder: OutputFolder, committer: Committer, heartbeat: Heartbeat
) -> WorkerContext:
    """Load the networks of a bundle; raises UserError as `open_bench` does."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    renderer = open_renderer(bundle.models, bundle.plan, folder, device)
    return WorkerContext(folder, renderer, committer, heartbeat)


def open_renderer(
    models: Sequence[ModelConfig], plan: ModelPlan, folder: OutputFolder, device: torch.device
) -> Renderer:
    """Load networks onto a device.

    Args:
        models: the network of the plan, and further ones that its images are for as well.
        plan: what they were when the sweep was planned.
        folder: has the files that the recipe refers to.
        device: where.
    Raises:
        UserError: weights are no longer those that were planned with.
    """
    networks = {model.title: _as_planned(model, plan.networks[model.title]) for model in models}
    main = networks.pop(plan.label)
    return Renderer(main, plan.recipe, device, networks, folder.input)


def _as_planned(model: ModelConfig, planned: NetworkIdentity) -> Network:
    network = replace(load_network(model), fixed_size=planned.fixed_size)
    if network.identity != planned:
        raise UserError(
            f"the weights of model {network.label!r} are not those that the sweep was planned "
            "with; run it again to make the atlas of the new ones."
        )
    return network
