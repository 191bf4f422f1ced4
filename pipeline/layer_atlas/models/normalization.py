"""Feature statistics: what a network expects at its batch norms, or shows on dataset images.

In eval mode a batch norm standardizes each channel by the running mean and variance of the training
images, then scales and shifts it. So its weights describe the distribution of its output over
these images, without any data. Where there are no batch norms, the distribution of other layers is
measured.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layer_atlas.models.activations import OUTPUT, filled_up, main_tensor, module_of, reduce_layers
from layer_atlas.models.containment import attached, restored
from layer_atlas.plan.jobs import LayerInfo

_SMALLEST_SCALE = 1e-2
"""Channels that a norm scales by less, relative to its largest scale, carry nothing."""


@dataclass(frozen=True)
class NormalizedLayer:
    """A layer with the usual distribution of its output, such as that of a batch norm."""

    info: LayerInfo
    """Name and axes; without FLOPs and fingerprint."""
    mean: Tensor
    """(K,) float32, mean of each channel of the output."""
    std: Tensor
    """(K,) float32, standard deviation of each channel over images and positions."""
    used: Tensor
    """(K,) bool: False for channels that are scaled to nothing."""


class BatchNorms:
    """The batch norms of a network, in the order of one forward pass.

    Args:
        network: a network in eval mode; it is restored afterwards.
        inputs: normalized images (B, C, H, W), on the device of the network.
    """

    def __init__(self, network: nn.Module, inputs: Tensor) -> None:
        self._names = {module: name for name, module in network.named_modules()}
        if module_of(network, OUTPUT) is network:
            self._names[network] = OUTPUT
        self._norm_of = {
            part: norm for norm in filter(_is_batch_norm, self._names) for part in norm.modules()
        }
        self._parts: dict[nn.Module, list[tuple[str, Tensor]]] = {}
        self._found: list[NormalizedLayer] = []
        self._found_before: dict[str, int] = {}
        hooks = (m.register_forward_hook(self._note, with_kwargs=True) for m in self._names)
        with restored(network), torch.no_grad(), attached(hooks):
            network(inputs)

    def before(self, layer: str) -> list[NormalizedLayer]:
        """Return the norms that ran before the first call of a layer ended, in order."""
        return self._found[: self._found_before.get(layer, 0)]

    def _note(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        name, tensor = self._names[module], main_tensor(output)
        if name in self._found_before or tensor is None:
            return  # activations are those of the first call
        # Set before the norm itself is added: its own output is what the layer is, not its origin.
        self._found_before[name] = len(self._found)
        norm = self._norm_of.get(module)
        if norm is None:
            return
        parts = self._parts.setdefault(norm, [])
        # A clone, because an activation within the norm may overwrite it.
        parts.append((name, tensor.clone()))
        if module is norm:
            source = main_tensor((args, kwargs))
            assert source is not None
            self._found += _normalized(norm, source, self._parts.pop(norm))


def has_batch_norms(network: nn.Module) -> bool:
    """Return whether a network knows the statistics of its training images anywhere."""
    return any(map(_is_batch_norm, network.modules()))


def _is_batch_norm(module: nn.Module) -> bool:
    """Whether a module has the statistics of a batch norm, of torch or of another library."""
    statistics = (getattr(module, name, None) for name in ("running_mean", "running_var"))
    return all(isinstance(tensor, Tensor) and tensor.ndim == 1 for tensor in statistics)


def _normalized(
    norm: nn.Module, x: Tensor, outputs: Sequence[tuple[str, Tensor]]
) -> list[NormalizedLayer]:
    """Find the output that is the normalized input: of the norm, or of a part if it does more.

    timm's norms, for instance, contain the activation after them.
    """
    mean, variance = norm.running_mean, norm.running_var
    assert isinstance(mean, Tensor)
    assert isinstance(variance, Tensor)
    eps, weight, bias = (getattr(norm, name, None) for name in ("eps", "weight", "bias"))
    if x.ndim < 2 or x.shape[1] != len(mean) or not isinstance(eps, float):
        return []
    expected = F.batch_norm(x, mean, variance, weight, bias, eps=eps)
    for name, output in reversed(outputs):
        if output.shape == expected.shape and torch.allclose(output, expected, 1e-4, 1e-5):
            scale = torch.ones_like(mean) if weight is None else weight.detach().abs()
            used = scale > _SMALLEST_SCALE * scale.amax()
            return [
                NormalizedLayer(
                    info=_info(name, norm, output),
                    mean=torch.zeros_like(mean) if bias is None else bias.detach(),
                    std=scale * (variance / (variance + eps)).sqrt(),
                    used=used & (variance > 0),
                )
            ]
    return []


def _info(name: str, norm: nn.Module, output: Tensor) -> LayerInfo:
    return LayerInfo(
        name=name,
        module_type=type(norm).__name__,
        kinds=(),
        n_channels=output.shape[1],
        shape=tuple(output.shape[1:]),
        channel_axis=1,
        calls=1,
        flops=0,
        flops_before=0,
        flops_share=0.0,
    )


# --- measured on images --------------------------------------------------------------------------

_NORMS = frozenset({"LayerNorm", "GroupNorm", "RMSNorm", "_InstanceNorm"})
_LINEAR = frozenset({"_ConvNd", "Linear"})

FEATURE_IMAGES = 256
"""Number of images that show how features are distributed."""

MEASURED_AT_ONCE = 32
"""Images per batch: a multiple of those that CPU batches are padded to."""


def places_of_norms(layers: Sequence[LayerInfo]) -> list[LayerInfo]:
    """Return where batch norms could stand: other norms or, without any, convolutions and such."""
    norms = [layer for layer in layers if _NORMS & {*layer.kinds}]
    return norms or [layer for layer in layers if _LINEAR & {*layer.kinds}]


def ends_before(layer: LayerInfo, others: Sequence[LayerInfo]) -> list[LayerInfo]:
    """Return those of some layers whose output is there when a layer's is."""
    return [x for x in others if x.flops_before <= layer.flops_before and x.name != layer.name]


@torch.no_grad()
def measured(
    network: nn.Module, layers: Sequence[LayerInfo], batches: Iterable[Tensor]
) -> list[NormalizedLayer]:
    """Measure the distribution of the outputs of layers over images and positions.

    Args:
        network: a network in eval mode.
        layers: the layers.
        batches: normalized images (B, C, H, W), of which each batch is padded on a CPU.
    """
    sums: dict[str, Tensor] = {}
    count = 0
    for batch in batches:
        n = len(batch)
        whole = batch[filled_up(n, batch.device)]
        found = reduce_layers(network, layers, whole, _moments)
        for layer in layers:
            # Means of each image first, which no batch-mate can change; then sums in double.
            total = found[layer.name][:, :n].sum(dim=1)
            sums[layer.name] = sums[layer.name] + total if layer.name in sums else total
        count += n
    return [_measured(layer, *(sums[layer.name] / count)) for layer in layers]


def _moments(activation: Tensor) -> Tensor:
    """Return the means of x and of x**2 over positions: (B, K, L) to (2, B, K) float64."""
    wide = activation.float()
    return torch.stack([wide.mean(dim=2), wide.square().mean(dim=2)]).double()


def _measured(layer: LayerInfo, first: Tensor, second: Tensor) -> NormalizedLayer:
    std = (second - first.square()).clamp_min(0.0).nan_to_num(0.0, 0.0, 0.0).sqrt()
    return NormalizedLayer(
        info=layer,
        mean=first.nan_to_num(0.0, 0.0, 0.0).float(),
        std=std.float(),
        used=std > _SMALLEST_SCALE * std.amax(),
    )
