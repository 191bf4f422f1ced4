"""The files of a site: written side by side into a folder of their own, and listed at the end.

A site is `index.html` and the folder that it names. The folder is written first and `index.html`
last, atomically: until then the site is the previous one.

Pages opened from disk may load scripts and nothing else, so data are scripts that call
`layerAtlas.take(name, value)`. A value is JSON in ASCII without `<`, `>` and `&`: no text from a
network or a file name can end the script or begin a tag.
"""

import io
import json
import os
import re
import shutil
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.errors import StorageError
from layer_atlas.processes import usable_cores
from layer_atlas.store.checksummed_file import CorruptFile
from layer_atlas.store.files import read_at_most, read_object, write_atomically, write_json

_LISTING = "files.json"
_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}
_MOST_BYTES = 2**20
"""Largest size of a first page."""
_MOST_LISTED = 2**28
"""Bytes of a listing: some millions of files."""
_WAITING = 4
"""Most pictures that wait in memory to be encoded."""


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
    """Open a folder for a site's files; it is complete when the block ends without an error."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        files = SiteFiles(root, pool)
        yield files
        files.finish()


def is_complete(root: Path) -> bool:
    """Whether all files of a folder exist with the sizes that were written."""
    try:
        sizes = read_object(root / _LISTING, _MOST_LISTED)
        return all((root / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def folder_of(site: Path) -> str | None:
    """The folder that a site's first page names; None without such a page."""
    try:
        page = read_at_most(site / "index.html", _MOST_BYTES).decode()
    except (OSError, ValueError, CorruptFile):
        return None
    found = re.search(r'name="layer-atlas-site" content="([0-9a-f]+)"', page)
    return found[1] if found else None


def put_up(site: Path, folder: str, page: str) -> None:
    """Switch the site to a folder, and remove the folders of earlier sites.

    Args:
        site: folder of the whole site.
        folder: name of the folder within it.
        page: text of `index.html`, which names the folder.
    Raises:
        StorageError: the disk is full or fails.
    """
    write_atomically(site / "index.html", page.encode())
    for path in site.iterdir():
        if path.is_dir() and path.name != folder and len(path.name) == len(folder):
            shutil.rmtree(path, ignore_errors=True)


# --- data ----------------------------------------------------------------------------------------


def script(name: str, value: Any) -> bytes:
    """A script that hands a value to the page under a name.

    Raises:
        ValueError: a number in it is not finite.
    """
    return f"layerAtlas.take({_json(name)}, {_json(value)});\n".encode("ascii")


def _json(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPES)


def numbers(array: NDArray[Any], digits: int | None = None) -> list[Any]:
    """An array of any shape as lists; values that are not finite become `None`.

    Args:
        array: of numbers.
        digits: significant digits; by default as many as distinguish floats of this width, so that
            values sort as they do in the array.
    """
    if array.ndim > 1:
        return [numbers(row, digits) for row in array]
    if array.dtype.kind != "f":
        return list(array.tolist())
    if digits is not None:
        return [float(f"{x:.{digits}g}") if np.isfinite(x) else None for x in array.tolist()]
    finite = np.isfinite(array)
    texts = array.astype(str).tolist()
    return [float(text) if ok else None for text, ok in zip(texts, finite.tolist(), strict=True)]
