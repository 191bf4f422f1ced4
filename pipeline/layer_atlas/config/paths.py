"""Paths that a user gives: what a text means as a file or folder of this machine."""

import os
from pathlib import Path

from layer_atlas.errors import UserError, nearest_first


def user_path(text: str, what: str) -> Path:
    """The path that a text means; `~` is the home folder. Nothing need be there.

    Args:
        text: as it was given.
        what: it is the path of, for messages.
    Raises:
        UserError: no file or folder can have such a path, or this user may not go there.
    """
    try:
        path = Path(text).expanduser()
        os.stat(path)  # noqa: PTH116 - Path.exists hides some of what is wrong
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{what} {text!r} cannot be read ({reason}); give another path.") from error
    return path


def user_file(text: str, what: str) -> Path:
    """The file that a user names.

    Args:
        text: as it was given.
        what: kind of the file, for messages, such as "weights file".
    Raises:
        UserError: it is not there, or is no file.
    """
    path = user_path(text, what)
    if path.is_dir():
        raise UserError(f"{what} {text!r} is a folder; name a file in it.")
    if path.exists() and not path.is_file():
        raise UserError(f"{what} {text!r} is no file but a device or pipe; name a file.")
    if not path.exists():
        raise UserError(
            f"{what} {text!r} does not exist. Paths are relative to {str(Path.cwd())!r}."
            + _beside(path)
        )
    return path


def _beside(path: Path) -> str:
    """Files that may be meant instead."""
    names = [p.name for p in path.parent.glob("*") if p.suffix == path.suffix and p.is_file()]
    return f" Beside it: {', '.join(nearest_first(path.name, names)[:8])}." if names else ""
