"""A network on a device: images in, activations of layers out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from layer_atlas.config.records import plain
from layer_atlas.errors import UserError
from layer_atlas.models.activations import (
    ChannelActivations,
    Observer,
    SampledActivations,
    Sampler,
    fingerprint,
    is_same,
    normalized,
    plain_activations,
)
from layer_atlas.models.containment import restored
from layer_atlas.models.forwards import (
    TOLERANCE,
    ChosenPath,
    CopyingForward,
    Forward,
    HookedForward,
    Instance,
    NamedPath,
    Path,
    agrees,
    fastest_that_agrees,
    path_of_name,
    probe_gradient,
)
from layer_atlas.models.inspections import Inspection
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import DTYPES, Network, converted
from layer_atlas.models.normalization import (
    MEASURED_AT_ONCE,
    BatchNorms,
    NormalizedLayer,
    ends_before,
    has_batch_norms,
    measured,
    places_of_norms,
)
from layer_atlas.models.pixels import from_bytes, recoloured, resized, sources
from layer_atlas.models.receptive_fields import receptive_fields
from layer_atlas.plan.jobs import LayerInfo

Observe = Callable[[Tensor], dict[str, ChannelActivations]]
"""Function of views (B, H, W, 3) uint8 that returns channel activations by layer name."""

Sample = Callable[[Tensor, Mapping[str, Tensor]], dict[str, SampledActivations]]
"""Function of views (B, H, W, 3) uint8 and a flat position of each, by layer name, that returns the
activations there."""

PROBES = 2
"""Number of images that paths are compared on: the smallest batch of several images."""


class DeviceModel:
    """A network on a device, in fp32 for measurement and in the precision of the optimization.

    Args:
        network: the loaded network; it is not modified.
        precision: precision of the optimization, by its name in a recipe.
        size: height and width of the images, in pixels.
        device: device that it runs on.
    """

    def __init__(
        self, network: Network, precision: str, size: tuple[int, int], device: torch.device
    ) -> None:
        # Before anything is computed: expected activations depend on these settings.
        make_arithmetic_explicit()
        self.network, self.dtype, self.size, self.device = network, DTYPES[precision], size, device
        self._mean = torch.tensor(network.mean, device=device).view(1, -1, 1, 1)
        self._std = torch.tensor(network.std, device=device).view(1, -1, 1, 1)
        self._instances: dict[tuple[torch.dtype, bool], Instance] = {}
        self._measured: list[NormalizedLayer] | None = None

    @property
    def plain(self) -> nn.Module:
        """The network itself on the device, in fp32 and contiguous layout, for hooks."""
        return self._instance(torch.float32, channels_last=False).module

    def exact_path(self, layers: Sequence[LayerInfo]) -> Path:
        """Build a path from images (B, C, H, W) in [0, 1] to the activations of layers, in fp32.

        Raises:
            UserError: the network computes something else than when the sweep was planned.
        """
        return self._path(layers, torch.float32)

    def fast_path(self, layers: Sequence[LayerInfo]) -> Path:
        """Build the same path in the precision of the optimization.

        Raises:
            UserError: as for `exact_path`.
            NoPathAgrees: the precision is too low for the network.
        """
        return self._path(layers, self.dtype)

    def step(self, path: Path) -> None:
        """Run a path forward and back on a few images, as a step of an optimization does."""
        probe_gradient(path.forward, self._probes)

    def observer(self, layers: Sequence[LayerInfo]) -> Observe:
        """Build a function from views (B, H, W, 3) uint8 to the responses of layers, in fp32."""
        instance, in_layout = self._observed(layers)
        observe = Observer(instance.module, layers)
        # Views are channels-last already: without resizing or recolouring they need no transpose.
        if self.network.fixed_size is None and len(self.network.mean) == 3 and in_layout:
            return lambda views: observe(normalized(views.to(self.device), self.network))
        return lambda views: observe(self._inputs(self._images(views), instance))

    def sampler(self, layers: Sequence[LayerInfo], labels: bool) -> Sample:
        """Build a function from views and positions to activations of layers there, in fp32."""
        instance, _ = self._observed(layers)
        sample = Sampler(instance.module, layers, labels)
        return lambda views, places: sample(self._inputs(self._images(views), instance), places)

    def _observed(self, layers: Sequence[LayerInfo]) -> tuple[Instance, bool]:
        """Return the fastest instance that agrees, and whether its layout is channels-last."""
        fast = self._instance(torch.float32, channels_last=True)
        hooked = self._from_images(HookedForward(fast.module, layers), fast)
        exact = TOLERANCE[torch.float32]
        in_layout = agrees(hooked, self._probes, self.expected(layers), exact)
        instance = fast if in_layout else self._instance(torch.float32, channels_last=False)
        return instance, in_layout

    def _images(self, views: Tensor) -> Tensor:
        """Convert views (B, H, W, 3) uint8 to images (B, C, H, W) in [0, 1]."""
        return recoloured(from_bytes(views.to(self.device)), len(self.network.mean))

    def feature_layers(self, layer: LayerInfo, has_images: bool) -> list[LayerInfo]:
        """Return the layers that `expected_features` describes, with images or without."""
        if has_batch_norms(self.network.module):
            return [norm.info for norm in self._norms.before(layer.name)]
        return ends_before(layer, self.places_of_norms) if has_images else []

    def expected_features(
        self, layer: LayerInfo, views: Callable[[], Tensor] | None
    ) -> list[NormalizedLayer]:
        """Return the layers before a layer whose distribution over images is known.

        They are the batch norms that ran before its first call ended. A network without any is
        measured on views (M, H, W, 3) uint8 of dataset images, where there are some.
        """
        if has_batch_norms(self.network.module):
            return self._norms.before(layer.name)
        if views is None:
            return []
        if self._measured is None:
            # All layers at once: workers make one layer after the other.
            self._measured = self._measure(views())
        names = {place.name for place in self.feature_layers(layer, has_images=True)}
        return [found for found in self._measured if found.info.name in names]

    @cached_property
    def places_of_norms(self) -> list[LayerInfo]:
        """Where batch norms could stand in a network that has none."""
        example = self.network.example(self.network.seen_size(self.size))
        return places_of_norms(describe_layers(self.network.module, example))

    def _measure(self, views: Tensor) -> list[NormalizedLayer]:
        instance = self._instance(torch.float32, channels_last=False)
        parts = torch.split(views, MEASURED_AT_ONCE)
        batches = (self._inputs(self._images(part), instance) for part in parts)
        return measured(instance.module, self.places_of_norms, batches)

    @cached_property
    def _norms(self) -> BatchNorms:
        images = resized(self._probes, self.network.seen_size(self.size))
        return BatchNorms(self.plain, self.network.normalise(images))

    def receptive_fields(self, layers: Sequence[LayerInfo]) -> dict[str, Tensor]:
        """Return the receptive field of each position by layer: boxes (L, 4) in image pixels."""
        # Not on a GPU: some of its kernels work on tiles, in which a NaN spreads to neighbours.
        size = self.network.seen_size(self.size)
        with restored(self.network.module):
            fields = receptive_fields(self.network.module, layers, self.network.example(size))
        return {name: sources(boxes, self.size, size) for name, boxes in fields.items()}

    # --- paths -----------------------------------------------------------------------------------

    def _path(self, layers: Sequence[LayerInfo], dtype: torch.dtype) -> Path:
        # In either case it is shown on this device that the network is the planned one.
        expected = self.expected(layers)
        inspection = self._inspection_of_path(layers, dtype)
        if known := inspection.recall(ChosenPath):
            path = path_of_name(self._paths(layers, dtype), known.name)
            if path and agrees(path.forward, self._probes, expected, TOLERANCE[dtype]):
                return path
        gradient, paths = self.expected_gradient(layers), self._paths(layers, dtype)
        path = fastest_that_agrees(paths, self._probes, expected, gradient, dtype)
        inspection.keep(ChosenPath(path.name))
        return path

    def _paths(self, layers: Sequence[LayerInfo], dtype: torch.dtype) -> Iterator[NamedPath]:
        # A generator, in the order of speed: an instance is converted only when no faster path
        # agreed.
        for instance in (self._instance(dtype, layout) for layout in (True, False)):
            for name, make in instance.paths(layers):
                yield name, partial(self._built, make, instance)

    def _built(self, make: Callable[[], Forward], instance: Instance) -> Forward:
        return self._from_images(make(), instance)

    def _inspection_of_path(self, layers: Sequence[LayerInfo], dtype: torch.dtype) -> Inspection:
        question = {
            "asked": "path",
            "size": list(self.size),
            "dtype": str(dtype),
            # The planner asks before it knows the paths.
            "layers": [plain(replace(layer, path="")) for layer in layers],
        }
        # On GPUs it is compared by every worker, whose device may be faulty.
        is_kept = self.device.type == "cpu"
        return Inspection(self.network, self.device, question if is_kept else None)

    def _from_images(self, forward: Forward, instance: Instance) -> Forward:
        """Wrap a forward so that it takes images (B, C, H, W) in [0, 1]."""
        return lambda images: forward(self._inputs(images, instance))

    def expected(self, layers: Sequence[LayerInfo]) -> list[Tensor]:
        """Compute the activations (B, K, L) of the probes by plain hooks on an untouched instance.

        Raises:
            UserError: a layer was not called, or differs from its fingerprint in the plan.
        """
        with torch.no_grad():
            images = resized(self._probes, self.network.seen_size(self.size))
            computed = plain_activations(self.plain, layers, self.network.normalise(images))
        for layer in layers:
            if layer.name not in computed:
                raise UserError(
                    f"layer {layer.name!r} of model {self.network.label!r} is called for some "
                    "images only: the forward takes another path for others. Choose other layers."
                )
            if not is_same(fingerprint(computed[layer.name]), layer.fingerprint):
                raise UserError(
                    f"layer {layer.name!r} of model {self.network.label!r} computes something else "
                    "than when the sweep was planned, with the same weights: its code may have "
                    "changed, or this machine may be faulty. Run the sweep again to replan it."
                )
        return [computed[layer.name] for layer in layers]

    def expected_gradient(self, layers: Sequence[LayerInfo]) -> Tensor:
        """Compute the gradient of the probes from the layers by plain hooks."""
        instance = self._instance(torch.float32, channels_last=False)
        # Copies, because in-place operations would otherwise invalidate the reference gradient.
        plain = CopyingForward(HookedForward(instance.module, layers))
        return probe_gradient(self._from_images(plain, instance), self._probes)

    @cached_property
    def _probes(self) -> Tensor:
        return self.network.probes(self.size)[:PROBES].to(self.device)

    def _instance(self, dtype: torch.dtype, channels_last: bool) -> Instance:
        """Return the network in a number format and a layout, converted at its first use."""
        kind = dtype, channels_last
        if kind not in self._instances:
            # A fresh instance for each format: rounding to bf16 and back would lose bits for good.
            module = converted(self.network.fresh(), self.device, dtype, channels_last)
            layout = torch.channels_last if channels_last else torch.contiguous_format
            self._instances[kind] = Instance(module, dtype, layout)
        return self._instances[kind]

    def _inputs(self, images: Tensor, instance: Instance) -> Tensor:
        """Convert images (B, C, H, W) in [0, 1] to the inputs of an instance of the network."""
        if self.network.fixed_size is not None:
            images = resized(images, self.network.seen_size(self.size))
        inputs: Tensor = _Normalised.apply(
            images, self._mean, self._std, instance.dtype, instance.layout
        )
        return inputs


class _Normalised(torch.autograd.Function):
    """(images - mean) / std, in the network's dtype and layout.

    Layout and dtype change in separate steps, and arithmetic uses the layout of the images in both
    directions: each of these is several times faster on a CPU.
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
        centred = images - mean
        # Rounded to another dtype as it is divided.
        rounded = centred if dtype == centred.dtype else torch.empty_like(centred, dtype=dtype)
        return torch.div(centred, std, out=rounded).contiguous(memory_format=layout)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None, None]:
        (std,) = ctx.saved_tensors
        return grads[0].contiguous() / std, None, None, None, None


def make_arithmetic_explicit() -> None:
    """Make fp32 mean fp32 and kernels deterministic, whatever the library's defaults."""
    # The fast path of attention runs without gradients only: it rounds differently, is slower, and
    # does not call its submodules, so that their hooks do not fire.
    torch.backends.mha.set_fastpath_enabled(False)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    # Benchmarking picks kernels by timing, and so may differ from run to run.
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
