"""Make what people look at, from the store and the manifest alone: atlas, montages and site.

Collation runs in a child process: on a full disk the HDF5 library may take its process down, and
the driver must be there to report it.
"""

import json
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import yaml

from layer_atlas.atlas.child_process import ProcessDied, run_apart
from layer_atlas.atlas.gather import LayerView, layer_views
from layer_atlas.atlas.hdf5 import write_atlas
from layer_atlas.config.config import CollateSettings
from layer_atlas.config.records import build, canonical_json, digest, plain
from layer_atlas.errors import EXIT_IO, EXIT_OK, EXIT_USER_ERROR, StorageError, UserError
from layer_atlas.plan.plan import Plan
from layer_atlas.presentation.montages.animations import check_snapshots, write_animations
from layer_atlas.presentation.montages.evidence_pages import write_pages
from layer_atlas.presentation.montages.montage import montage_bytes, write_montage
from layer_atlas.presentation.site.make import make_site
from layer_atlas.presentation.summary import is_current, read_summary, write_summary
from layer_atlas.processes import die_with, die_with_parent, usable_cores
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
    if content is None or not is_current(folder, content, settings):
        collate(folder, settings)
    if settings.site:
        make_site(folder)


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
    check_snapshots(settings, min(model.recipe.snapshots for model in plan.models))
    views = list(layer_views(folder, plan))
    content = content_of(plan, views)
    # Without a summary an atlas is not current: an interruption from here on is noticed.
    folder.summary.unlink(missing_ok=True)
    largest = max(montage_bytes(view, settings) for view in views)
    paint(views, partial(write_montage, folder, settings=settings), largest)
    if settings.animations != "none":
        paint(views, partial(write_animations, settings=settings))
    attributes = {
        "config": yaml.safe_dump(manifest["config"], sort_keys=False),
        "versions": canonical_json(manifest["versions"]),
    }
    write_atlas(folder, views, attributes, content)
    # Sheets read the atlas, which holds the dataset images and their statistics.
    if settings.montage == "evidence":
        paint(views, partial(write_pages, tile=settings.tile))
    write_summary(folder, views, settings)
    for path in dict.fromkeys(path for view in views for path in view.corrupt):
        logger.warning("corrupt file set aside, to be computed again: %s", path)


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
    dataset_images = [view.dataset_images_done() for view in views]
    return digest([plain(plan), odd, given_up, dataset_images])
