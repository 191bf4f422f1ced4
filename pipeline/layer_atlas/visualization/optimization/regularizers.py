"""Regularizers: what holds an image back while it climbs.

All of it is per sample and works on the gradient, so that the score that is recorded stays the
objective alone. With x an image in [0, 1] and g the gradient of its score, ascent follows

    g - |g| * (w1 * dR1/dx + w2 * dR2/dx + ...),    |g| the root mean square of g over the image.

The factor |g| makes weights mean the same for a channel that answers with 0.1 and with 100.
Penalties R are sums over pixels and colours, so weights mean the same at any image size.
"""

import torch
from torch import Tensor

from layer_atlas.config.recipe import Regularizers
from layer_atlas.visualization.parameterizations.base import Parameterization
from layer_atlas.visualization.spectrum import fine_frequencies

_EVERYTHING = (1, 2, 3)


def pulled_back(settings: Regularizers, images: Tensor, gradient: Tensor) -> Tensor:
    """The gradient of the score at the images, less those of the penalties: (B, C, H, W).

    Args:
        settings: the weights.
        images: (B, C, H, W) in [0, 1].
        gradient: (B, C, H, W) of the score.
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
    (back,) = torch.autograd.grad(torch.stack(penalties).sum(), images)
    strength = gradient.square().mean(_EVERYTHING, keepdim=True).sqrt()
    return gradient - strength * back


def total_variation(images: Tensor) -> Tensor:
    """sum |x[i+1, j] - x[i, j]| + |x[i, j+1] - x[i, j]|: (B,).

    Rudin, Osher & Fatemi 1992, without the square root over both directions, as in lucid's
    `total_variation`; of Mahendran & Vedaldi 2015, section 3.2, it is the case beta = 1.
    """
    down, across = images.diff(dim=2), images.diff(dim=3)
    return down.abs().sum(_EVERYTHING) + across.abs().sum(_EVERYTHING)


def l1(images: Tensor) -> Tensor:
    """sum |x - 1/2|: (B,). lucid's `L1` of the input about a constant."""
    return (images - 0.5).abs().sum(_EVERYTHING)


def l2(images: Tensor) -> Tensor:
    """sum (x - 1/2)**2 / 2: (B,).

    Of the image about mid-grey, not of the parameters: so it is meant in Simonyan et al. 2014, in
    Mahendran & Vedaldi 2015 (alpha = 2), and in Yosinski et al. 2015 as a decay of the pixels.
    """
    return (images - 0.5).square().sum(_EVERYTHING) / 2.0


def high_frequency(images: Tensor) -> Tensor:
    """sum |X|**2 / 2 over the frequencies above half the Nyquist frequency: (B,).

    X is the orthonormal Fourier transform. These frequencies are what Olah et al. 2017, "Feature
    Visualization", "The enemy of feature visualization", finds too much of in such images.
    """
    fine = fine_frequencies((images.shape[2], images.shape[3]), images.device)
    energy = torch.view_as_real(torch.fft.fft2(images, norm="ortho")).square().sum(dim=-1)
    return (energy * fine).sum(_EVERYTHING) / 2.0


def clipped(gradients: Tensor, largest: float) -> Tensor:
    """Gradients (B, P), each row scaled down to at most the given norm; Pascanu et al. 2013."""
    norm = gradients.norm(dim=1, keepdim=True)
    shrunk: Tensor = gradients * (largest / norm.clamp_min(largest))
    return shrunk


def blur(images: Parameterization, width: Tensor, size: tuple[int, int]) -> None:
    """Blur the images by a Gaussian, in their parameters.

    Yosinski et al. 2015, "Understanding Neural Networks Through Deep Visualization", section 3, and
    with a falling width Oygard 2015, "Visualizing GoogLeNet Classes". Before colours and sigmoid,
    where the image is linear in what is optimised.

    Args:
        images: what to blur.
        width: standard deviation of the Gaussian in pixels, a tensor without dimensions.
        size: height and width of the images.
    """
    fy = torch.fft.fftfreq(size[0], device=width.device)[:, None]
    fx = torch.fft.rfftfreq(size[1], device=width.device)[None, :]
    images.blur_(torch.exp(-2.0 * torch.pi**2 * width**2 * (fy**2 + fx**2)))


def blur_width(settings: Regularizers, step: int, steps: int) -> float:
    """The width of the blur at a step, in pixels: from `blur` to 0 along a straight line."""
    return settings.blur * (1.0 - step / max(steps - 1, 1))
