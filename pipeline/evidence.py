"""Evidence that an image shows what a channel responds to, not merely something that excites it.

The measure is photographs: how a layer answers to an image is compared with how it answers to the
photographs that excite the channel most. The target channel itself is left out, so an image gains
nothing by exciting it. Pure functions of responses and pixels; nothing here runs a network.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

STRONGEST = 9
"""So many photographs stand for a channel: one may be an accident, many are no longer strong."""

HALF_NYQUIST = 0.25
"""Cycles per pixel above which structure is finer than most of what photographs hold."""

_TIE = 1e-9
"""Cosines closer than this are equal: channels that share their photographs differ by rounding."""


@dataclass(frozen=True)
class Reference:
    """How a layer of K channels answers to photographs."""

    mean: Tensor
    """(K,) of the responses to all photographs."""
    std: Tensor
    """(K,) of the same; 0 for a channel that answers the same to all."""
    templates: Tensor
    """(K, K): row k is the mean standardised response to channel k's strongest photographs."""


def make_reference(responses: Tensor, strongest: int = STRONGEST) -> Reference:
    """Learn from photographs what each channel looks like to its layer.

    Args:
        responses: (N, K) mean response of each channel to each of N photographs.
        strongest: how many photographs stand for a channel.
    Raises:
        ValueError: fewer photographs than that.
    """
    if len(responses) < strongest:
        raise ValueError(f"{strongest} photographs are the least, not {len(responses)}.")
    mean, std = responses.mean(dim=0), responses.std(dim=0)
    # The mean of equal numbers may be off by a rounding, and their deviation then is not 0.
    std = std.masked_fill(responses.amax(dim=0) == responses.amin(dim=0), 0.0)
    top = responses.topk(strongest, dim=0).indices
    return Reference(mean, std, standardised(responses, mean, std)[top].mean(dim=0))


def standardised(responses: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Responses (N, K) in standard deviations from the mean; 0 where there is no deviation."""
    varies = std > 0
    return torch.where(varies, (responses - mean) / torch.where(varies, std, 1.0), 0.0)


def agreement(reference: Reference, responses: Tensor, channels: Tensor) -> tuple[Tensor, Tensor]:
    """Compare how a layer answers to images with how it answers to photographs.

    Both are seen in the layer's standardised response space without the target channel.

    Args:
        reference: of the layer.
        responses: (B, K) mean response of each channel to each image.
        channels: (B,) int64, the channel that each image was made for.
    Returns:
        agreement (B,): cosine between the image and the channel's strongest photographs;
        rank (B,) int64: how many channels' photographs the image resembles more than its own
        channel's, plus one. An image that is not finite resembles all of them more.
    """
    # In double precision: a target that dominates its template is subtracted from its length.
    templates = reference.templates.double()
    images = standardised(responses, reference.mean, reference.std).double()
    images = images.scatter(1, channels[:, None], 0.0)
    own_coordinate = templates[:, channels].mT
    lengths = (templates.square().sum(dim=1) - own_coordinate.square()).clamp_min(0.0).sqrt()
    lengths = lengths * images.norm(dim=1, keepdim=True)
    cosines = images @ templates.mT / lengths.clamp_min(1e-12)
    own = cosines.gather(1, channels[:, None])
    rank = 1 + (~(cosines <= own + _TIE)).sum(dim=1)
    return own.squeeze(1).to(responses.dtype), rank


def high_frequency_share(pixels: Tensor) -> Tensor:
    """The share of an image's spectral energy above half the Nyquist frequency.

    Of the grey image (mean of the colours) without its mean; 0 for an image of one grey.

    Args:
        pixels: (B, H, W, 3) uint8.
    Returns: (B,) in [0, 1].
    """
    grey = (pixels.float() / 255.0).mean(dim=3)
    energy = torch.fft.fft2(grey - grey.mean(dim=(1, 2), keepdim=True)).abs().square()
    rows = torch.fft.fftfreq(grey.shape[1], device=grey.device)
    columns = torch.fft.fftfreq(grey.shape[2], device=grey.device)
    fine = torch.hypot(rows[:, None], columns[None, :]) > HALF_NYQUIST
    total = energy.sum(dim=(1, 2))
    # Rounding leaves a grey image some energy, of which any share may lie anywhere.
    return torch.where(total > 1e-6, (energy * fine).sum(dim=(1, 2)) / total.clamp_min(1e-6), 0.0)
