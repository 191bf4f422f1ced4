"""Independent check of stored activations: measures images again with plain hooks.

The network is loaded afresh and called as its authors would call it, one image at a time, with a
forward hook on the layer. This module shares no code with the forward pass that optimized and
measured the images: no capture, no trace, no conversion, no axes that planning found. A bug in any
of these cannot hide itself here.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from layer_atlas.atlas.gather import LayerView
from layer_atlas.config.config import Config
from layer_atlas.models.load import Network, load_network
from layer_atlas.models.pixels import resized
from layer_atlas.plan.jobs import STATUS, LayerInfo
from layer_atlas.plan.plan import ModelPlan
from layer_atlas.visualization.objectives import ObjectiveContext, make_objective

TOLERANCE = 1e-3
"""Largest difference between a stored activation and one measured again, relative to the larger of
itself and the mean absolute activation of the layer."""

_MOST, _FEWEST, _TOTAL = 64, 8, 1024
"""Images measured again: per layer, and about so many in all."""


@dataclass(frozen=True)
class Remeasurement:
    """The result of measuring again."""

    count: int
    """Activations."""
    worst: float
    """Largest relative difference."""
    problems: list[str]


def remeasure(config: Config, views: Sequence[LayerView]) -> Remeasurement:
    """Measure a sample of every layer's images again.

    Args:
        config: that the images were made with; its models are loaded.
        views: of the layers.
    Raises:
        UserError: a network cannot be loaded.
    """
    models = {model.title: model for model in config.models}
    count, worst, problems = 0, 0.0, list[str]()
    for plan in {view.model.label: view.model for view in views}.values():
        networks = {label: load_network(models[label]) for label in plan.networks}
        if changed := _changed(plan, networks):
            problems.append(changed)
            continue
        for view in (view for view in views if view.model is plan):
            sample = min(max(_TOTAL // len(views), _FEWEST), _MOST)
            n, off, stored, measured = _layer(view, networks, sample)
            count, worst = count + n, max(worst, off)
            if off > TOLERANCE:
                problems.append(
                    f"{view.group}: a plain hook measures {measured:.6g} where {stored:.6g} is "
                    f"stored ({100 * off:.3g} % off)"
                )
    return Remeasurement(count, worst, problems)


def _changed(plan: ModelPlan, networks: Mapping[str, Network]) -> str | None:
    """Name a network with other weights or code than when the images were made, if there is one."""
    for label, network in networks.items():
        planned, found = plan.networks[label], network.identity
        if found.weights_sha256 != planned.weights_sha256:
            return f"the weights of model {label!r} are not those that the images were made with"
        if found.code != planned.code:
            return f"the code of model {label!r} is not that which the images were made with"
    return None


def _layer(
    view: LayerView, networks: Mapping[str, Network], sample: int
) -> tuple[int, float, float, float]:
    """Count activations; returns the largest difference too, and its stored and measured value."""
    measure = _PlainMeasurement(view, networks)
    count, worst, at = 0, 0.0, (0.0, 0.0)
    for stored, response, image, target in _sample(view, sample):
        score, mean = measure(image, target)
        # Relative to the layer's scale: an activation near 0 is the difference of larger numbers.
        scale = max(measure.mean_absolute, 1e-12)
        off = np.abs(score - stored) / np.maximum(np.abs(stored), scale)
        if response is not None:
            off = np.maximum(off, np.abs(mean - response).max(axis=1) / scale)
        # NaN compares with nothing, and would pass.
        off = np.where(np.isfinite(off), off, np.inf).reshape(-1)
        count += off.size
        if off.max() > worst:
            index = int(np.argmax(off))
            worst, at = float(off.max()), (float(stored.flat[index]), float(score.flat[index]))
    return count, worst, *at


def _sample(
    view: LayerView, most: int
) -> Iterator[tuple[NDArray[Any], NDArray[Any] | None, NDArray[np.uint8], int]]:
    """Activation (V,), response (V, K), images (V, H, W, C), target of live jobs over the layer."""
    # Rows are ordered by target: a stride spreads the sample over the whole layer.
    stride = max(1, len(view.targets) * len(view.plan.seeds) // most)
    for jobs in view.stored_jobs():
        arrays = jobs.arrays
        for i in np.flatnonzero((jobs.rows % stride == 0) & (arrays["status"] == STATUS["ok"])):
            image = arrays["image"][i].copy()  # torch takes no read-only arrays
            response = arrays["response"][i] if "response" in arrays else None
            yield (
                np.atleast_1d(arrays["activation"][i]),
                None if response is None else np.atleast_2d(response),
                image if view.variants else image[None],
                int(arrays["target"][i]),
            )


class _PlainMeasurement:
    """Measures images of a layer's targets by plain hooks."""

    def __init__(self, view: LayerView, networks: Mapping[str, Network]) -> None:
        model, layer = view.model, view.layer
        read = [(model.label, layer.info), *((ref.model, ref.info) for ref in layer.others)]
        self.hooks = [_Hook(networks[label], info, model, label) for label, info in read]
        context = ObjectiveContext(
            layers=tuple(info for _, info in read),
            activations=self._activations,
            find=view.folder.input,
            colours=view.colours,
            size=view.image_size,
            device=torch.device("cpu"),
        )
        self.objective = make_objective(model.recipe.objective, context)
        self.mean_absolute = 0.0

    @torch.no_grad()
    def __call__(
        self, images: NDArray[np.uint8], target: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores (V,) and mean responses (V, K) of the variants (V, H, W, C) of a job."""
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0
        activations = self._activations(pixels)
        self.mean_absolute = float(activations[0].abs().mean())
        targets = torch.full((len(images),), target, dtype=torch.int64)
        return self.objective.score(activations, targets).numpy(), activations[0].mean(
            dim=2
        ).numpy()

    def _activations(self, images: Tensor) -> list[Tensor]:
        """Activations (V, K, L) of each layer, image by image."""
        return [torch.cat([hook(image[None]) for image in images]) for hook in self.hooks]


class _StopForward(Exception):
    """Ends the forward pass after the layer."""


class _Hook:
    """Reads one layer of a network by a forward hook."""

    def __init__(self, network: Network, info: LayerInfo, model: ModelPlan, label: str) -> None:
        # Authors may have left it in training mode.
        self.module, self.info = network.module.eval(), info
        self.mean, self.std = (
            torch.tensor(values).view(1, -1, 1, 1) for values in (network.mean, network.std)
        )
        self.fixed = model.networks[label].fixed_size
        named = dict(self.module.named_modules(remove_duplicate=False))
        self.layer = named.get(info.name, self.module)
        colours, (height, width) = len(network.mean), model.recipe.image_size
        if self.fixed is not None:
            height = width = self.fixed
        self.batch, self.channels = _axes(self.output, self.layer, info, (colours, height, width))

    def __call__(self, image: Tensor) -> Tensor:
        """The activation (1, K, L) of an image (1, C, H, W) in [0, 1]."""
        if self.fixed is not None:
            image = resized(image, (self.fixed, self.fixed))
        output = self.output((image - self.mean) / self.std)
        assert output is not None
        axes = [self.batch, self.channels]
        rest = [axis for axis in range(output.ndim) if axis not in axes]
        samples, channels = (output.shape[axis] for axis in axes)
        activation = output.permute(*axes, *rest).reshape(samples, channels, -1)
        end = activation.shape[2] - self.info.suffix_tokens
        return activation[:, :, self.info.prefix_tokens : end].float()

    @torch.no_grad()
    def output(self, inputs: Tensor) -> Tensor | None:
        """The output of the first call of the layer; `None` if the forward pass fails before it."""
        seen: list[Tensor] = []

        def keep(module: nn.Module, args: Any, returned: Any) -> None:
            seen.append(_tensor(returned).clone())
            # What follows the layer need not run, and may fail on one image alone.
            raise _StopForward

        handle = self.layer.register_forward_hook(keep)
        try:
            self.module(inputs)
        except _StopForward:
            return seen[0]
        except Exception:  # noqa: BLE001 - images of a size that the network does not take
            return None
        finally:
            handle.remove()
        return None


def _tensor(returned: Any) -> Tensor:
    """Find the tensor in the output of a module: `logits` or `out` if named, else the first."""
    if isinstance(returned, Tensor):
        return returned
    named = returned if isinstance(returned, Mapping) else getattr(returned, "__dict__", None)
    if isinstance(named, Mapping):
        parts = [named[key] for key in ("logits", "out") if key in named] + list(named.values())
    else:
        parts = list(returned) if isinstance(returned, list | tuple) else []
    for part in parts:
        try:
            return _tensor(part)
        except LookupError:
            continue
    raise LookupError("no tensor")


def _axes(
    output: Callable[[Tensor], Tensor | None],
    layer: nn.Module,
    info: LayerInfo,
    image: tuple[int, int, int],
) -> tuple[int, int]:
    """Find the axes of images and channels of an output from how it grows with its input.

    Where that leaves a choice, the module's type decides, and at last the plan.
    """
    colours, height, width = image
    one = output(torch.zeros(1, colours, height, width))
    two = output(torch.zeros(2, colours, height, width))
    # Both sides grow, so that no axis of positions passes for that of channels.
    large = output(torch.zeros(1, colours, height + 64, width + 128))
    assert one is not None
    batch = next(
        (a for a in range(one.ndim) if two is not None and two.shape[a] == 2 * one.shape[a]), 0
    )
    count = info.n_channels
    possible = [a for a in range(one.ndim) if a != batch and one.shape[a] == count]
    if large is not None and large.ndim == one.ndim:
        kept = [a for a in possible if large.shape[a] == count]
        possible = kept or possible
    if len(possible) != 1 and isinstance(layer, nn.Linear | nn.LayerNorm | nn.MultiheadAttention):
        possible = [one.ndim - 1]
    elif len(possible) != 1 and isinstance(layer, nn.Conv2d | nn.BatchNorm2d | nn.GroupNorm):
        possible = [1]
    if len(possible) == 1:
        return batch, possible[0]
    # The plan counts the channels' axis with the batch in front.
    return batch, info.channel_axis - (info.channel_axis <= batch)
