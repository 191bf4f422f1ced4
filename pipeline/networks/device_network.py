"""A network on a device: images in, activations of some layers out."""

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.jobs import LayerInfo
from pipeline.networks.fields import receptive_fields
from pipeline.networks.models import DTYPES, Network
from pipeline.networks.observe import Answer, Observer, normalised
from pipeline.networks.truncate import Forward, truncate_for_speed
from pipeline.numerics.colours import from_bytes, recoloured
from pipeline.numerics.resample import resized, sources

Observe = Callable[[Tensor], dict[str, Answer]]
"""Views (B, H, W, 3) uint8 to what layers answer, by their names."""


class DeviceNetwork:
    """A network in fp32, for measurement, and in the precision of the ascent.

    Args:
        network: as loaded; it stays as it is.
        precision: of the ascent, by its name in a recipe.
        size: height and width of the images.
        device: where it runs.
    """

    def __init__(
        self, network: Network, precision: str, size: tuple[int, int], device: torch.device
    ) -> None:
        self.network, self.dtype, self.size, self.device = network, DTYPES[precision], size, device
        self.exact = _on_device(copy.deepcopy(network.module), torch.float32, device)
        self._mean = torch.tensor(network.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(network.std, device=device).view(1, -1, 1, 1)

    @cached_property
    def fast(self) -> nn.Module:
        """The network in the precision of the ascent; photographs do not need it."""
        if self.dtype == torch.float32:
            return self.exact
        return _on_device(copy.deepcopy(self.network.module), self.dtype, self.device)

    def exact_forward(self, layers: Sequence[LayerInfo]) -> Forward:
        """Images (B, C, H, W) in [0, 1] to the activations of some layers, in fp32."""
        return self._forward(self.exact, torch.float32, layers)

    def fast_forward(self, layers: Sequence[LayerInfo]) -> Forward:
        """The same in the precision of the ascent."""
        return self._forward(self.fast, self.dtype, layers)

    def observer(self, layers: Sequence[LayerInfo]) -> Observe:
        """Views (B, H, W, 3) uint8 to the answers of several layers, in fp32."""
        observe = Observer(self.exact, layers)
        if self.network.fixed_size is None and len(self.network.mean) == 3:
            return lambda views: observe(normalised(views.to(self.device), self.network))
        return lambda views: observe(self._inputs(self._photographs(views), torch.float32))

    def _photographs(self, views: Tensor) -> Tensor:
        """Views (B, H, W, 3) uint8 as images (B, C, H, W) in [0, 1]."""
        return recoloured(from_bytes(views.to(self.device)), len(self.network.mean))

    def receptive_fields(self, layers: Sequence[LayerInfo]) -> dict[str, Tensor]:
        """What each position of some layers sees: boxes (L, 4) in pixels of the image."""
        # Not on a GPU: some of its kernels work on tiles, and what is no number spreads there.
        seen = self.network.seen_size(self.size)
        fields = receptive_fields(self.network.module, layers, self.network.example(seen))
        return {name: sources(boxes, self.size, seen) for name, boxes in fields.items()}

    def _forward(
        self, module: nn.Module, dtype: torch.dtype, layers: Sequence[LayerInfo]
    ) -> Forward:
        seen = self.network.seen_size(self.size)
        example = self.network.example(seen).to(self.device, dtype)
        forward = truncate_for_speed(module, layers, example)
        return lambda images: forward(self._inputs(images, dtype))

    def _inputs(self, images: Tensor, dtype: torch.dtype) -> Tensor:
        """Images (B, C, H, W) in [0, 1] as the network takes them."""
        if self.network.fixed_size is not None:
            images = resized(images, self.network.seen_size(self.size))
        inputs: Tensor = _Normalised.apply(images, self._mean, self._std, dtype)
        return inputs


class _Normalised(torch.autograd.Function):
    """(images - mean) / std in the network's dtype and in channels-last layout.

    Layout and dtype change one after the other, and arithmetic is done in the layout of the
    images, there and back: each of these is several times faster on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, images: Tensor, mean: Tensor, std: Tensor, dtype: torch.dtype) -> Tensor:
        ctx.save_for_backward(std)
        normalised = (images - mean).div_(std).to(dtype)
        return normalised.contiguous(memory_format=torch.channels_last)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        (std,) = ctx.saved_tensors
        return grads[0].contiguous().float() / std, None, None, None


def _on_device(module: nn.Module, dtype: torch.dtype, device: torch.device) -> nn.Module:
    return module.to(device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
