"""Files and folders that a user names, and the input files that a recipe refers to.

In a config such a setting (`setting(file=...)`) names a file. In a recipe it holds a reference, the
digest of the file's content with the ending of its name: where a file lies decides no pixel. The
output folder keeps a copy under the reference, so that workers and later runs need nothing else.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from layer_atlas.errors import UserError, nearest_first

T = TypeVar("T")

Find = Callable[[str], Path]
"""Maps a reference to the file that it stands for."""


def user_path(text: str, what: str) -> Path:
    """Return the path that a text means; `~` is the home folder. The path need not exist.

    Args:
        text: the path as the user gave it.
        what: kind of the path, for messages.
    Raises:
        UserError: no file or folder can have such a path, or this user may not read it.
    """
    try:
        path = Path(text).expanduser()
        os.stat(path)  # noqa: PTH116 - Path.exists hides some of what is wrong
    # A path that does not exist yet is a fine name for an output folder.
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what} {text!r} cannot be read ({reason}); give another path.") from error
    return path


def user_file(text: str, what: str) -> Path:
    """Return the path of an existing file that a user names.

    Args:
        text: the path as the user gave it.
        what: kind of the file, for messages, such as "weights file".
    Raises:
        UserError: the file does not exist, or it is a folder, a device or a pipe.
    """
    path = user_path(text, what)
    if path.is_dir():
        raise UserError(f"{what} {text!r} is a folder; name a file in it.")
    # Reading a pipe or a device could wait for ever.
    if path.exists() and not path.is_file():
        raise UserError(f"{what} {text!r} is no file but a device or pipe; name a file.")
    if not path.exists():
        raise UserError(
            f"{what} {text!r} does not exist. Paths are relative to {str(Path.cwd())!r}."
            + _beside(path)
        )
    return path


def _beside(path: Path) -> str:
    """Files in the same folder that the user may have meant."""
    names = [p.name for p in path.parent.glob("*") if p.suffix == path.suffix and p.is_file()]
    return f" Beside it: {', '.join(nearest_first(path.name, names)[:8])}." if names else ""


class Inputs:
    """The input files of a sweep, by their references."""

    def __init__(self) -> None:
        self.sources: dict[str, Path] = {}

    def resolved(self, record: T) -> T:
        """Return a record, and the records in it, with references in place of file names.

        Raises:
            UserError: a file that does not exist or cannot be read.
        """
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(record):  # type: ignore[arg-type]
            value, kind = getattr(record, field.name), field.metadata.get("file")
            # An empty name means that the setting is not used.
            if kind and value:
                changes[field.name] = self._reference(value, kind)
            elif dataclasses.is_dataclass(value):
                changes[field.name] = self.resolved(value)
        return dataclasses.replace(record, **changes) if changes else record  # type: ignore[type-var]

    def find(self, reference: str) -> Path:
        """Return the file that a reference stands for."""
        return self.sources[reference]

    def _reference(self, name: str, kind: str) -> str:
        path = user_file(name, f"the {kind} file")
        try:
            with open(path, "rb") as file:
                reference = hashlib.file_digest(file, "sha256").hexdigest() + path.suffix.lower()
        except OSError as error:
            raise UserError(
                f"the {kind} file {name!r} cannot be read ({error.strerror})."
            ) from error
        # Two files of one content are one input.
        self.sources.setdefault(reference, path)
        return reference


def nowhere(reference: str) -> Path:
    """Refuse every reference: for recipes without input files."""
    raise LookupError(f"no file is known for {reference}")
