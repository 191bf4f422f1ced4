"""The files of a site: written side by side into a folder of their own, and listed at the end.

A site is `index.html` and the folder that it names. The folder comes first and `index.html` last,
whole and at once: until then the site is the one from before.
"""

import io
import os
import re
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from layer_atlas.errors import StorageError
from layer_atlas.processes import usable_cores
from layer_atlas.store.checksummed_file import CorruptFile
from layer_atlas.store.files import read_at_most, read_object, write_atomically, write_json

_LISTING = "files.json"
_MOST_BYTES = 2**20
"""Of a first page."""
_MOST_LISTED = 2**28
"""Bytes of a listing: some millions of files."""
_WAITING = 4
"""Pictures that wait to be encoded, in memory, at most."""


class SiteFiles:
    """Writes the files of one folder; pictures are encoded by threads while others are drawn."""

    def __init__(self, root: Path, pool: ThreadPoolExecutor) -> None:
        self.root, self._pool = root, pool
        self._sizes: dict[str, int] = {}
        self._waiting: deque[Future[None]] = deque()

    def write(self, name: str, data: bytes) -> None:
        """Write a file, and wait until it is on the disk. Raises StorageError."""
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
        self._sizes[name] = len(data)

    def write_picture(self, name: str, picture: Image.Image, quality: int = 82) -> None:
        """Write a picture as a JPEG file, before `finish` returns. Raises StorageError."""
        while len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(self._encode, name, picture, quality))

    def _encode(self, name: str, picture: Image.Image, quality: int) -> None:
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=quality)
        self.write(name, buffer.getvalue())

    def finish(self) -> None:
        """Wait for all pictures and write down what there is. Raises StorageError."""
        while self._waiting:
            self._waiting.popleft().result()
        write_json(self.root / _LISTING, self._sizes)


@contextmanager
def site_files(root: Path) -> Iterator[SiteFiles]:
    """A folder to write a site's files to; complete when the block ends without an error."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        files = SiteFiles(root, pool)
        yield files
        files.finish()


def is_complete(root: Path) -> bool:
    """Whether all files of a folder are there, each as long as it was written."""
    try:
        sizes = read_object(root / _LISTING, _MOST_LISTED)
        return all((root / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def folder_of(site: Path) -> str | None:
    """The folder that a site's first page names; None if there is no page, or another one."""
    try:
        page = read_at_most(site / "index.html", _MOST_BYTES).decode()
    except (OSError, ValueError, CorruptFile):
        return None
    found = re.search(r'name="layer-atlas-site" content="([0-9a-f]+)"', page)
    return found[1] if found else None


def put_up(site: Path, folder: str, page: str) -> None:
    """Have the site be a folder from now on, and remove the folders it was before.

    Args:
        site: of the whole.
        folder: name of the folder within it.
        page: text of `index.html`, which names the folder.
    Raises:
        StorageError: the disk is full or fails.
    """
    write_atomically(site / "index.html", page.encode())
    for path in site.iterdir():
        if path.is_dir() and path.name != folder and len(path.name) == len(folder):
            shutil.rmtree(path, ignore_errors=True)
