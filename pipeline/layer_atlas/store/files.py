"""Files of an output folder: written whole or not at all, and read up to a size."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from layer_atlas.config.records import parse_object
from layer_atlas.errors import StorageError
from layer_atlas.store.checksummed_file import CorruptFile


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; it is on the disk when this returns.

    Raises:
        StorageError: the disk is full, read-only or otherwise fails.
    """
    with written_atomically(path) as file:
        file.write(data)


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for writing; it appears under its name when the block ends without an error.

    Raises:
        StorageError: the disk is full, read-only or otherwise fails.
    """
    # Unique, as several processes may write one file; cut, as names have a largest length.
    temporary = path.parent / f".{path.name[:40]}.{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            # Before the rename: the name must never lead to data that a power cut loses.
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        # The new name is in the folder, which is a file of its own to the disk.
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file whole or not at all. Raises StorageError."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> Path:
    """Rename a corrupt file, so that it counts as not done; nothing is deleted."""
    aside = path.with_name(f"{path.name}.corrupt-{uuid.uuid4().hex[:8]}")
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        path.rename(aside)
    return aside


def read_at_most(path: Path, most: int) -> bytes:
    """Read a file of at most so many bytes.

    Raises:
        CorruptFile: it is longer; then nothing is read.
        OSError: it does not exist or cannot be read.
    """
    with open(path, "rb") as file:
        # Of the open file, as the path may lead to another one by now.
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise CorruptFile(f"the file is longer than {most} bytes, the most that it can have")
        return file.read(size)


def read_object(path: Path, most: int = 2**24) -> dict[str, Any]:
    """Read a JSON object from a file, whoever wrote it.

    Args:
        path: the file.
        most: largest size in bytes; a longer file is not read.
    Raises:
        ValueError: it is longer, or no JSON object.
        OSError: it does not exist or cannot be read.
    """
    try:
        return parse_object(read_at_most(path, most))
    except CorruptFile as error:
        raise ValueError(str(error)) from error
