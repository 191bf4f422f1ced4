"""Generator parameterization: images as latents of a generative network, a learned prior."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layer_atlas.config.inputs import Find
from layer_atlas.config.parameterizations import Generator
from layer_atlas.config.parameterizations import Parameterization as Config
from layer_atlas.config.records import build, canonical_json, implements, plain
from layer_atlas.errors import UserError, first_of, kind_and_reason
from layer_atlas.imports import import_callable, import_planned, source_digest
from layer_atlas.models.architectures import build_module
from layer_atlas.models.pixels import resized
from layer_atlas.models.weights import load_state, read_weights
from layer_atlas.visualization.parameterizations.base import Parameterization, Shape, normal, rows

Prior = Callable[[Tensor], Tensor]
"""Function of latents (B, ...) that returns the generator's images (B, C, h, w)."""

_SETTING, _RETURNS = "parameterization.target", "that returns the generator"


@implements(Generator)
class GeneratorImages(Parameterization):
    """Images as latents of a generator, restricted to what the generator can produce.

    Nguyen et al. 2016, "Synthesizing the preferred inputs for neurons in neural networks via deep
    generator networks" (arXiv 1605.09304): gradient ascent in the latents, which are clamped to
    bounds after every step. The generator is frozen, in eval mode and in fp32; its images are
    resized.

    Parameters: latents (B, P), in multiples of `step`.
    """

    def __init__(self, config: Generator, shape: Shape, keys: Tensor, find: Find) -> None:
        super().__init__()
        self.config, self.size = config, shape[1:]
        self.prior = load_prior(config, shape[0], find(config.weights), keys.device)
        self.latents = normal(keys, config.latent, 1.0 / config.step)
        self.constrain_()

    def forward(self) -> Tensor:
        """Render images (B, C, H, W) in [0, 1]."""
        output = self.prior(rows(self.latents, self.config.latent) * self.config.step)
        darkest, brightest = self.config.output
        return ((resized(output, self.size) - darkest) / (brightest - darkest)).clamp(0.0, 1.0)

    @torch.no_grad()
    def constrain_(self) -> None:
        """Clamp the latents to their bounds, in place."""
        if self.config.bounds is not None:
            lowest, highest = self.config.bounds
            self.latents.clamp_(lowest / self.config.step, highest / self.config.step)


def load_prior(config: Generator, colours: int, weights: Path, device: torch.device) -> Prior:
    """Build a generator and load its weights; the last two generators are cached.

    Args:
        config: the generator.
        colours: number C of colours of its images.
        weights: the weights file.
        device: device that it runs on.
    Raises:
        UserError: it cannot be built, its code has changed since the sweep was planned, its weights
            do not fit, or its images do not have C colours.
    """
    # As text, because the arguments may not be hashable.
    return _loaded(canonical_json(plain(config)), colours, weights, device)


@lru_cache(maxsize=2)
def _loaded(record: str, colours: int, weights: Path, device: torch.device) -> Prior:
    # The inverse of the text: lru_cache needs hashable arguments.
    config = build(Generator, json.loads(record))
    network = _with_weights(config, weights).eval().requires_grad_(False)
    network.to(device, torch.float32)
    _dry_run(network, config, colours, device)
    return lambda latents: network(latents).float()


def _with_weights(config: Generator, weights: Path) -> nn.Module:
    function = import_planned(config.target, _SETTING, _RETURNS, config.source)
    network = build_module(lambda: function(**(config.args or {})), _SETTING, config.target)
    missing = load_state(network, read_weights(weights), config.target).missing
    # Stricter than for networks, whose unused layers may lack tensors: every image passes through
    # all of it.
    if missing:
        raise UserError(
            f"weights {str(weights)!r} do not fit or lack tensors of {_SETTING}={config.target!r}: "
            f"{first_of(missing)}."
        )
    return network


@torch.no_grad()
def _dry_run(network: nn.Module, config: Generator, colours: int, device: torch.device) -> None:
    """Generate two images, so that errors appear before the sweep begins."""
    latents = torch.zeros(2, *config.latent, device=device)
    try:
        output: Any = network(latents)
    except Exception as error:
        raise UserError(
            f"{_SETTING}={config.target!r} does not take latents of {list(latents.shape)} "
            f"({kind_and_reason(error)}). Set parameterization.latent to the shape of one."
        ) from error
    if not isinstance(output, Tensor) or output.ndim != 4 or output.shape[:2] != (2, colours):
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UserError(
            f"{_SETTING}={config.target!r} returns {shape} for latents of {list(latents.shape)}; "
            f"the network takes images of {colours} colours: [2, {colours}, height, width]."
        )


def with_source(config: Config) -> Config:
    """Return a record that includes the digest of the generator's source.

    Raises:
        UserError: the generator cannot be imported.
    """
    if not isinstance(config, Generator):
        return config
    return replace(config, source=source_digest(import_callable(config.target, _SETTING, _RETURNS)))
