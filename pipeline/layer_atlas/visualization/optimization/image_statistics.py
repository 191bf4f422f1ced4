"""Statistics of finished images, always computed on the stored 8-bit image, and their status.

They are of fp32, but for the 16 warped views of `activation_robust`. These run in the precision of
the optimization: in fp32 they would take longer than the optimization of a deep layer.

The status of a job is ok, dead (the target never responded), or diverged (not finite). The
measurement finds dead candidates, the trace of the optimization confirms them.
"""

import torch
from torch import Tensor

from layer_atlas.config.recipe import Transforms
from layer_atlas.models.forwards import Forward
from layer_atlas.models.pixels import from_bytes
from layer_atlas.plan.jobs import STATUS
from layer_atlas.visualization import rng
from layer_atlas.visualization.objectives import Objective
from layer_atlas.visualization.optimization.loop import OptimizedBatch
from layer_atlas.visualization.spectrum import fine_frequencies
from layer_atlas.visualization.transforms import apply_views, draw_views

ROBUST_VIEWS = 16

_SMALL_WARPS = Transforms(jitter=1 / 32, scale=(0.95, 1.05), rotate=5.0)


@torch.no_grad()
def measure(
    activations: Forward,
    objective: Objective,
    pixels: Tensor,
    targets: Tensor,
    fast: Forward | None = None,
) -> dict[str, Tensor]:
    """Measure the effect of each stored image on its target and on the rest of the layer.

    Args:
        activations: images (B, C, H, W) in [0, 1] to activations, fp32.
        objective: the objective of the images.
        pixels: (B, H, W, C) uint8.
        targets: (B,) int64.
        fast: the same as `activations` in the precision of the optimization, if that is lower.
    Returns:
        activation (B,): the objective, without transforms;
        activation_robust (B,): its mean over 16 small warps, the same for all images, by `fast`;
        activation_max (B,): the largest response of the target at any position;
        part_activation (B, parts): the response of each part of a composite target;
        response (B, K): mean response of every channel of the layer;
        high_frequency (B,): see `high_frequency_share`;
        clipped (B,): see `clipped_share`;
        status (B,) uint8: `dead` where all views give the same response everywhere.
    """
    images = from_bytes(pixels)
    clean = activations(images)
    responses = objective.responses(clean, targets)
    score = objective.score(clean, targets)
    flat = responses.amax(dim=1) == responses.amin(dim=1)
    views = _small_warps((pixels.shape[1], pixels.shape[2]), pixels.device)

    def score_of(forward: Forward, view: Tensor) -> Tensor:
        warped = apply_views(_SMALL_WARPS, images, view.expand(len(images), -1))
        return objective.score(forward(warped), targets)

    total, first = torch.zeros_like(score), score_of(fast or activations, views[0])
    # Summed view by view: the rounding of a mean over stacked views depends on the batch size.
    for number, view in enumerate(views):
        robust = score_of(fast or activations, view) if number else first
        flat &= robust == first
        total += robust
    # Low precision tells small differences no better than none, so fp32 has the last word.
    if fast is not None and bool(flat.any()):
        first = score_of(activations, views[0])
    flat &= first == score
    parts = objective.parts(clean, targets)
    return {
        "activation": score,
        "activation_robust": total / ROBUST_VIEWS,
        "activation_max": responses.amax(dim=1),
        **({} if parts is None else {"part_activation": parts}),
        "response": clean[0].float().mean(dim=2),
        "high_frequency": high_frequency_share(pixels),
        "clipped": clipped_share(pixels),
        "status": torch.where(flat, STATUS["dead"], STATUS["ok"]).to(torch.uint8),
    }


def high_frequency_share(pixels: Tensor) -> Tensor:
    """Compute the fraction of an image's spectral energy above half the Nyquist frequency.

    It is computed on the grey image (mean of the colours) minus its mean; 0 for a uniform image.

    Args:
        pixels: (B, H, W, C) uint8.
    Returns: (B,) float32 in [0, 1].
    """
    grey = (pixels.float() / 255.0).mean(dim=3)
    # Axis by axis: torch splits a full reduction among threads if the batch has a single image.
    mean = grey.mean(dim=2, keepdim=True).mean(dim=1, keepdim=True)
    energy = torch.fft.fft2(grey - mean).abs().square()
    fine = fine_frequencies((grey.shape[1], grey.shape[2]), grey.device)
    total = energy.sum(dim=2).sum(dim=1)
    # Rounding leaves a uniform image a little energy, whose distribution is meaningless.
    fraction = (energy * fine).sum(dim=2).sum(dim=1) / total.clamp_min(1e-6)
    return torch.where(total > 1e-6, fraction, 0.0)


def clipped_share(pixels: Tensor) -> Tensor:
    """Compute the fraction of an image's pixels with any colour at 0 or 255.

    Args:
        pixels: (B, H, W, C) uint8.
    Returns: (B,) float32 in [0, 1].
    """
    clipped = ((pixels == 0) | (pixels == 255)).any(dim=3)
    return clipped.sum(dim=(1, 2)).float() / clipped[0].numel()


def _small_warps(size: tuple[int, int], device: torch.device) -> Tensor:
    """Draw the 16 fixed views of `activation_robust`: (16, 1, P)."""
    # A constant key: every image is measured under the same warps, in every sweep.
    key = rng.keys(["0" * 64], device)
    return draw_views(_SMALL_WARPS, key, ROBUST_VIEWS, size)


# --- status ---------------------------------------------------------------------------------------


def status_of(optimized: OptimizedBatch, measured: dict[str, Tensor]) -> Tensor:
    """Return the status of each sample (B,) uint8; remove `status` from the measurements."""
    status = measured.pop("status")
    # A saturated channel responds equally to every view, but its trace has changed before.
    moved = optimized.trace.amax(dim=1) != optimized.trace.amin(dim=1)
    status = status.masked_fill((status == STATUS["dead"]) & moved, STATUS["ok"])
    finite = optimized.finite & torch.isfinite(measured["activation"])
    return status.masked_fill(~finite, STATUS["diverged"])


def status_of_jobs(status: Tensor, variants: int) -> Tensor:
    """Reduce the status of images (n * V,) to that of jobs (n,).

    A job is `diverged` if any of its images is, and `dead` if all are.
    """
    per_image = status.view(-1, variants)
    per_job = torch.where((per_image == STATUS["dead"]).all(dim=1), STATUS["dead"], STATUS["ok"])
    diverged = (per_image == STATUS["diverged"]).any(dim=1)
    return per_job.masked_fill(diverged, STATUS["diverged"]).to(status)
