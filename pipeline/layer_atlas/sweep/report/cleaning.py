"""What `atlas clean` prints: what it would remove, and what it leaves alone."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from layer_atlas.store.folder import OutputFolder, disk_size
from layer_atlas.sweep.cleaning import Unneeded
from layer_atlas.sweep.report.tables import table

_MOST_NAMES = 10


def cleaning_table(folder: OutputFolder, found: Unneeded) -> str:
    """What can go, by kinds; records of failures by name; and what nobody knows."""
    parts = ["\n".join(_unknown(folder, found.unknown))] if found.unknown else []
    if not found.removable:
        return "\n\n".join([*parts, f"{folder.root}: there is nothing to remove"])
    sizes = {kind: [p.lstat().st_size for p in paths] for kind, paths in found.removable.items()}
    rows = [(kind, len(each), disk_size(sum(each))) for kind, each in sizes.items()]
    everything = [size for each in sizes.values() for size in each]
    rows.append(("together", len(everything), disk_size(sum(everything))))
    parts.insert(0, table(("what no plan wants", "files", "size"), rows))
    if found.failures:
        told = sorted({f"  {record.what}: {record.how}" for record in found.failures})
        parts.insert(1, "\n".join(["failed once, done since:", *_some(told)]))
    return "\n\n".join([f"{folder.root}", *parts])


def _unknown(folder: OutputFolder, paths: Sequence[Path]) -> Iterator[str]:
    yield "unknown, left alone:"
    # Names on a disk need not be text.
    names = [os.fsencode(folder.relative(path)).decode(errors="replace") for path in paths]
    yield from _some([f"  {name}" for name in names])


def _some(lines: Sequence[str]) -> Iterator[str]:
    yield from lines[:_MOST_NAMES]
    if len(lines) > _MOST_NAMES:
        yield f"  and {len(lines) - _MOST_NAMES} more"
