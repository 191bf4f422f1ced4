"""Objectives: the scores that gradient ascent raises; the contract is in `base`.

Every module of this package is imported, so that a class with `@implements(Record)` is known.
"""

from layer_atlas.config import objectives as records
from layer_atlas.config.records import implementation
from layer_atlas.imports import import_modules
from layer_atlas.visualization.objectives.base import Objective, ObjectiveContext

__all__ = ["Objective", "ObjectiveContext", "make_objective"]


def make_objective(record: records.Objective, surroundings: ObjectiveContext) -> Objective:
    """Make the objective that a recipe names, for a layer.

    Raises:
        UserError: it does not fit the layer, or a file that it refers to is not what it should be.
    """
    objective: Objective = implementation(record)(record, surroundings)
    return objective


import_modules(__name__, __path__)
