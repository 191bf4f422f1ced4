"""Listings: the photographs of a dataset in a file of their own, one JSON line for each.

Photograph k is line k, whatever happens in the dataset's folder meanwhile. A listing of a million
photographs is opened in a second and read in blocks: nothing holds all of it.
"""

import hashlib
import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from layer_atlas.errors import UserError
from layer_atlas.store.files import written_atomically

_LINES_PER_MARK = 64
_READ_AT_ONCE = 2**20


class Entry(NamedTuple):
    """A photograph of a dataset: what tells it from every other."""

    path: str
    """Of the file, relative to the dataset's folder; or a title like CIFAR10(train=False)[3]."""
    size: int
    """Bytes of the file; 0 where there is none."""


def write_listing(entries: Iterable[Entry], path: Path) -> None:
    """Write a listing, whole or not at all.

    Args:
        entries: read once, in order, one at a time.
        path: of the file.
    Raises:
        StorageError: the disk is full, read-only or otherwise fails.
    """
    with written_atomically(path) as file:
        for entry in entries:
            file.write(_line(entry))


def look_through(entries: Iterable[Entry]) -> tuple[str, int]:
    """Digest and length of the listing that these photographs would make."""
    sha, count = hashlib.sha256(), 0
    for entry in entries:
        sha.update(_line(entry))
        count += 1
    return sha.hexdigest(), count


def _line(entry: Entry) -> bytes:
    # In ASCII, so that names which are not valid text, or hold line breaks, come back.
    return json.dumps(entry).encode("ascii") + b"\n"


def _no_listing(path: Path, why: object) -> str:
    return (
        f"{str(path)!r} is not a readable listing of photographs ({why}); delete it and run again."
    )


class Listing:
    """A listing on disk, read in blocks.

    Raises:
        UserError: the file cannot be read, or is no listing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._marks = np.zeros(0, np.int64)
        self.count = 0
        """Number of photographs."""
        self.digest = ""
        """SHA-256 (hex) of the file."""
        try:
            self._scan()
        except OSError as error:
            raise UserError(f"cannot read the listing {str(path)!r}: {error.strerror}.") from error

    def _scan(self) -> None:
        """Note digest, number of lines, and where every 64th line begins."""
        sha, starts, position = hashlib.sha256(), [np.zeros(1, np.int64)], 0
        with open(self.path, "rb") as file:
            while piece := file.read(_READ_AT_ONCE):
                sha.update(piece)
                ends = np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n"))
                if len(ends) == 0 and len(piece) == _READ_AT_ONCE:
                    raise UserError(_no_listing(self.path, "a line without end"))
                # The first line after this piece's beginning that gets a mark.
                first = -(self.count + 1) % _LINES_PER_MARK
                starts.append(position + ends[first::_LINES_PER_MARK] + 1)
                self.count += len(ends)
                position += len(piece)
        self._marks, self.digest = np.concatenate(starts), sha.hexdigest()

    def block(self, start: int, stop: int) -> list[Entry]:
        """Photographs start, start + 1, ... before stop, or before the end of the listing.

        Raises:
            UserError: the file cannot be read, or is no listing.
        """
        stop = min(stop, self.count)
        if not 0 <= start < stop:
            return []
        mark, skipped = divmod(start, _LINES_PER_MARK)
        try:
            with open(self.path, "rb") as file:
                file.seek(self._marks[mark])
                lines = list(islice(file, skipped, skipped + stop - start))
            return [Entry(str(path), int(size)) for path, size in map(json.loads, lines)]
        except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise UserError(_no_listing(self.path, error)) from error

    def digest_of(self, start: int, stop: int) -> str:
        """SHA-256 (hex) of some photographs' lines. Raises UserError."""
        return look_through(self.block(start, stop))[0]
