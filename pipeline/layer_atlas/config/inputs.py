"""Files and folders that a user names, and the input files that a recipe refers to.

In a config such a setting (`setting(file=...)`) names a file. In a recipe it holds a reference, the
digest of the file's content with the ending of its name: where a file lies decides no pixel. The
output folder keeps a copy under the reference, so that workers and later runs need nothing else.
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from layer_atlas.errors import UserError, nearest

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
    return f" Beside it: {nearest(path.name, names)}." if names else ""


WEIGHTS_SUFFIXES = (
    *(".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".pkl", ".pickle", ".tar", ".pyth", ".th"),
    ".json",
)
"""Endings of the names of weights files; `.json` is the index of a file in several parts."""

WEIGHTS_PARTS = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""Weights in a folder that transformers or accelerate wrote, the first that exists is taken."""


def checkpoints_in(text: str) -> dict[str, str]:
    """List the checkpoints of a training run in the natural order of their names.

    Args:
        text: a folder of weights files, or of folders such as `checkpoint-500` that transformers or
            accelerate wrote.
    Returns: paths by name without the ending; `step_20` stands before `step_100`.
    Raises:
        UserError: there is no such folder, or no checkpoint in it, or two of one name.
    """
    folder = user_path(text, "folder of checkpoints")
    if not folder.is_dir():
        raise UserError(
            f"checkpoints={text!r} is no folder; name the folder with the weights files of a "
            f"training run. Paths are relative to {str(Path.cwd())!r}."
        )
    found = sorted(filter(_is_checkpoint, folder.iterdir()), key=lambda path: _natural(path.name))
    if not found:
        endings = ", ".join(WEIGHTS_SUFFIXES[:-1])
        raise UserError(f"there is no checkpoint in {text!r}: no file that ends in {endings}.")
    names = [_without_endings(path) for path in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two checkpoints in {text!r} are called {twice!r}: rename one of them.")
    return dict(zip(names, map(str, found), strict=True))


def _is_checkpoint(path: Path) -> bool:
    if path.is_dir():
        return any((path / name).is_file() for name in WEIGHTS_PARTS)
    # Beside weights in several parts lie configs, which end in .json too.
    return path.suffix.lower() in WEIGHTS_SUFFIXES and path.suffix.lower() != ".json"


def _without_endings(path: Path) -> str:
    """The name without the endings of weights files: `last` of `last.pth.tar`."""
    while not path.is_dir() and path.suffix.lower() in WEIGHTS_SUFFIXES:
        path = path.with_suffix("")
    return path.name


def _natural(name: str) -> list[str | int]:
    """Sort key that takes digits as numbers."""
    # Texts and numbers alternate, so that no text is compared with a number.
    parts = re.split(r"(\d+)", name.lower(), flags=re.ASCII)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]


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
