"""Saliency maps: the pixels of a dataset image that a channel responds to; its activation maps.

Simonyan et al. 2014, "Deep Inside Convolutional Networks" (arXiv 1312.6034), section 3: the
gradient of a score with respect to the pixels, its absolute value, the maximum over the colours.
The score is the channel's mean over positions; for a vector layer it is the class score. SmoothGrad
and Integrated Gradients replace the gradient. Captum computes the attributions. The code around it
makes a map depend on its own image, channel and key alone.
"""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from layer_atlas.config.datasets import (
    IntegratedGradients,
    SaliencyMethod,
    SmoothGrad,
    VanillaSaliency,
)
from layer_atlas.errors import UserError
from layer_atlas.models.activations import CPU_BATCH_MULTIPLE, filled_up
from layer_atlas.models.forwards import Forward
from layer_atlas.visualization import rng
from layer_atlas.visualization.gradients import PolyphaseStem
from layer_atlas.visualization.objectives.base import picked

BATCH = 2 * CPU_BATCH_MULTIPLE
"""Images per pass through the network.

It is fixed, because Integrated Gradients sum batch by batch: another size would round differently.
"""

BRIGHTEST = 0.99
"""Quantile of a map's pixels that is scaled to 1.

Otherwise a few single pixels would darken the rest (Smilkov et al. 2017, section 3.1, "Capping
outlying values").
"""

Score = Callable[[Tensor, Tensor], Tensor]
"""Function of images (B, 3, H, W) and channels (B,) that returns scores (B,)."""


def check_available(settings: SaliencyMethod | None) -> None:
    """Check before any computation that the packages for saliency maps are installed.

    Raises:
        UserError: maps are requested and captum is missing.
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
    """Compute the saliency map of each dataset image for its channel.

    Args:
        activations: function of images (B, 3, H, W) in [0, 1] that returns the layer's activations,
            fp32, differentiable; the mean of a channel is attributed.
        dataset_images: (n, 3, H, W) in [0, 1], float32.
        channels: (n,) int64, one per image.
        settings: the method.
        keys: (n, 2) int64 from `rng.keys`, for methods that draw; on the images' device.
    Returns: (n, H, W) float32 in [0, 1], see `normalized`.
    """

    def score(images: Tensor, channels: Tensor) -> Tensor:
        # Padding keeps the bits of a map independent of the size of its batch.
        rows = filled_up(len(images), images.device)
        with PolyphaseStem():
            responses = picked(activations(images[rows])[0], channels[rows])
            return responses.mean(dim=1)[: len(images)]

    methods: dict[type, Callable[..., Tensor]] = {
        VanillaSaliency: _vanilla,
        SmoothGrad: _smoothgrad,
        IntegratedGradients: _integrated_gradients,
    }
    # The sign is dropped after the method: SmoothGrad averages signed gradients.
    attributions = methods[type(settings)](score, dataset_images, channels, settings, keys)
    return normalized(attributions.abs().amax(dim=1))


def activation_maps(
    activations: Forward,
    dataset_images: Tensor,
    channels: Tensor,
    map_size: tuple[int, int],
    kept: tuple[int, int],
) -> Tensor:
    """Compute the activation map of each dataset image's channel, at the size that is kept.

    Args:
        activations: as for `saliency_maps`.
        dataset_images: (n, 3, H, W) in [0, 1], float32.
        channels: (n,) int64, one per image.
        map_size: height and width of the layer's maps.
        kept: height and width of the maps to return; each cell keeps its maximum, so that no peak
            is lost.
    Returns: (n, h, w) float32.
    """
    maps = []
    for start in range(0, len(dataset_images), BATCH):
        images, targets = (part[start : start + BATCH] for part in (dataset_images, channels))
        rows = filled_up(len(images), images.device, BATCH)
        with torch.no_grad():
            responses = picked(activations(images[rows])[0], targets[rows])[: len(images)]
        maps.append(adaptive_max_pool2d(responses.view(-1, 1, *map_size), kept)[:, 0])
    return torch.cat(maps)


def normalized(maps: Tensor) -> Tensor:
    """Scale each map (n, H, W) by its 99th percentile and clip it: (n, H, W) in [0, 1].

    A map that is zero in more than 99 of 100 pixels is scaled by its maximum. A map of zeros stays
    zero, and a non-finite map becomes zero.
    """
    flat = maps.flatten(1)
    flat = torch.where(flat.isfinite().all(dim=1, keepdim=True), flat, 0.0)
    rank = max(1, int(BRIGHTEST * flat.shape[1]))
    # kthvalue instead of quantile: no interpolation, and no size limit.
    percentile = flat.kthvalue(rank, dim=1, keepdim=True).values
    peak = torch.where(percentile > 0, percentile, flat.amax(dim=1, keepdim=True))
    scaled = flat / torch.where(peak > 0, peak, 1.0)
    return scaled.clamp(0.0, 1.0).view_as(maps)


# --- methods: score, images, channels, settings, keys to attributions (n, 3, H, W) ---------------


def _vanilla(score: Score, dataset_images: Tensor, channels: Tensor, *_: Any) -> Tensor:
    return _gradients(score, dataset_images, channels)


def _smoothgrad(
    score: Score, dataset_images: Tensor, channels: Tensor, settings: SmoothGrad, keys: Tensor
) -> Tensor:
    """Average the gradient over noisy copies.

    Smilkov et al. 2017 (arXiv 1706.03825), section 2.2; gradients are averaged with their signs.
    The noise does not come from captum: its NoiseTunnel draws from torch's global generator, whose
    numbers depend on device and order.
    """
    maps = []
    for image, channel, key in zip(dataset_images, channels, keys, strict=True):
        noisy = _noisy_copies(image, settings, key)
        gradients = _gradients(score, noisy, channel.expand(settings.samples))
        maps.append(gradients.mean(dim=0))
    return torch.stack(maps)


def _noisy_copies(image: Tensor, settings: SmoothGrad, key: Tensor) -> Tensor:
    """Add `samples` draws of normal noise to an image (3, H, W): (samples, 3, H, W)."""
    streams = range(rng.NOISE, rng.NOISE + settings.samples)
    # One stream per copy, so that copy i is the same for any number of samples.
    draws = [rng.normal(key[None], stream, image.numel()) for stream in streams]
    spread = settings.noise * (image.max() - image.min())
    return image + spread * torch.cat(draws).view(-1, *image.shape)


def _integrated_gradients(
    score: Score, dataset_images: Tensor, channels: Tensor, settings: IntegratedGradients, _: Tensor
) -> Tensor:
    """Integrate gradients along the line from a black image, times the difference to it.

    Sundararajan et al. 2017 (arXiv 1703.01365), section 3. Each captum batch holds steps of a
    single image. The black baseline is the paper's choice, and gives a score of 0 for nine of ten
    channels of SqueezeNet's features.12; for mid-grey more of them respond.
    """
    from captum.attr import IntegratedGradients as Captum

    maps = []
    for image, channel in zip(dataset_images, channels, strict=True):
        method = Captum(lambda images, c=channel: score(images, c.expand(len(images))))
        steps = settings.steps
        maps.append(method.attribute(image[None], n_steps=steps, internal_batch_size=BATCH))
    return torch.cat(maps)


def _gradients(score: Score, images: Tensor, channels: Tensor) -> Tensor:
    """Compute gradients (n, 3, H, W) of each image's own score, in batches."""
    from captum.attr import Saliency

    # `abs=False` below, for the same reason.
    method = Saliency(score)
    parts = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH].detach().requires_grad_()
        target = channels[start : start + BATCH]
        parts.append(method.attribute(batch, additional_forward_args=target, abs=False))
    return torch.cat(parts)
