"""Objectives: what the ascent climbs; the contract is in `base`, a module for each kind."""

from collections.abc import Callable
from typing import Any

from layer_atlas.config.objectives import (
    AccentuationObjective,
    CaricatureObjective,
    ChannelObjective,
    CustomObjective,
    DirectionObjective,
    DiversityObjective,
    InterpolationObjective,
    InversionObjective,
    JointObjective,
    LayerObjective,
    LogitObjective,
    NeuronObjective,
    ObjectiveRecord,
    ProbabilityObjective,
)
from layer_atlas.visualization.objectives.base import Objective, ObjectiveContext
from layer_atlas.visualization.objectives.channels import Channel, Neuron, Probability
from layer_atlas.visualization.objectives.custom import Custom
from layer_atlas.visualization.objectives.directions import Direction
from layer_atlas.visualization.objectives.joint import Joint
from layer_atlas.visualization.objectives.likeness import Accentuation, Caricature, Inversion
from layer_atlas.visualization.objectives.variants import Diversity, Interpolation
from layer_atlas.visualization.objectives.whole_layer import WholeLayer

__all__ = ["Objective", "ObjectiveContext", "make_objective"]

_KINDS: dict[type[ObjectiveRecord], Callable[[Any, ObjectiveContext], Objective]] = {
    ChannelObjective: Channel,
    NeuronObjective: Neuron,
    DirectionObjective: Direction,
    LogitObjective: Channel,
    ProbabilityObjective: Probability,
    LayerObjective: WholeLayer,
    CustomObjective: Custom,
    JointObjective: Joint,
    DiversityObjective: Diversity,
    InterpolationObjective: Interpolation,
    CaricatureObjective: Caricature,
    InversionObjective: Inversion,
    AccentuationObjective: Accentuation,
}


def make_objective(record: ObjectiveRecord, surroundings: ObjectiveContext) -> Objective:
    """The objective that a recipe names, for a layer.

    Raises:
        UserError: it does not fit the layer, or a file that it refers to is not what it should be.
    """
    return _KINDS[type(record)](record, surroundings)
