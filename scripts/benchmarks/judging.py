"""Every system's images judged alike: on the 8-bit image, in fp32, by the same functions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layer_atlas.datasets.evidence import STRONGEST, Reference, agreement, make_reference
from layer_atlas.datasets.sources import FolderImages
from layer_atlas.datasets.views import read_view
from layer_atlas.errors import UserError
from layer_atlas.models.colours import from_bytes
from layer_atlas.models.forwards import Forward
from layer_atlas.plan.jobs import STATUS, LayerInfo
from layer_atlas.visualization.objectives import Objective
from layer_atlas.visualization.optimization.image_statistics import high_frequency_share, measure
from layer_atlas.visualization.optimization.renderer import Renderer

_AT_ONCE = 32


@dataclass(frozen=True)
class DatasetImages:
    """A folder of photographs, all of the size of the images."""

    pixels: Tensor
    """(N, size, size, 3) uint8."""
    unreadable: int

    @property
    def high_frequency_share(self) -> float:
        """Mean over the photographs: what natural images have."""
        parts = [high_frequency_share(part) for part in self.pixels.split(_AT_ONCE)]
        return float(torch.cat(parts).mean())


def read_photographs(folder: Path, size: int) -> DatasetImages:
    """Read every photograph of a folder; raises UserError if there are too few."""
    dataset_images = FolderImages(folder)
    views = [
        read_view(dataset_images, *numbered, size)
        for numbered in enumerate(dataset_images.entries())
    ]
    read = [view.pixels for view in views if view.pixels is not None]
    if len(read) < STRONGEST:
        raise UserError(
            f"--photos {folder}: {len(read)} readable photographs; {STRONGEST} are the least."
        )
    return DatasetImages(torch.from_numpy(np.stack(read)), len(views) - len(read))


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
            answers = self._mean_responses(dataset_images.pixels).cpu()
            self.reference = make_reference(answers.numpy())
            self.strongest = answers.argmax(dim=0)

    def photograph(self, channel: int) -> Tensor | None:
        """The photograph that excites a channel most: (size, size, 3) uint8."""
        if self.dataset_images is None or self.strongest is None:
            return None
        return self.dataset_images.pixels[self.strongest[channel]]

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

    @torch.no_grad()
    def _mean_responses(self, pixels: Tensor) -> Tensor:
        parts = pixels.split(_AT_ONCE)
        return torch.cat(
            [self.forward(from_bytes(p.to(self.device)))[0].mean(dim=2) for p in parts]
        )


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
