"""From config to plan: load each network, look at its layers, decide what is wanted of each.

Everything that can be wrong with a sweep is found here, before anything is computed.
"""

from layer_atlas.sweep.planning.inspection import InspectedModel, inspect_models
from layer_atlas.sweep.planning.planner import make_plan

__all__ = ["InspectedModel", "inspect_models", "make_plan"]
