"""Standing: how many jobs of a layer are in which state."""

from collections.abc import Container
from dataclasses import dataclass

from layer_atlas.atlas.gather import LayerView
from layer_atlas.plan.plan import flops_per_job


@dataclass(frozen=True)
class LayerProgress:
    """How many jobs of a layer are in which state; each is in one."""

    model: str
    layer: str
    total: int
    done: int
    running: int
    """In the making, or made and not yet committed."""
    failed: int
    """In quarantine."""
    flops_per_job: float

    @property
    def missing(self) -> int:
        """Neither done nor given up, and nobody is at it."""
        return self.total - self.done - self.running - self.failed

    @property
    def flops_left(self) -> float:
        """What is still to be computed."""
        return (self.running + self.missing) * self.flops_per_job


def layer_progress_of(view: LayerView, at_work: Container[str]) -> LayerProgress:
    """How far a layer is.

    Args:
        view: of the layer.
        at_work: keys of the tasks that workers have in hand.
    """
    total = len(view.layer.targets) * len(view.plan.seeds)
    left = running = failed = 0
    for _, shard in view.left():
        left += shard.units
        if shard.key in at_work:
            running += shard.units
        elif shard.key in view.given_up:
            failed += shard.units
    return LayerProgress(
        model=view.model.label,
        layer=view.layer.info.name,
        total=total,
        done=total - left,
        running=running,
        failed=failed,
        flops_per_job=flops_per_job(view.layer, view.model.recipe),
    )
