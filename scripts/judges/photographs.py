"""Photographs to judge by: a folder of them, all cut to one size, and their classes."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from layer_atlas.datasets.evidence import STRONGEST
from layer_atlas.datasets.sources import FolderImages, read_view
from layer_atlas.errors import UserError
from layer_atlas.visualization.optimization.image_statistics import high_frequency_share

_AT_ONCE = 32


@dataclass(frozen=True)
class DatasetImages:
    """A folder of photographs, all of the size of the images."""

    pixels: Tensor
    """(N, size, size, 3) uint8."""
    names: tuple[str, ...]
    """Path of each within the folder."""
    unreadable: int

    @property
    def high_frequency_share(self) -> float:
        """Mean over the photographs: what natural images have."""
        parts = [high_frequency_share(part) for part in self.pixels.split(_AT_ONCE)]
        return float(torch.cat(parts).mean())


def read_photographs(folder: Path, size: int) -> DatasetImages:
    """Read every photograph of a folder; raises UserError if there are too few."""
    source = FolderImages(folder)
    entries = list(source.entries())
    views = [read_view(source, *numbered, size) for numbered in enumerate(entries)]
    pairs = zip(entries, views, strict=True)
    read = [(entry.path, view.pixels) for entry, view in pairs if view.pixels is not None]
    if len(read) < STRONGEST:
        raise UserError(
            f"--photos {folder}: {len(read)} readable photographs; {STRONGEST} are the least."
        )
    names, pixels = zip(*read, strict=True)
    return DatasetImages(torch.from_numpy(np.stack(pixels)), names, len(views) - len(read))


def read_images(folder: Path, targets: Sequence[int], size: int) -> Tensor:
    """Read the images that another tool made of a layer's targets: TARGET.png in a folder.

    Returns: (n, size, size, 3) uint8.
    Raises:
        UserError: an image is missing, unreadable or of another size.
    """
    read = []
    for target in targets:
        file = folder / f"{target}.png"
        try:
            with Image.open(file) as image:
                read.append(np.asarray(image.convert("RGB")))
        except OSError as error:
            raise UserError(
                f"--images: {file} cannot be read ({error}); give a folder with LAYER/TARGET.png "
                "for every layer and target, as `benchmark.py` writes them."
            ) from error
        if read[-1].shape != (size, size, 3):
            height, width, _ = read[-1].shape
            raise UserError(f"--images: {file} has {width}x{height} pixels; judged are {size}.")
    return torch.from_numpy(np.stack(read))


def read_classes(file: Path, names: tuple[str, ...]) -> NDArray[np.int64]:
    """Read the class index of each photograph.

    Args:
        file: a JSON object of file names and class indices, or a CSV file with both in a row.
        names: the photographs, by their paths within their folder.
    Returns: (N,) class indices.
    Raises:
        UserError: the file cannot be read, or lacks a photograph.
    """
    try:
        classes = _json_classes(file) if file.suffix == ".json" else _csv_classes(file)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise UserError(
            f"--classes {file}: {error}. Give a JSON object such as "
            '{"a.jpg": 0}, or a CSV file with a file name and a class index in each row.'
        ) from error
    missing = [name for name in names if name not in classes]
    if missing:
        raise UserError(
            f"--classes {file} has no class for {len(missing)} of {len(names)} photographs, "
            f"{missing[0]!r} among them; add their class indices."
        )
    return np.array([classes[name] for name in names], np.int64)


def _json_classes(file: Path) -> dict[str, int]:
    return {name: int(index) for name, index in json.loads(file.read_text("utf-8")).items()}


def _csv_classes(file: Path) -> dict[str, int]:
    rows = [row for row in csv.reader(file.read_text("utf-8").splitlines()) if row]
    # The first row may be a heading.
    body = rows[1:] if rows and not rows[0][-1].strip().isdecimal() else rows
    return {row[0]: int(row[1]) for row in body if _has_two(row)}


def _has_two(row: list[str]) -> bool:
    if len(row) != 2:
        raise ValueError(f"row {','.join(row)!r} has {len(row)} values instead of 2")
    return True
