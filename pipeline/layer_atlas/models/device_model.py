"""A network on a device: images in, activations of some layers out."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from layer_atlas.errors import UserError
from layer_atlas.models.activations import plain_activations
from layer_atlas.models.colours import from_bytes, recoloured
from layer_atlas.models.containment import restored
from layer_atlas.models.conversion import converted
from layer_atlas.models.fingerprints import fingerprint, is_same
from layer_atlas.models.forwards import (
    TOLERANCE,
    CopyingForward,
    Forward,
    HookedForward,
    Instance,
    Path,
    agrees,
    fastest_that_agrees,
    probe_gradient,
)
from layer_atlas.models.load import DTYPES, Network
from layer_atlas.models.numerics import make_arithmetic_explicit
from layer_atlas.models.receptive_fields import receptive_fields
from layer_atlas.models.resample import resized, sources
from layer_atlas.models.responses import ChannelActivations, Observer, normalised
from layer_atlas.plan.jobs import LayerInfo

Observe = Callable[[Tensor], dict[str, ChannelActivations]]
"""Views (B, H, W, 3) uint8 to what layers answer, by their names."""

PROBES = 2
"""Images that paths are compared on; as many as it takes to be a batch."""


class DeviceModel:
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
        make_arithmetic_explicit()
        self.network, self.dtype, self.size, self.device = network, DTYPES[precision], size, device
        self._mean = torch.tensor(network.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(network.std, device=device).view(1, -1, 1, 1)
        self._instances: dict[tuple[torch.dtype, bool], Instance] = {}

    @property
    def plain(self) -> nn.Module:
        """The network as it is, but for the device: in fp32, for hooks."""
        return self._instance(torch.float32, channels_last=False).module

    def exact_path(self, layers: Sequence[LayerInfo]) -> Path:
        """Images (B, C, H, W) in [0, 1] to the activations of some layers, in fp32.

        Raises:
            UserError: the network does not compute what it did when the sweep was planned.
        """
        return self._path(layers, torch.float32)

    def fast_path(self, layers: Sequence[LayerInfo]) -> Path:
        """The same in the precision of the ascent.

        Raises:
            UserError: as above.
            NoPathAgrees: the precision is too low for the network.
        """
        return self._path(layers, self.dtype)

    def observer(self, layers: Sequence[LayerInfo]) -> Observe:
        """Views (B, H, W, 3) uint8 to the answers of several layers, in fp32."""
        fast = self._instance(torch.float32, channels_last=True)
        hooked = self._from_images(HookedForward(fast.module, layers), fast)
        exact = TOLERANCE[torch.float32]
        in_layout = agrees(hooked, self._probes, self.expected(layers), exact)
        instance = fast if in_layout else self._instance(torch.float32, channels_last=False)
        observe = Observer(instance.module, layers)
        if self.network.fixed_size is None and len(self.network.mean) == 3 and in_layout:
            return lambda views: observe(normalised(views.to(self.device), self.network))
        return lambda views: observe(self._inputs(self._images(views), instance))

    def _images(self, views: Tensor) -> Tensor:
        """Views (B, H, W, 3) uint8 as images (B, C, H, W) in [0, 1]."""
        return recoloured(from_bytes(views.to(self.device)), len(self.network.mean))

    def receptive_fields(self, layers: Sequence[LayerInfo]) -> dict[str, Tensor]:
        """What each position of some layers sees: boxes (L, 4) in pixels of the image."""
        # Not on a GPU: some of its kernels work on tiles, and what is no number spreads there.
        seen = self.network.seen_size(self.size)
        with restored(self.network.module):
            fields = receptive_fields(self.network.module, layers, self.network.example(seen))
        return {name: sources(boxes, self.size, seen) for name, boxes in fields.items()}

    # --- paths -----------------------------------------------------------------------------------

    def _path(self, layers: Sequence[LayerInfo], dtype: torch.dtype) -> Path:
        paths = (
            (name, lambda make=make, instance=instance: self._from_images(make(), instance))
            for instance in (self._instance(dtype, layout) for layout in (True, False))
            for name, make in instance.paths(layers)
        )
        expected, gradient = self.expected(layers), self.expected_gradient(layers)
        return fastest_that_agrees(paths, self._probes, expected, gradient, dtype)

    def _from_images(self, forward: Forward, instance: Instance) -> Forward:
        """A forward that takes images (B, C, H, W) in [0, 1]."""
        return lambda images: forward(self._inputs(images, instance))

    def expected(self, layers: Sequence[LayerInfo]) -> list[Tensor]:
        """The activations (B, K, L) of the probes, by plain hooks on an instance of its own.

        Raises:
            UserError: one is not there, or not what it was when the sweep was planned.
        """
        with torch.no_grad():
            seen = resized(self._probes, self.network.seen_size(self.size))
            found = plain_activations(self.plain, layers, self.network.normalise(seen))
        for layer in layers:
            if layer.name not in found:
                raise UserError(
                    f"layer {layer.name!r} of model {self.network.label!r} is called for some "
                    "images only: the forward takes another way for others. Choose other layers."
                )
            if not is_same(fingerprint(found[layer.name]), layer.fingerprint):
                raise UserError(
                    f"layer {layer.name!r} of model {self.network.label!r} does not compute what "
                    "it did when the sweep was planned, with the same weights: was its code "
                    "changed, or does this machine compute wrongly? Run the sweep again to plan "
                    "anew."
                )
        return [found[layer.name] for layer in layers]

    def expected_gradient(self, layers: Sequence[LayerInfo]) -> Tensor:
        """The gradient of the probes from some layers, by plain hooks."""
        instance = self._instance(torch.float32, channels_last=False)
        plain = CopyingForward(HookedForward(instance.module, layers))
        return probe_gradient(self._from_images(plain, instance), self._probes)

    @cached_property
    def _probes(self) -> Tensor:
        return self.network.probes(self.size)[:PROBES].to(self.device)

    def _instance(self, dtype: torch.dtype, channels_last: bool) -> Instance:
        """The network in a number format and a layout, made when it is first needed."""
        kind = dtype, channels_last
        if kind not in self._instances:
            module = converted(self.network.fresh(), self.device, dtype, channels_last)
            layout = torch.channels_last if channels_last else torch.contiguous_format
            self._instances[kind] = Instance(module, dtype, layout)
        return self._instances[kind]

    def _inputs(self, images: Tensor, instance: Instance) -> Tensor:
        """Images (B, C, H, W) in [0, 1] as an instance of the network takes them."""
        if self.network.fixed_size is not None:
            images = resized(images, self.network.seen_size(self.size))
        inputs: Tensor = _Normalised.apply(
            images, self._mean, self._std, instance.dtype, instance.layout
        )
        return inputs


class _Normalised(torch.autograd.Function):
    """(images - mean) / std in the network's dtype and layout.

    Layout and dtype change one after the other, and arithmetic is done in the layout of the
    images, there and back: each of these is several times faster on a CPU.
    """

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        mean: Tensor,
        std: Tensor,
        dtype: torch.dtype,
        layout: torch.memory_format,
    ) -> Tensor:
        ctx.save_for_backward(std)
        normalised = (images - mean).div_(std).to(dtype)
        return normalised.contiguous(memory_format=layout)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (std,) = ctx.saved_tensors
        return grads[0].contiguous().float() / std, None, None, None, None
