"""From config to plan: load each network, inspect its layers, resolve the targets of each.

All mistakes in a sweep are found here, before anything is computed.
"""

from layer_atlas.models.inspections import InspectedModel
from layer_atlas.sweep.planning.inspection import inspect_models
from layer_atlas.sweep.planning.planner import make_plan

__all__ = ["InspectedModel", "inspect_models", "make_plan"]
