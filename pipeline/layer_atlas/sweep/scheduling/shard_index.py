"""Stock: what of a plan lies in its store."""

import os

from layer_atlas.atlas.gather import LayerView, layer_views
from layer_atlas.plan.jobs import Shard
from layer_atlas.plan.plan import Plan
from layer_atlas.store.folder import OutputFolder


class ShardIndex:
    """Looks through a store for the shards of a plan, and again only after files came or went.

    A sweep asks before it begins, in each of its rounds, and before it collates. It takes seconds
    to work out what the files of ten million jobs are called, and a tenth of one to list them.
    """

    def __init__(self, folder: OutputFolder, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        self._there: dict[str, frozenset[str]] | None = None
        self._views: list[LayerView] = []

    def views(self) -> list[LayerView]:
        """A view of every layer of the plan."""
        there = {
            place: frozenset(names)
            for root in (self.folder.store, self.folder.failures)
            for place, _, names in os.walk(root)
        }
        if there != self._there:
            self._there, self._views = there, list(layer_views(self.folder, self.plan))
        return self._views

    def missing(self) -> list[Shard]:
        """What is left to make, in the order of the plan."""
        return [shard for view in self.views() for _, shard in view.left()]
