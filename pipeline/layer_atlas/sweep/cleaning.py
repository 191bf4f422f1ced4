"""Cleaning: finds and removes the files of an output folder that no sweep needs any more.

The path of a file decides its kind. Files with other paths are kept, whatever they are, and so
are links. Of the rest, those that the manifest's plan needs are kept.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layer_atlas.atlas.gather import LayerView, layer_views
from layer_atlas.datasets.sources import Listing
from layer_atlas.datasets.tasks import all_statistics, blocks_of, examples_of, judgings_of
from layer_atlas.errors import StorageError, UserError
from layer_atlas.logs import latest_logs
from layer_atlas.plan.jobs import Task
from layer_atlas.plan.plan import Plan
from layer_atlas.plan.targets import counted
from layer_atlas.presentation.site.files import folder_of
from layer_atlas.store.connections import all_connections
from layer_atlas.store.files import CorruptFile
from layer_atlas.store.folder import OutputFolder, safe_name
from layer_atlas.store.manifest import plan_of
from layer_atlas.store.quarantine import Failure, read_failure
from layer_atlas.store.shards import read_header, read_shard
from layer_atlas.sweep.failed_tasks import is_done
from layer_atlas.sweep.workers import detached

_FAILURES = "failures of tasks that are done"
_KEY = "[0-9a-f]{64}"
_SUFFIX = r"\.(safetensors|h5)"
"""Nothing needs files in the HDF5 format of earlier versions."""
_WORKER = "worker-[0-9a-f]{8}"
_OF_DATASET = "study|fields|photographs|samples|map"
_LAYER = "(?P<model>[^/]+)/(?P<layer>[^/]+?)"

KINDS = {
    "montages and sheets": rf"montages/{_LAYER}(\.evidence-\d+)?\.png",
    "animations": rf"animations/{_LAYER}/[^/]+\.(png|webp)",
    "shards": rf"store/{_LAYER}/{_KEY}{_SUFFIX}",
    "statistics of photographs": rf"store/{_LAYER}/({_OF_DATASET})/{_KEY}{_SUFFIX}",
    "examples of photographs": rf"store/{_LAYER}/examples/{_KEY}{_SUFFIX}",
    "weights between channels": rf"store/{_LAYER}/connections/{_KEY}{_SUFFIX}",
    "features of judged images": rf"store/{_LAYER}/judged/{_KEY}{_SUFFIX}",
    "corrupt files, set aside": (
        rf"store/{_LAYER}/([a-z]+/)?{_KEY}{_SUFFIX}\.corrupt-[0-9a-f]{{8}}"
    ),
    "lists of photographs": rf"photographs/{_KEY}\.jsonl",
    "inputs of recipes": rf"inputs/{_KEY}(\.[^/]*)?",
    _FAILURES: rf"failures/(retried/)?{_KEY}\.\d+(\.[0-9a-f]{{8}})?\.json",
    "logs of runs": r"logs/run-\d{8}-\d{6}\.log(\.1)?",
    "logs and files of workers": rf"logs/(drain|{_WORKER}\.(json|log|heartbeat|submitted|exit))",
    "files of Slurm jobs": r"logs/slurm/([0-9_]+_(submitted\.pkl|log\.out)|[0-9a-f]{32}\.pkl)",
    "unfinished files": rf"(.*/)?\.[^/]*\.tmp|logs/{_WORKER}\.(heartbeat|exit)\.tmp",
    "figures": r"figures/[^/]+",
    "words of channels": rf"words/{_LAYER}{_SUFFIX}|labels\.csv",
    "exports": r"export/(export\.json|metadata\.(parquet|jsonl|csv)|images/.+\.(png|webp))",
    "sites": r"site/(index\.html|[0-9a-f]{16}/.+)",
    "atlas and manifest": r"atlas\.(h5|json)|manifest\.json|notes\.json|lock",
}
"""Every kind of file that an output folder holds, by its path; in the order of removal."""


@dataclass
class Unneeded:
    """The files of an output folder that the sweep does not need."""

    removable: dict[str, list[Path]] = field(default_factory=dict)
    """Files of known kinds, by kind."""
    unknown: list[Path] = field(default_factory=list)
    """Files of no known kind."""
    failures: list[Failure] = field(default_factory=list)
    """The failure records among the removable files."""


def look_through(folder: OutputFolder, manifest: dict[str, Any]) -> Unneeded:
    """Find the files that can be removed; call it under the lock only.

    Raises:
        UserError: detached workers may still be writing; or the list of dataset images is gone,
            without which nobody knows which statistics are wanted.
    """
    # They hold no lock.
    at_work = detached(folder)
    if at_work:
        raise UserError(
            f"{counted(len(at_work), 'worker')} that {at_work[0].engine} was given may still be at "
            f"work in {str(folder.root)!r}. Wait for them: `atlas run` takes them up again, and "
            "leaves when they have ended."
        )
    needed, found = NeededFiles(folder, manifest), Unneeded({kind: [] for kind in KINDS})
    for path in _entries(folder.root):
        kind, layer = _kind(folder, path)
        if kind is not None and needed.has(path, layer.get("model")):
            continue
        # A picture of a layer that the store has never seen is the user's own.
        if kind is None or (layer and not Path(folder.store, *layer.values()).is_dir()):
            found.unknown.append(path)
        else:
            found.removable[kind].append(path)
    found.removable = {kind: paths for kind, paths in found.removable.items() if paths}
    records = map(read_failure, found.removable.get(_FAILURES, ()))
    found.failures = [record for record in records if record is not None]
    return found


def remove(folder: OutputFolder, found: Unneeded) -> None:
    """Delete the removable files, and the folders that are empty then. Raises StorageError."""
    for path in (path for paths in found.removable.values() for path in paths):
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot remove {path}: {error.strerror or error}") from error
        # Upwards until a folder holds something else.
        for parent in path.parents:
            if parent == folder.root or any(parent.iterdir()):
                break
            parent.rmdir()


def _entries(root: Path) -> Iterator[Path]:
    """Everything below a folder except folders; links are not followed."""
    for folder, folders, files in os.walk(root):
        links = (name for name in folders if Path(folder, name).is_symlink())
        yield from (Path(folder, name) for name in sorted((*links, *files)))


def _kind(folder: OutputFolder, path: Path) -> tuple[str | None, dict[str, str]]:
    """The kind of a file, if it is known, and its model and layer."""
    if path.is_symlink() or not path.is_file():
        return None, {}
    for kind, pattern in KINDS.items():
        match = re.fullmatch(pattern, folder.relative(path), re.DOTALL)
        if match is not None:
            return kind, match.groupdict()
    return None, {}


# --- what a sweep needs --------------------------------------------------------------------------


class NeededFiles:
    """The files that a sweep needs."""

    def __init__(self, folder: OutputFolder, manifest: dict[str, Any]) -> None:
        plan = plan_of(manifest)
        views = list(layer_views(folder, plan))
        # Without its plan, nobody knows which files of a skipped model are wanted: all are kept.
        self.skipped_models = {safe_name(model.model) for model in plan.skipped_models}
        self.layers = {folder.layer(v.model.label, v.layer.info.name): v for v in views}
        self.paths = {folder.atlas, folder.summary, folder.manifest, folder.notes, folder.lock}
        for view in views:
            self.paths.update(*(located for _, _, located in view.located()))
            layer = view.model.label, view.layer.info.name
            self.paths.update([folder.montage(*layer), folder.words(*layer), folder.labels])
            self.paths.update(folder.sheets(*layer), folder.animations(*layer))
        self.paths.update(_dataset_files(folder, plan), _open_failures(folder))
        self.paths.update(folder.product(task.product) for task in all_connections(plan))
        self.paths.add(folder.site / "index.html")
        if name := folder_of(folder.site):
            self.paths.update((folder.site / name).rglob("*"))
        self.paths.update(latest_logs(folder.logs))
        self.paths.update(map(folder.input, plan.inputs))
        # Every figure is kept; names with a dot are of half-written files.
        self.paths.update(folder.figures.glob("[!.]*"))
        self.paths.update(folder.export.rglob("[!.]*"))
        self._sound: dict[Path, bool] = {}

    def has(self, path: Path, model: str | None) -> bool:
        """Whether a file is needed, which is of a model or of none."""
        if path in self.paths or model in self.skipped_models:
            return True
        view = self.layers.get(path.parent)
        return view is not None and self._is_substitute(view, path)

    def _is_substitute(self, view: LayerView, path: Path) -> bool:
        """Whether a shard has jobs whose own file is damaged, or is yet to be made.

        Shards of another size hold the same jobs.
        """
        try:
            header = read_header(path)
        except (CorruptFile, OSError):
            return False
        left = (shard for _, shard in view.left() if shard.series.key == header.series)
        if any(not set(shard.targets).isdisjoint(header.targets) for shard in left):
            return True
        return not all(
            self._is_sound(view, file)
            for _, shard, located in view.located()
            if shard.series.key == header.series
            for file, channels in located.items()
            if not set(channels).isdisjoint(header.targets)
        )

    def _is_sound(self, view: LayerView, path: Path) -> bool:
        # Reading a shard checks its digest, so each is read once.
        if path not in self._sound:
            self._sound[path] = False
            with contextlib.suppress(CorruptFile, OSError):
                read_shard(path, view.model, view.layer)
                self._sound[path] = True
        return self._sound[path]


def _dataset_files(folder: OutputFolder, plan: Plan) -> Iterator[Path]:
    if plan.dataset_plan is None:
        return
    listing = folder.listing(plan.dataset_plan.listing)
    yield listing
    for model in plan.dataset_models:
        statistics = all_statistics(model, plan.dataset_plan)
        for block in blocks_of(statistics, Listing(listing)):
            yield from map(folder.product, block.products)
        for layer in statistics:
            yield from map(folder.product, layer.products)
    judgings = (
        task
        for model in plan.models
        for layer in model.layers
        for task in judgings_of(plan, model, layer)
    )
    tasks: list[Task] = [*examples_of(plan, plan.dataset_plan), *judgings]
    for task in tasks:
        yield from map(folder.product, task.products)


def _open_failures(folder: OutputFolder) -> Iterator[Path]:
    """Records of tasks that are not done, or that cannot be read; and the logs they name."""
    for path in (*folder.failures.glob("*.json"), *folder.retried.glob("*.json")):
        record = read_failure(path)
        if record is None or not is_done(folder, record):
            yield path
            yield from () if record is None else [folder.root / record.log]
