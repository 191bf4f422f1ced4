"""Every system's images judged alike: on the 8-bit image, in fp32, by the same functions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from judges.networks import mean_responses
from judges.photographs import DatasetImages
from torch import Tensor

from layer_atlas.datasets.evidence import Reference, agreement, make_reference
from layer_atlas.models.forwards import Forward
from layer_atlas.plan.jobs import STATUS, LayerInfo
from layer_atlas.visualization.objectives import Objective
from layer_atlas.visualization.optimization.image_statistics import measure
from layer_atlas.visualization.optimization.renderer import Renderer

_AT_ONCE = 32


class Judge:
    """Judges images of channels of one layer."""

    def __init__(
        self, renderer: Renderer, info: LayerInfo, dataset_images: DatasetImages | None
    ) -> None:
        layer = renderer.layer(info)
        self.forward: Forward = layer.exact
        self.objective: Objective = layer.objective
        self.device = renderer.device
        self.dataset_images = dataset_images
        self.reference: Reference | None = None
        self.strongest: Tensor | None = None
        if dataset_images is not None:
            answers = mean_responses(self.forward, dataset_images.pixels, self.device).cpu()
            self.reference = make_reference(answers.numpy())
            self.strongest = answers.argmax(dim=0)

    def judge(self, images: dict[int, Tensor]) -> dict[int, dict[str, float | bool]]:
        """Statistics of each channel's image (H, W, 3) uint8."""
        channels = list(images)
        verdicts: dict[int, dict[str, float | bool]] = {}
        for start in range(0, len(channels), _AT_ONCE):
            block = channels[start : start + _AT_ONCE]
            columns = self._columns(torch.stack([images[c] for c in block]), block)
            for i, channel in enumerate(block):
                verdicts[channel] = {name: values[i] for name, values in columns.items()}
        return verdicts

    def _columns(self, pixels: Tensor, channels: list[int]) -> dict[str, list[Any]]:
        pixels, target = pixels.to(self.device), torch.tensor(channels, device=self.device)
        measured = measure(self.forward, self.objective, pixels, target)
        columns = {
            "dead": (measured["status"] == STATUS["dead"]).tolist(),
            "robust_activation": measured["activation_robust"].tolist(),
            "high_frequency_share": measured["high_frequency"].tolist(),
        }
        if self.reference is not None:
            response = measured["response"].cpu().numpy()
            agrees, rank = agreement(self.reference, response, np.asarray(channels))
            columns |= {"agreement": agrees.tolist(), "rank": rank.tolist()}
        return columns


def summarised(verdicts: Sequence[dict[str, float | bool]]) -> dict[str, Any]:
    """One number per measure: how many dead, mean of the others, median of ranks."""
    summary: dict[str, Any] = {"dead": sum(bool(verdict["dead"]) for verdict in verdicts)}
    for name in ("robust_activation", "high_frequency_share", "agreement"):
        if name in verdicts[0]:
            summary[name] = finite(np.mean([verdict[name] for verdict in verdicts]))
    if "rank" in verdicts[0]:
        summary["median_rank"] = float(np.median([verdict["rank"] for verdict in verdicts]))
    return summary


def finite(value: Any) -> float | None:
    """The number, or None, which JSON can hold, where there is none."""
    return float(value) if math.isfinite(value) else None
