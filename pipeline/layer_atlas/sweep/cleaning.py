"""Cleaning: which files of an output folder no sweep needs any more.

A file is what its name and place say; one that they do not explain is left alone, whatever it is,
and so are links. Of the rest, what the manifest's plan wants is kept.
"""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layer_atlas.atlas.gather import LayerView, layer_views
from layer_atlas.datasets.listing import Listing
from layer_atlas.datasets.tasks import all_statistics, blocks_of, examples_of
from layer_atlas.errors import StorageError, UserError
from layer_atlas.plan.labels import counted
from layer_atlas.plan.plan import Plan
from layer_atlas.presentation.site.files import folder_of
from layer_atlas.store.checksummed_file import CorruptFile
from layer_atlas.store.failures import Failure, read_failure
from layer_atlas.store.folder import OutputFolder, safe_name
from layer_atlas.store.manifest import plan_of
from layer_atlas.store.shards import read_header, read_shard
from layer_atlas.sweep.failed_tasks import is_done
from layer_atlas.sweep.workers import detached

_OF_DONE = "failures of tasks that are done"
_KEY = "[0-9a-f]{64}"
_WORKER = "worker-[0-9a-f]{8}"
_LAYER = "(?P<model>[^/]+)/(?P<layer>[^/]+?)"

KINDS = {
    "montages and sheets": rf"montages/{_LAYER}(\.evidence-\d+)?\.png",
    "animations": rf"animations/{_LAYER}/[^/]+\.(png|webp)",
    "shards": rf"store/{_LAYER}/{_KEY}\.h5",
    "studies of photographs": rf"store/{_LAYER}/(study|fields|photographs)/{_KEY}\.h5",
    "examples of photographs": rf"store/{_LAYER}/examples/{_KEY}\.h5",
    "corrupt files, set aside": rf"store/{_LAYER}/([a-z]+/)?{_KEY}\.h5\.corrupt-[0-9a-f]{{8}}",
    "lists of photographs": rf"photographs/{_KEY}\.jsonl",
    "inputs of recipes": rf"inputs/{_KEY}(\.[^/]*)?",
    _OF_DONE: rf"failures/(retried/)?{_KEY}\.\d+(\.[0-9a-f]{{8}})?\.json",
    "what workers were told and said": rf"logs/(drain|{_WORKER}\.(json|log|pulse|submitted|exit))",
    "files of Slurm jobs": r"logs/slurm/([0-9_]+_(submitted\.pkl|log\.out)|[0-9a-f]{32}\.pkl)",
    "unfinished files": rf"(.*/)?\.[^/]*\.tmp|logs/{_WORKER}\.(pulse|exit)\.tmp",
    "figures": r"figures/[^/]+",
    "sites": r"site/(index\.html|[0-9a-f]{16}/.+)",
    "atlas and manifest": r"atlas\.(h5|json)|manifest\.json|lock",
}
"""Every kind of file that an output folder holds, by its path; in the order of removal."""


@dataclass
class DatasetEvidence:
    """What a look through an output folder found."""

    removable: dict[str, list[Path]] = field(default_factory=dict)
    """Files that nothing needs, by their kind."""
    unknown: list[Path] = field(default_factory=list)
    """What is no file of any kind."""
    failures: list[Failure] = field(default_factory=list)
    """The records among the removable files."""


def look_through(folder: OutputFolder, manifest: dict[str, Any]) -> DatasetEvidence:
    """Find what can go; call it under the lock only.

    Raises:
        UserError: workers may be writing that go on by themselves; or the list of photographs is
            gone, so that nobody can tell which studies of them are wanted.
    """
    at_work = detached(folder)
    if at_work:
        raise UserError(
            f"{counted(len(at_work), 'worker')} that {at_work[0].engine} was given may still be at "
            f"work in {str(folder.root)!r}. Wait for them: `atlas run` takes them up again, and "
            "leaves when they have ended."
        )
    wanted, found = Wanted(folder, manifest), DatasetEvidence({kind: [] for kind in KINDS})
    for path in _entries(folder.root):
        kind, place = _kind(folder, path)
        if kind is not None and wanted.has(path, place.get("model")):
            continue
        if kind is None or (place and not Path(folder.store, *place.values()).is_dir()):
            found.unknown.append(path)  # a picture of no layer is somebody's own
        else:
            found.removable[kind].append(path)
    found.removable = {kind: paths for kind, paths in found.removable.items() if paths}
    records = map(read_failure, found.removable.get(_OF_DONE, ()))
    found.failures = [record for record in records if record is not None]
    return found


def remove(folder: OutputFolder, found: DatasetEvidence) -> None:
    """Delete the removable files, and the folders that are empty then. Raises StorageError."""
    for path in (path for paths in found.removable.values() for path in paths):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot remove {path}: {error.strerror or error}") from error
        for parent in path.parents:
            if parent == folder.root or any(parent.iterdir()):
                break
            parent.rmdir()


def _entries(root: Path) -> Iterator[Path]:
    """Everything below a folder but folders; links are not followed."""
    for folder, folders, files in os.walk(root):
        links = (name for name in folders if Path(folder, name).is_symlink())
        yield from (Path(folder, name) for name in sorted((*links, *files)))


def _kind(folder: OutputFolder, path: Path) -> tuple[str | None, dict[str, str]]:
    """What an entry is, if that is known, and of which model and layer."""
    if path.is_symlink() or not path.is_file():
        return None, {}
    for kind, pattern in KINDS.items():
        match = re.fullmatch(pattern, folder.relative(path), re.DOTALL)
        if match is not None:
            return kind, match.groupdict()
    return None, {}


class Wanted:
    """Which files a sweep needs."""

    def __init__(self, folder: OutputFolder, manifest: dict[str, Any]) -> None:
        plan = plan_of(manifest)
        views = list(layer_views(folder, plan))
        self.skipped_models = {safe_name(model.model) for model in plan.skipped_models}
        """Their files are not for anybody to judge."""
        self.layers = {folder.layer(v.model.label, v.layer.info.name): v for v in views}
        self.paths = {folder.atlas, folder.summary, folder.manifest, folder.lock}
        for view in views:
            self.paths.update(*(located for _, _, located in view.located()))
            self.paths.update(_pictures(view))
        self.paths.update(_about_photographs(folder, plan), _records(folder))
        self.paths.update(map(folder.input, plan.inputs))
        # Whatever was drawn is kept; half-written files have names with a dot.
        self.paths.update(folder.figures.glob("[!.]*"))
        self.paths.update(_site(folder))
        self._sound: dict[Path, bool] = {}

    def has(self, path: Path, model: str | None) -> bool:
        """Whether a file is needed, which is of a model or of none."""
        if path in self.paths or model in self.skipped_models:
            return True
        view = self.layers.get(path.parent)
        return view is not None and self._stands_in(view, path)

    def _stands_in(self, view: LayerView, path: Path) -> bool:
        """Whether it is a shard with jobs of which the file that should hold them is damaged.

        Or is yet to be made, with the environment that is wanted now.
        """
        try:
            header = read_header(path)
        except (CorruptFile, OSError):
            return False
        left = (shard for _, shard in view.left() if shard.series.key == header.series)
        if any(not set(shard.targets).isdisjoint(header.channels) for shard in left):
            return True
        return not all(
            self._is_sound(view, file)
            for _, shard, located in view.located()
            if shard.series.key == header.series
            for file, channels in located.items()
            if not set(channels).isdisjoint(header.channels)
        )

    def _is_sound(self, view: LayerView, path: Path) -> bool:
        if path not in self._sound:
            self._sound[path] = False
            with contextlib.suppress(CorruptFile, OSError):
                read_shard(path, view.model, view.layer)
                self._sound[path] = True
        return self._sound[path]


def _site(folder: OutputFolder) -> Iterator[Path]:
    yield folder.site / "index.html"
    if name := folder_of(folder.site):
        yield from (folder.site / name).rglob("*")


def _pictures(view: LayerView) -> Iterable[Path]:
    names = view.model.label, view.layer.info.name
    folder = view.folder
    return (folder.montage(*names), *folder.sheets(*names), *folder.animations(*names))


def _about_photographs(folder: OutputFolder, plan: Plan) -> Iterator[Path]:
    if plan.dataset_plan is None:
        return
    listing = folder.listing(plan.dataset_plan.listing)
    yield listing
    for model in plan.models:
        statistics_tasks = all_statistics(model, plan.dataset_plan)
        for block in blocks_of(statistics_tasks, Listing(listing)):
            yield from map(folder.product, block.products)
        for dataset_stats in statistics_tasks:
            yield from map(folder.product, (dataset_stats.product, dataset_stats.field))
    for task in examples_of(plan, plan.dataset_plan):
        yield from map(folder.product, task.products)


def _records(folder: OutputFolder) -> Iterator[Path]:
    """Records of tasks that are not done, or that nobody can read; and the logs they name."""
    for path in (*folder.failures.glob("*.json"), *folder.retried.glob("*.json")):
        record = read_failure(path)
        if record is None or not is_done(folder, record):
            yield path
            yield from () if record is None else [folder.root / record.log]
