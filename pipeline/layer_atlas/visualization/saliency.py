"""Saliency: which pixels of a photograph a channel answers to.

Simonyan et al. 2014, "Deep Inside Convolutional Networks" (arXiv 1312.6034), section 3: the
gradient of a score with respect to the pixels, its absolute value, the largest over the colours.
The score is the channel's mean over positions; for a vector layer it is the class score. SmoothGrad
and Integrated Gradients put another gradient in its place. Captum attributes; what surrounds it
here makes a map depend on its own photograph, channel and key alone.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from layer_atlas.config.datasets import (
    IntegratedGradients,
    SaliencyMethod,
    SmoothGrad,
    VanillaSaliency,
)
from layer_atlas.errors import UserError
from layer_atlas.models.forwards import Forward
from layer_atlas.models.numerics import CPU_BATCH_MULTIPLE, filled_up
from layer_atlas.visualization import rng
from layer_atlas.visualization.gradients import PolyphaseStem
from layer_atlas.visualization.objectives.base import picked

BATCH = 2 * CPU_BATCH_MULTIPLE
"""Images per pass through the network. Fixed: Integrated Gradients sum batch by batch, so another
size would be another rounding."""

BRIGHTEST = 0.99
"""This share of a map's pixels lies at or below the value that becomes 1: a few single pixels would
else darken the rest (Smilkov et al. 2017, section 3.1, "Capping outlying values")."""

Score = Callable[[Tensor, Tensor], Tensor]
"""Images (B, 3, H, W) and channels (B,) to scores (B,)."""


def check_available(settings: SaliencyMethod | None) -> None:
    """Make sure, before anything is computed, that what saliency maps need is installed.

    Raises:
        UserError: maps are asked for and captum is missing.
    """
    if settings is not None and find_spec("captum") is None:
        raise UserError(
            f"saliency={settings.name} needs captum, which is not installed: "
            "pip install 'layer-atlas[saliency]', or choose saliency=none."
        )


def saliency_maps(
    activations: Forward,
    dataset_images: Tensor,
    channels: Tensor,
    settings: SaliencyMethod,
    keys: Tensor,
) -> Tensor:
    """Map what of each photograph a channel answers to.

    Args:
        activations: images (B, 3, H, W) in [0, 1] to the layer's activations, fp32,
            differentiable; what is attributed is the mean of a channel.
        photographs: (n, 3, H, W) in [0, 1], float32.
        channels: (n,) int64, one per photograph.
        settings: the method.
        keys: (n, 2) int64 from `rng.keys`, for methods that draw; on the photographs' device.
    Returns: (n, H, W) float32 in [0, 1], see `normalised`.
    """

    def score(images: Tensor, channels: Tensor) -> Tensor:
        rows = filled_up(len(images), images.device)
        with PolyphaseStem():
            found = picked(activations(images[rows])[0], channels[rows])
            return found.mean(dim=1)[: len(images)]

    methods: dict[type, Callable[..., Tensor]] = {
        VanillaSaliency: _vanilla,
        SmoothGrad: _smoothgrad,
        IntegratedGradients: _integrated_gradients,
    }
    attributions = methods[type(settings)](score, dataset_images, channels, settings, keys)
    return normalised(attributions.abs().amax(dim=1))


def normalised(maps: Tensor) -> Tensor:
    """Scale each map (n, H, W) by its 99th percentile and clip it: (n, H, W) in [0, 1].

    A map that is zero in more than 99 of 100 pixels is scaled by its maximum. A map of zeros stays
    zeros, and one that is not finite becomes zeros.
    """
    flat = maps.flatten(1)
    flat = torch.where(flat.isfinite().all(dim=1, keepdim=True), flat, 0.0)
    rank = max(1, int(BRIGHTEST * flat.shape[1]))
    percentile = flat.kthvalue(rank, dim=1, keepdim=True).values
    peak = torch.where(percentile > 0, percentile, flat.amax(dim=1, keepdim=True))
    scaled = flat / torch.where(peak > 0, peak, 1.0)
    return scaled.clamp(0.0, 1.0).view_as(maps)


# --- methods: score, photographs, channels, settings, keys to attributions (n, 3, H, W) ----------


def _vanilla(score: Score, dataset_images: Tensor, channels: Tensor, *_: Any) -> Tensor:
    return _gradients(score, dataset_images, channels)


def _smoothgrad(
    score: Score, dataset_images: Tensor, channels: Tensor, settings: SmoothGrad, keys: Tensor
) -> Tensor:
    """The mean gradient over noisy copies.

    Smilkov et al. 2017 (arXiv 1706.03825), section 2.2; gradients are averaged with their signs.
    The noise is not captum's: its NoiseTunnel draws from torch's global generator, which gives
    other numbers on another device and in another order.
    """
    maps = []
    for photograph, channel, key in zip(dataset_images, channels, keys, strict=True):
        noisy = _noisy_copies(photograph, settings, key)
        gradients = _gradients(score, noisy, channel.expand(settings.samples))
        maps.append(gradients.mean(dim=0))
    return torch.stack(maps)


def _noisy_copies(photograph: Tensor, settings: SmoothGrad, key: Tensor) -> Tensor:
    """A photograph (3, H, W) under `samples` draws of normal noise: (samples, 3, H, W)."""
    streams = range(rng.NOISE, rng.NOISE + settings.samples)
    draws = [rng.normal(key[None], stream, photograph.numel()) for stream in streams]
    spread = settings.noise * (photograph.max() - photograph.min())
    return photograph + spread * torch.cat(draws).view(-1, *photograph.shape)


def _integrated_gradients(
    score: Score, dataset_images: Tensor, channels: Tensor, settings: IntegratedGradients, _: Tensor
) -> Tensor:
    """Gradients along the way from a black image, times the way.

    Sundararajan et al. 2017 (arXiv 1703.01365), section 3. One photograph at a time, so that
    captum's batches hold steps of no other. Black is the paper's choice, and a score of 0 for nine
    of ten channels of SqueezeNet's features.12; to mid-grey more of them respond.
    """
    from captum.attr import IntegratedGradients as Captum

    maps = []
    for photograph, channel in zip(dataset_images, channels, strict=True):
        method = Captum(lambda images, c=channel: score(images, c.expand(len(images))))
        image, steps = photograph[None], settings.steps
        maps.append(method.attribute(image, n_steps=steps, internal_batch_size=BATCH))
    return torch.cat(maps)


def _gradients(score: Score, images: Tensor, channels: Tensor) -> Tensor:
    """Gradients (n, 3, H, W) of each image's own score, in batches."""
    from captum.attr import Saliency

    method = Saliency(score)
    parts = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH].detach().requires_grad_()
        target = channels[start : start + BATCH]
        parts.append(method.attribute(batch, additional_forward_args=target, abs=False))
    return torch.cat(parts)
