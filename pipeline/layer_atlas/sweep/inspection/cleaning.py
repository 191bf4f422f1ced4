"""Cleaning: which files of an output folder no sweep needs any more.

A file is what its name and place say; one that they do not explain is left alone, whatever it is,
and so are links. Of the rest, what the manifest's plan wants is kept.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layer_atlas.errors import StorageError, UserError
from layer_atlas.plan.labels import counted
from layer_atlas.store.failures import Failure, read_failure
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.inspection.wanted import Wanted
from layer_atlas.sweep.scheduling.workers import detached

_OF_DONE = "failures of tasks that are done"
_KEY = "[0-9a-f]{64}"
_SUFFIX = r"\.(safetensors|h5)"
"""Files in the HDF5 format of earlier versions count as not done, and nothing needs them."""
_WORKER = "worker-[0-9a-f]{8}"
_LAYER = "(?P<model>[^/]+)/(?P<layer>[^/]+?)"

KINDS = {
    "montages and sheets": rf"montages/{_LAYER}(\.evidence-\d+)?\.png",
    "animations": rf"animations/{_LAYER}/[^/]+\.(png|webp)",
    "shards": rf"store/{_LAYER}/{_KEY}{_SUFFIX}",
    "studies of photographs": rf"store/{_LAYER}/(study|fields|photographs)/{_KEY}{_SUFFIX}",
    "examples of photographs": rf"store/{_LAYER}/examples/{_KEY}{_SUFFIX}",
    "corrupt files, set aside": (
        rf"store/{_LAYER}/([a-z]+/)?{_KEY}{_SUFFIX}\.corrupt-[0-9a-f]{{8}}"
    ),
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
