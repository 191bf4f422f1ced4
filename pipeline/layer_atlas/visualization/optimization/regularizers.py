"""Regularizers: penalties on images and operations on gradients and parameters.

All work per sample and on the gradient, so that the recorded score is the objective alone. With x
an image in [0, 1] and g the gradient of its score, the optimization follows

    g - |g| * (w1 * dR1/dx + w2 * dR2/dx + ...),    |g| the root mean square of g over the image.

The factor |g| makes a weight mean the same for a channel with responses of 0.1 and of 100.
Penalties R are sums over pixels and colours, so weights mean the same at any image size.

`FeatureStatistics` is a penalty on activations instead, and part of the surrogate.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from layer_atlas.config.recipe import Regularizers
from layer_atlas.models.normalization import NormalizedLayer
from layer_atlas.visualization.parameterizations.base import Parameterization
from layer_atlas.visualization.spectrum import fine_frequencies

_EVERYTHING = (1, 2, 3)


def regularized_gradient(settings: Regularizers, images: Tensor, gradient: Tensor) -> Tensor:
    """Subtract the gradients of the penalties from that of the score: (B, C, H, W).

    Args:
        settings: the weights.
        images: (B, C, H, W) in [0, 1].
        gradient: (B, C, H, W), gradient of the score at the images.
    """
    penalties = [
        weight * penalty(images.requires_grad_())
        for weight, penalty in (
            (settings.total_variation, total_variation),
            (settings.l1, l1),
            (settings.l2, l2),
            (settings.high_frequency, high_frequency),
        )
        if weight > 0
    ]
    if not penalties:
        return gradient
    (penalty_gradient,) = torch.autograd.grad(torch.stack(penalties).sum(), images)
    # Per sample, and without a graph: the factor scales the penalty and is no part of it.
    strength = gradient.square().mean(_EVERYTHING, keepdim=True).sqrt()
    return gradient - strength * penalty_gradient


def total_variation(images: Tensor) -> Tensor:
    """Total variation, sum |x[i+1, j] - x[i, j]| + |x[i, j+1] - x[i, j]|: (B,).

    Rudin, Osher & Fatemi 1992, without the square root over both directions, as in lucid's
    `total_variation`; it is the case beta = 1 of Mahendran & Vedaldi 2015, section 3.2.
    """
    down, across = images.diff(dim=2), images.diff(dim=3)
    return down.abs().sum(_EVERYTHING) + across.abs().sum(_EVERYTHING)


def l1(images: Tensor) -> Tensor:
    """L1 penalty, sum |x - 1/2|: (B,). lucid's `L1` of the input about a constant."""
    return (images - 0.5).abs().sum(_EVERYTHING)


def l2(images: Tensor) -> Tensor:
    """L2 penalty, sum (x - 1/2)**2 / 2: (B,).

    It applies to the image about mid-grey, not to the parameters, as in Simonyan et al. 2014, in
    Mahendran & Vedaldi 2015 (alpha = 2), and in Yosinski et al. 2015 as a decay of the pixels.
    """
    return (images - 0.5).square().sum(_EVERYTHING) / 2.0


def high_frequency(images: Tensor) -> Tensor:
    """High-frequency energy, sum |X|**2 / 2 above half the Nyquist frequency: (B,).

    X is the orthonormal Fourier transform. Olah et al. 2017, "Feature Visualization", "The enemy of
    feature visualization", describes the excess of these frequencies in such images.
    """
    fine = fine_frequencies((images.shape[2], images.shape[3]), images.device)
    energy = torch.view_as_real(torch.fft.fft2(images, norm="ortho")).square().sum(dim=-1)
    return (energy * fine).sum(_EVERYTHING) / 2.0


class FeatureStatistics:
    """Deviation of features from their distribution over the training images, per sample.

    With m and v the mean and variance over positions of a channel that a batch norm standardized
    by its running statistics, R is the mean of m**2 + 0.1 * (log v)**2 over channels, averaged over
    the batch norms before the layer. Without batch norms the statistics are those of dataset
    images. With s the surrogate of the objective, the optimization
    maximizes s / |s| - w * R, the |s| without gradient. So a weight means the same for any
    network, and the penalty counts more as the response grows.

    After Yin et al. 2020, "Dreaming to Distill" (DeepInversion), equation 4: there over a batch of
    images and with the plain difference of variances. Here every image must look natural alone.

    Args:
        layers: the batch norms.
        weight: w.
    """

    def __init__(self, layers: Sequence[NormalizedLayer], weight: float) -> None:
        self.weight, self.n_layers = weight, len(layers)
        self._expected = [
            (layer.mean.float(), layer.std.float(), layer.used.float() / layer.used.sum())
            for layer in layers
        ]

    def regularized(
        self, surrogate: Tensor, read: Sequence[Tensor], features: Sequence[Tensor]
    ) -> Tensor:
        """Return the surrogates to maximize instead: (B,).

        Args:
            surrogate: (B,) of the objective.
            read: activations (B, K, L) that the objective read.
            features: outputs (B, K, L) of the batch norms.
        """
        # Where a response is nearly zero, its size is that of the layer's activations.
        spread = read[0].detach().float().abs().amax(dim=2).amax(dim=1)
        scale = torch.maximum(surrogate.detach().abs(), _LEAST_RESPONSE * spread).clamp_min(1e-12)
        return surrogate / scale - self.weight * self.penalty(features)

    def penalty(self, features: Sequence[Tensor]) -> Tensor:
        """Return R (B,) for the outputs (B, K, L) of the batch norms."""
        total = features[0].new_zeros(len(features[0]), dtype=torch.float32)
        for feature, (mean, std, share) in zip(features, self._expected, strict=True):
            first, second = moments(feature)
            m = (first - mean) / std.clamp_min(1e-12)
            v = (second - first.square()) / std.square().clamp_min(1e-12)
            # Bounded, because a channel that is off everywhere has no variance at all.
            log_v = (v.clamp_min(0.0) + _LEAST_VARIANCE).log()
            deviation = m.square().clamp_max(_LARGEST_DEVIATION) + 0.1 * log_v.square()
            total = total + (deviation * share).sum(dim=1)
        return total / len(features)


_LEAST_RESPONSE = 1e-2
_LEAST_VARIANCE = 1e-3
_LARGEST_DEVIATION = 1e4


def moments(activation: Tensor) -> tuple[Tensor, Tensor]:
    """Return the means of x and x**2 over positions: (B, K, L) to twice (B, K), float32."""
    first, second = _Moments.apply(activation)
    return first, second


class _Moments(torch.autograd.Function):
    """The moments, with a gradient of one pass over the activation."""

    @staticmethod
    def forward(ctx: Any, activation: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(activation)
        wide = activation.float()
        return wide.mean(dim=2), wide.square().mean(dim=2)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (activation,) = ctx.saved_tensors
        first, second = (
            (grad / activation.shape[2]).to(activation.dtype).unsqueeze(2) for grad in grads
        )
        return torch.addcmul(first, activation, second, value=2.0)


def clipped(gradients: Tensor, largest: float) -> Tensor:
    """Scale each row of gradients (B, P) down to at most the given norm; Pascanu et al. 2013."""
    norm = gradients.norm(dim=1, keepdim=True)
    shrunk: Tensor = gradients * (largest / norm.clamp_min(largest))
    return shrunk


def blur(images: Parameterization, width: Tensor, size: tuple[int, int]) -> None:
    """Blur the images by a Gaussian, in their parameters.

    Yosinski et al. 2015, "Understanding Neural Networks Through Deep Visualization", section 3, and
    with a decreasing width Oygard 2015, "Visualizing GoogLeNet Classes". The blur acts before
    colours and sigmoid, where the image is linear in the parameters.

    Args:
        images: the parameterization to blur.
        width: standard deviation of the Gaussian in pixels, a zero-dimensional tensor.
        size: height and width of the images.
    """
    fy = torch.fft.fftfreq(size[0], device=width.device)[:, None]
    fx = torch.fft.rfftfreq(size[1], device=width.device)[None, :]
    # The Fourier transform of a Gaussian. The width is a tensor, so that graphs can replay it.
    images.blur_(torch.exp(-2.0 * torch.pi**2 * width**2 * (fy**2 + fx**2)))


def blur_width(settings: Regularizers, step: int, steps: int) -> float:
    """Return the width of the blur at a step, in pixels: linear from `blur` to 0."""
    return settings.blur * (1.0 - step / max(steps - 1, 1))
