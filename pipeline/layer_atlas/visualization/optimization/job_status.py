"""Status of a job: ok, dead (the target never responded), or diverged (not finite).

The measurement of the stored image (`image_statistics`) finds dead candidates, the trace of the
optimization confirms them.
"""

import torch
from torch import Tensor

from layer_atlas.plan.jobs import STATUS
from layer_atlas.visualization.optimization.loop import OptimizedBatch


def status_of(optimized: OptimizedBatch, measured: dict[str, Tensor]) -> Tensor:
    """Return the status of each sample (B,) uint8; remove `status` from the measurements."""
    status = measured.pop("status")
    # A saturated channel responds equally to every view, but its trace has changed before.
    moved = optimized.trace.amax(dim=1) != optimized.trace.amin(dim=1)
    status = status.masked_fill((status == STATUS["dead"]) & moved, STATUS["ok"])
    finite = optimized.finite & torch.isfinite(measured["activation"])
    return status.masked_fill(~finite, STATUS["diverged"])


def of_whole_jobs(status: Tensor, variants: int) -> Tensor:
    """Reduce the status of images (n * V,) to that of jobs (n,).

    A job is `diverged` if any of its images is, and `dead` if all are.
    """
    per_image = status.view(-1, variants)
    per_job = torch.where((per_image == STATUS["dead"]).all(dim=1), STATUS["dead"], STATUS["ok"])
    diverged = (per_image == STATUS["diverged"]).any(dim=1)
    return per_job.masked_fill(diverged, STATUS["diverged"]).to(status)
