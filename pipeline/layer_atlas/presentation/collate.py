"""Make what people look at, from the store and the manifest alone: atlas, montages and site.

Collation runs in a child process: on a full disk the HDF5 library may take its process down, and
the driver must be there to report it. The summary of an atlas is a small JSON file
beside it. Reading it needs no HDF5, so checking whether an atlas is up to date is fast and safe.
"""

import contextlib
import hashlib
import json
import logging
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import yaml

from layer_atlas.atlas.comparison import has_similarities
from layer_atlas.atlas.gather import LayerView, layer_views
from layer_atlas.atlas.hdf5 import write_atlas
from layer_atlas.atlas.reader import open_atlas
from layer_atlas.atlas.words import words_key
from layer_atlas.config.config import CollateSettings
from layer_atlas.config.records import build, canonical_json, digest, plain
from layer_atlas.errors import EXIT_IO, EXIT_OK, EXIT_USER_ERROR, StorageError, UserError
from layer_atlas.logs import step
from layer_atlas.plan.environment import Environment
from layer_atlas.plan.jobs import STATUS
from layer_atlas.plan.labels import mixture, remedy
from layer_atlas.plan.plan import Plan
from layer_atlas.presentation.montages.evidence_pages import n_pages, write_pages
from layer_atlas.presentation.montages.map_picture import map_paths, write_maps
from layer_atlas.presentation.montages.montage import (
    animation_paths,
    check_snapshots,
    montage_bytes,
    write_animations,
    write_montage,
)
from layer_atlas.presentation.names import named, with_labels
from layer_atlas.presentation.site.make import make_site
from layer_atlas.processes import ProcessDied, die_with, die_with_parent, run_apart, usable_cores
from layer_atlas.store.files import read_object, write_json
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.lock import locked
from layer_atlas.store.manifest import plan_of, read_manifest

logger = logging.getLogger(__name__)

_MOST_PAINTERS = 16
_MEMORY = 1_200_000_000
"""Bytes that the montages being drawn may take together."""


def make_atlas(folder: OutputFolder, settings: CollateSettings, content: str | None = None) -> None:
    """Collate, and make the site if the settings ask for it.

    Args:
        folder: the output folder; locked by the caller.
        settings: how the pictures look, and whether there is a site.
        content: digest of what the atlas is to hold; an atlas of this content with such pictures
            is kept.
    Raises:
        StorageError: the disk is full or fails.
        UserError: the list of dataset images is gone or unreadable, or animations are requested
            of a sweep without snapshots.
    """
    # As long as a file of labels is only named, a change in it could not be noticed.
    if settings.labels:
        settings = with_labels(settings, plan_of(read_manifest(folder)))
    if content is None or not is_current(folder, content, settings):
        with step("collating: atlas and montages"):
            collate(folder, settings)
    if settings.site:
        with step("collating: site"):
            make_site(folder, settings.names, settings.map)


def ensure_atlas(folder: OutputFolder) -> None:
    """Make the atlas again with its own settings, unless it is of the shards that are there.

    An atlas without a manifest comes from elsewhere and is kept.

    Raises:
        UserError: there is no run in the folder, or another launch is at work on it.
        StorageError: the disk is full or fails.
    """
    if folder.atlas.exists() and not folder.manifest.exists():
        return
    manifest, summary = read_manifest(folder), read_summary(folder)
    plan = plan_of(manifest)
    if summary is None or summary.content != content_of(plan, list(layer_views(folder, plan))):
        how = build(CollateSettings, manifest["config"]["collate"], "collate")
        with locked(folder):
            make_atlas(folder, summary.settings if summary else how)


def site_settings(folder: OutputFolder, asked: CollateSettings) -> CollateSettings:
    """Return settings for the site of an atlas, where those of its collation fill what is not set.

    Raises:
        UserError: a name or a label of what the atlas does not have.
    """
    with open_atlas(folder.atlas) as atlas:
        names = named(asked.names, asked.labels, atlas.target_spaces)
    summary = read_summary(folder)
    before = summary.settings if summary else asked
    projection = before.map if asked.map == "none" else asked.map
    return replace(asked, names=names or before.names, labels=None, map=projection)


def collate(folder: OutputFolder, settings: CollateSettings) -> None:
    """Collate in a child process.

    Args:
        folder: the output folder.
        settings: how the montages look.
    Raises:
        StorageError: the disk is full or fails.
        UserError: the list of dataset images is gone or unreadable, or animations are requested
            of a sweep without snapshots.
    """
    try:
        run_apart("collate-here", str(folder.root.resolve()), canonical_json(vars(settings)))
    except ProcessDied as killed:
        reason = "is the memory full?" if str(killed) == "SIGKILL" else "is the disk full?"
        raise StorageError(f"collating {folder.root} died of {killed}; {reason}") from killed


def main(argv: list[str]) -> int:
    """Run the child process: `collate-here OUTPUT_FOLDER SETTINGS`."""
    die_with_parent()
    folder = OutputFolder(Path(argv[0]))
    settings = build(CollateSettings, json.loads(argv[1]), "collate")
    try:
        collate_here(folder, settings)
    except (StorageError, OSError) as error:
        print(error, file=sys.stderr)
        return EXIT_IO
    except UserError as error:
        print(error, file=sys.stderr)
        return EXIT_USER_ERROR
    return EXIT_OK


def collate_here(folder: OutputFolder, settings: CollateSettings) -> None:
    """Write pictures and atlas."""
    manifest = read_manifest(folder)
    plan = plan_of(manifest)
    settings = with_labels(settings, plan)
    check_snapshots(settings, min(model.recipe.snapshots for model in plan.models))
    views = list(layer_views(folder, plan))
    if not all(view.layer.targets for view in views):
        raise UserError("the cells of a map are not known yet; the same `atlas run` finds them.")
    content = content_of(plan, views)
    # Without a summary an atlas is not current: an interruption from here on is noticed.
    folder.summary.unlink(missing_ok=True)
    largest = max(montage_bytes(view, settings) for view in views)
    paint(views, partial(write_montage, folder, settings=settings), largest)
    if settings.animations != "none":
        paint(views, partial(write_animations, settings=settings))
    write_atlas(folder, views, _root_attributes(manifest), content)
    # Sheets read the atlas, which holds the dataset images and their statistics.
    if settings.montage == "evidence":
        paint(views, partial(write_pages, tile=settings.tile, names=settings.names))
    paint(views, partial(write_maps, names=settings.names))
    write_summary(folder, views, settings)
    for path in dict.fromkeys(path for view in views for path in view.corrupt):
        logger.warning("corrupt file set aside, to be computed again: %s", path)


def write_atlas_alone(folder: OutputFolder, settings: CollateSettings, content: str) -> None:
    """Write the atlas without pictures and in this process, which takes a fraction of a second.

    It is for atlases that live as long as this process: on a full disk HDF5 may crash it.

    Args:
        folder: the output folder.
        settings: of pictures, which are not made.
        content: digest of what the atlas holds.
    Raises:
        StorageError: the disk is full or fails.
    """
    manifest = read_manifest(folder)
    views = list(layer_views(folder, plan_of(manifest)))
    write_atlas(folder, views, _root_attributes(manifest), content)


def _root_attributes(manifest: dict[str, Any]) -> dict[str, str]:
    """The attributes of an atlas about how it was made."""
    return {
        "config": yaml.safe_dump(manifest["config"], sort_keys=False),
        "versions": canonical_json(manifest["versions"]),
    }


def paint(views: Sequence[LayerView], write: Callable[[LayerView], None], memory: int = 0) -> None:
    """Draw pictures of all layers, several at once, and collect corrupt files in the views.

    Args:
        views: the layers.
        write: draws the pictures of one layer.
        memory: bytes that drawing one layer takes at most.
    Raises:
        StorageError: the disk is full or fails, or the memory is full.
    """
    # Forked, so that nothing is imported or listed again; no thread is running here.
    forked = multiprocessing.get_context("fork")
    room = max(1, _MEMORY // max(memory, 1))
    workers = min(len(views), usable_cores(), _MOST_PAINTERS, room)
    try:
        with ProcessPoolExecutor(workers, forked, die_with, (os.getpid(),)) as pool:
            futures = [pool.submit(_paint, view, write) for view in views]
            for view, future in zip(views, futures, strict=True):
                view.corrupt += future.result()
    except BrokenProcessPool as error:
        reason = "a process that draws pictures was killed; is the memory full?"
        raise StorageError(reason) from error


def _paint(view: LayerView, write: Callable[[LayerView], None]) -> list[Path]:
    write(view)
    return view.corrupt


def content_of(plan: Plan, views: Sequence[LayerView]) -> str:
    """Digest of everything that goes into the atlas.

    The plan decides it, except for shards that are missing or stored under other names.
    """
    odd = [
        [shard.key, sorted((path.name, len(channels)) for path, channels in located.items())]
        for view in views
        for _, shard, located in view.without_file
    ]
    given_up = [
        shard.key for view in views for _, shard in view.left() if shard.key in view.given_up
    ]
    dataset_images = [view.products_done() for view in views]
    words = list(map(words_key, views))
    # Without either the digest is that of atlases before there were words and best matches.
    further = [*([words] if any(words) else []), *(["match"] if has_similarities(views) else [])]
    return digest([plain(plan), odd, given_up, dataset_images, *further])


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
    recognisability: float | None = None
    """Mean recognisability of the images that were judged."""
    recognisability_of_dataset: float | None = None
    """The same of the strongest dataset images."""


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
    atlas_sha256: str = ""
    """Digest of the file, by which damage is found in any part of it; empty in earlier versions."""


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
    write_json(folder.summary, plain(replace(summary, atlas_sha256=_digest_of(folder))))


def _digest_of(folder: OutputFolder) -> str:
    with folder.atlas.open("rb") as atlas:
        return hashlib.file_digest(atlas, "sha256").hexdigest()


def changes(folder: OutputFolder) -> list[str]:
    """Find whether the atlas is no longer the file that was written: a sentence if so.

    A comparison with the store cannot see all damage, as statistics and configs are not in it.

    Raises:
        StorageError: the atlas cannot be read.
    """
    try:
        summary = build(AtlasSummary, read_object(folder.summary, _MOST_BYTES))
        # No other kind of file may be read: a pipe of somebody else's never ends.
        same = folder.atlas.is_file() and folder.atlas.stat().st_size == summary.atlas_bytes
        same = same and summary.atlas_sha256 in ("", _digest_of(folder))
    except FileNotFoundError:
        return []
    except (ValueError, TypeError, OverflowError, UserError):
        return [f"{folder.summary} cannot be read"]
    except OSError as error:
        raise StorageError(f"cannot read {folder.atlas}: {error.strerror}") from error
    return [] if same else [f"{folder.atlas} is not the file that was written"]


def forget(folder: OutputFolder) -> None:
    """Make the next run or collation write the atlas again, where the folder can be written to."""
    with contextlib.suppress(OSError):
        folder.summary.unlink(missing_ok=True)


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
    yield from map_paths(view).values()
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
    recognised, of_dataset = (
        _mean(layers, name) for name in ("recognisability", "dataset/recognisability")
    )
    return Evidence(
        float(np.mean(agreement)), float(np.median(rank)), float(above), recognised, of_dataset
    )


def _mean(layers: Sequence[h5py.Group], name: str) -> float | None:
    """Mean of the numbers that layers have of a statistic; `None` without any."""
    values = [layer[name][()].ravel() for layer in layers if name in layer]
    known = np.concatenate([*values, np.zeros(0)])
    known = known[np.isfinite(known)]
    return float(known.mean()) if len(known) else None


def _unreadable(layers: Sequence[h5py.Group]) -> tuple[int, tuple[str, ...]]:
    """Number of dataset images that the worst layer could not read, and paths of some."""
    seen = [layer["dataset"].attrs for layer in layers if "dataset" in layer]
    worst = max(seen, key=lambda attrs: attrs["unreadable"], default=None)
    if worst is None:
        return 0, ()
    return int(worst["unreadable"]), tuple(map(str, worst["unreadable_paths"][:3]))
