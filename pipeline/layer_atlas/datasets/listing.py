"""Listings: the images of a dataset in one file, a JSON line for each.

Image k is line k, whatever happens to the dataset's folder in the meantime. A listing of a million
images is opened in a second and read in blocks; it is never in memory as a whole.
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
    """An image of a dataset: the properties that identify it."""

    path: str
    """Path of the file, relative to the dataset's folder; or a title: CIFAR10(train=False)[3]."""
    size: int
    """Size of the file in bytes; 0 where there is no file."""


def write_listing(entries: Iterable[Entry], path: Path) -> None:
    """Write a listing atomically.

    Args:
        entries: consumed once, in order, one at a time.
        path: path of the file.
    Raises:
        StorageError: the disk is full, read-only or otherwise fails.
    """
    with written_atomically(path) as file:
        for entry in entries:
            file.write(_line(entry))


def look_through(entries: Iterable[Entry]) -> tuple[str, int]:
    """Return the digest and length of the listing of these images, without writing it."""
    sha, count = hashlib.sha256(), 0
    for entry in entries:
        sha.update(_line(entry))
        count += 1
    return sha.hexdigest(), count


def _line(entry: Entry) -> bytes:
    # In ASCII: names with invalid text or line breaks are escaped, and survive the round trip.
    return json.dumps(entry).encode("ascii") + b"\n"


def _no_listing(path: Path, why: object) -> str:
    return f"{str(path)!r} is not a readable listing of images ({why}); delete it and run again."


class Listing:
    """A listing on disk, read in blocks.

    Raises:
        UserError: the file cannot be read, or is not a listing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._marks = np.zeros(0, np.int64)
        self.count = 0
        """Number of images."""
        self.digest = ""
        """SHA-256 (hex) of the file."""
        try:
            self._scan()
        except OSError as error:
            raise UserError(f"cannot read the listing {str(path)!r}: {error.strerror}.") from error

    def _scan(self) -> None:
        """Compute the digest, the number of lines, and the offset of every 64th line."""
        sha, starts, position = hashlib.sha256(), [np.zeros(1, np.int64)], 0
        with open(self.path, "rb") as file:
            while piece := file.read(_READ_AT_ONCE):
                sha.update(piece)
                ends = np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n"))
                # Later reads are by line: a file without line breaks would exhaust the memory.
                if len(ends) == 0 and len(piece) == _READ_AT_ONCE:
                    raise UserError(_no_listing(self.path, "a line without end"))
                # Index of the first line end in this piece after which a marked line begins.
                first = -(self.count + 1) % _LINES_PER_MARK
                starts.append(position + ends[first::_LINES_PER_MARK] + 1)
                self.count += len(ends)
                position += len(piece)
        self._marks, self.digest = np.concatenate(starts), sha.hexdigest()

    def block(self, start: int, stop: int) -> list[Entry]:
        """Return the images from `start` up to, but excluding, `stop` or the end of the listing.

        Raises:
            UserError: the file cannot be read, or is not a listing.
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
        """Return the SHA-256 (hex) of the lines of some images. Raises UserError."""
        return look_through(self.block(start, stop))[0]
