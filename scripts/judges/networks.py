"""Networks that judge images which another network made."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from judges.composing import compose
from layer_atlas.errors import UserError
from layer_atlas.models.activations import OUTPUT, Observer, match_layers
from layer_atlas.models.forwards import Forward
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import load_network
from layer_atlas.models.pixels import from_bytes, recoloured, resized

_AT_ONCE = 32
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class Features:
    """Features (N, K) of images in a layer."""

    mean: NDArray[np.float32]
    """Mean over positions."""
    peak: NDArray[np.float32]
    """Maximum over positions."""


class JudgeNetwork:
    """One layer of a network: images of any size in, a vector of features for each out.

    Args:
        entry: a model as in `models=[...]` of a sweep. Unless its output is read, its `layers`
            name the layer: `{name: squeezenet1_1, layers: [features.12]}`.
        output: whether to read the network's output instead of a layer.
    Raises:
        UserError: no such model, or its layers are not one layer.
    """

    def __init__(self, entry: str, output: bool = False) -> None:
        (model,) = compose([f"models=[{entry}]"]).models
        self.network = load_network(model)
        side = self.network.input_size
        self.size = (side, side)
        infos = describe_layers(self.network.module, self.network.example(self.size))
        patterns: Sequence[str] = (OUTPUT,) if output else model.layers or ()
        layers = match_layers(patterns, infos, self.network.module, model.title)
        if len(layers) != 1:
            raise UserError(
                f"observer {model.title!r} needs one layer, and its layers {list(patterns)} are "
                f"{len(layers)}; add one to the entry: {{name: ..., layers: [NAME]}}."
            )
        self.layer, self.n_features = layers[0].name, layers[0].n_channels
        self.observe = Observer(self.network.module, layers)
        self.label = model.title if output else f"{model.title} {self.layer}"

    def __call__(self, pixels: Tensor) -> Features:
        """Return the features of N images (N, H, W, 3) uint8, resized to the network's size.

        Raises:
            UserError: the layer needs weights that the file lacks.
        """
        parts = [self._features(part) for part in pixels.split(_AT_ONCE)]
        features = Features(*(torch.cat(tensors).numpy() for tensors in zip(*parts, strict=True)))
        if np.isnan(features.mean).any():
            raise UserError(
                f"layer {self.layer!r} of {self.network.label!r} gives no numbers: its weights "
                "may be incomplete. Choose an earlier layer, or give a complete file."
            )
        return features

    def _features(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        images = recoloured(from_bytes(pixels), len(self.network.mean))
        inputs = self.network.normalise(resized(images, self.size))
        responses = self.observe(inputs)[self.layer]
        return responses.mean, responses.peak


@torch.no_grad()
def mean_responses(forward: Forward, pixels: Tensor, device: torch.device = _CPU) -> Tensor:
    """Return the mean response (N, K) of each channel of a layer to images (N, H, W, 3) uint8.

    Args:
        forward: images (B, C, H, W) in [0, 1] to activations of the layer.
        pixels: the images.
        device: the device of the forward.
    """
    parts = pixels.split(_AT_ONCE)
    return torch.cat([forward(from_bytes(part.to(device)))[0].mean(dim=2) for part in parts])
