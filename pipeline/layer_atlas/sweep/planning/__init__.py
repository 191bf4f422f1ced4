"""From config to plan: load each network, look at its layers, decide what is wanted of each.

Everything that can be wrong with a sweep is found here, before anything is computed.
"""

from layer_atlas.sweep.planning.inspection import Survey, survey
from layer_atlas.sweep.planning.planner import make_plan

__all__ = ["Survey", "make_plan", "survey"]
