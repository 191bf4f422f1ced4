"""What every kind of bundle has in common."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from pipeline.bench import Workbench
from pipeline.committer import Committer
from pipeline.config import ModelConfig
from pipeline.errors import UserError
from pipeline.models import load_network
from pipeline.plan import ModelPlan
from pipeline.pulse import Pulse
from pipeline.store import OutputFolder

T = TypeVar("T")


class Bundle(Protocol):
    """Tasks of one kind and one model."""

    @property
    def model(self) -> ModelConfig:
        """How to load the network."""
        ...

    @property
    def plan(self) -> ModelPlan:
        """What is wanted of it; of its layers only those that the tasks need."""
        ...

    def run(self, place: "Workplace") -> None:
        """Do and commit every task that is not done yet."""
        ...


@dataclass(frozen=True)
class Workplace:
    """Where the tasks of a bundle are done."""

    folder: OutputFolder
    bench: Workbench
    committer: Committer
    pulse: Pulse

    def until_told_to_leave(self, tasks: Iterable[T]) -> Iterator[T]:
        """The tasks, until the driver wants no more of them to be begun."""
        for task in tasks:
            if self.folder.drain.exists():
                raise Drained
            yield task


class Drained(Exception):
    """The driver wants no more tasks to be begun."""


def open_workplace(
    bundle: Bundle, folder: OutputFolder, committer: Committer, pulse: Pulse
) -> Workplace:
    """Load the network of a bundle.

    Raises:
        UserError: its weights are no longer those that were planned with.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = load_network(bundle.model)
    if network.identity != bundle.plan.network:
        raise UserError(
            f"the weights of model {network.label!r} changed while the sweep was running; start it "
            "again to make the atlas of the new ones."
        )
    bench = Workbench(network, bundle.plan.recipe, device)
    return Workplace(folder, bench, committer, pulse)
