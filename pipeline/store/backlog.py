"""The backlog: the shards of a plan that its store lacks."""

import os

from pipeline.jobs import Shard
from pipeline.plan import Plan
from pipeline.store.folder import OutputFolder
from pipeline.store.shards import DoneIndex


class Backlog:
    """Looks for what is missing, and again only after files have come or gone.

    A sweep asks before it begins and in each of its rounds. To work out the names of the files of
    ten million jobs takes seconds every time, to list them a tenth of one.
    """

    def __init__(self, folder: OutputFolder, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self._there: dict[str, frozenset[str]] | None = None
        self._missing: list[Shard] = []

    def shards(self) -> list[Shard]:
        """What is left to compute, in the order of the plan."""
        there = {place: frozenset(names) for place, _, names in os.walk(self.folder.store)}
        if there != self._there:
            self._missing = list(DoneIndex(self.folder).missing(self.plan.shards()))
            self._there = there
        return self._missing
