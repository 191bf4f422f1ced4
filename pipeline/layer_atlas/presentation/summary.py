"""The summary of an atlas: its content and its results in a small JSON file beside it.

Reading it needs no HDF5, so checking whether an atlas is up to date is fast and safe.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np

from layer_atlas.atlas.gather import LayerView
from layer_atlas.config.config import CollateSettings
from layer_atlas.config.records import build, plain
from layer_atlas.errors import UserError
from layer_atlas.plan.environment import Environment
from layer_atlas.plan.jobs import STATUS
from layer_atlas.plan.labels import mixture, remedy
from layer_atlas.presentation.montages.animations import animation_paths
from layer_atlas.presentation.montages.evidence_pages import n_pages
from layer_atlas.store.files import read_object, write_json
from layer_atlas.store.folder import OutputFolder

_MOST_BYTES = 2**29
"""Largest size of a summary; it names every picture."""


@dataclass(frozen=True)
class Evidence:
    """Agreement of the live images with dataset images."""

    agreement: float
    """Mean agreement."""
    rank: float
    """Median rank."""
    above: float
    """Fraction of images with a larger activation than any dataset image."""


@dataclass(frozen=True)
class AtlasSummary:
    """Content of an atlas, and how its jobs came out."""

    content: str
    """Digest of what the atlas holds."""
    settings: CollateSettings
    """Settings of the pictures."""
    atlas_bytes: int
    """Size of the atlas."""
    pictures: tuple[str, ...]
    """The files beside it, relative to the output folder."""
    counts: dict[str, int]
    """Number of jobs by status."""
    evidence: Evidence | None
    unreadable: int
    """Number of dataset images that could not be read."""
    unreadable_paths: tuple[str, ...]
    """Paths of some of these."""
    mixture: str = ""
    """A sentence on the environments that made the images, if there are several."""


def write_summary(
    folder: OutputFolder, views: Sequence[LayerView], settings: CollateSettings
) -> None:
    """Write the summary of an atlas that was just written. Raises StorageError."""
    with h5py.File(folder.atlas, "r") as atlas:
        layers = [atlas[view.group] for view in views]
        paths = [path for view in views for path in _pictures(atlas, view, settings)]
        unreadable, some = _unreadable(layers)
        summary = AtlasSummary(
            content=str(atlas.attrs["content"]),
            settings=settings,
            atlas_bytes=folder.atlas.stat().st_size,
            pictures=tuple(str(path.relative_to(folder.root)) for path in paths),
            counts=_counts(layers),
            evidence=_evidence(layers),
            unreadable=unreadable,
            unreadable_paths=some,
            mixture=_mixture(views),
        )
    write_json(folder.summary, plain(summary))


def read_summary(folder: OutputFolder) -> AtlasSummary | None:
    """Read the summary; None if there is none, or if the atlas beside it is another."""
    try:
        summary = build(AtlasSummary, read_object(folder.summary, _MOST_BYTES))
        return summary if folder.atlas.stat().st_size == summary.atlas_bytes else None
    except (OSError, ValueError, TypeError, OverflowError, UserError):
        return None


def is_current(folder: OutputFolder, content: str, settings: CollateSettings) -> bool:
    """Whether atlas and pictures exist, of this content and by these settings."""
    summary = read_summary(folder)
    return (
        summary is not None
        and summary.content == content
        and replace(summary.settings, site=settings.site) == settings  # which is no picture
        and all((folder.root / path).exists() for path in summary.pictures)
    )


def _pictures(atlas: h5py.File, view: LayerView, settings: CollateSettings) -> Iterator[Path]:
    """Yield the files that a layer's pictures must have."""
    names = view.model.label, view.layer.info.name
    yield view.folder.montage(*names)
    if settings.montage == "evidence":
        for number in range(n_pages(atlas[view.group], settings.tile)):
            yield view.folder.sheet(*names, number + 1)
    yield from animation_paths(view, atlas[view.group]["status"][...], settings)


def _counts(layers: Sequence[h5py.Group]) -> dict[str, int]:
    status = [layer["status"][()] for layer in layers]
    return {
        word: sum(int(np.count_nonzero(each == code)) for each in status)
        for word, code in STATUS.items()
    }


def _mixture(views: Sequence[LayerView]) -> str:
    models: dict[str, Counter[Environment | None]] = {}
    for view in views:
        models.setdefault(view.model.label, Counter()).update(view.environments())
    return mixture(models.values(), remedy(views[0].plan))


def _evidence(layers: Sequence[h5py.Group]) -> Evidence | None:
    compared = [layer for layer in layers if "agreement" in layer]
    live = [
        (layer["status"][()] == STATUS["ok"]) & np.isfinite(layer["agreement"][()])
        for layer in compared
    ]
    if not any(ok.any() for ok in live):
        return None
    agreement, rank, percentile = (
        np.concatenate([layer[name][()][ok] for layer, ok in zip(compared, live, strict=True)])
        for name in ("agreement", "agreement_rank", "percentile")
    )
    above = np.mean(percentile == 100)
    return Evidence(float(np.mean(agreement)), float(np.median(rank)), float(above))


def _unreadable(layers: Sequence[h5py.Group]) -> tuple[int, tuple[str, ...]]:
    """Number of dataset images that the worst layer could not read, and paths of some."""
    seen = [layer["dataset"].attrs for layer in layers if "dataset" in layer]
    worst = max(seen, key=lambda attrs: attrs["unreadable"], default=None)
    if worst is None:
        return 0, ()
    return int(worst["unreadable"]), tuple(map(str, worst["unreadable_paths"][:3]))
