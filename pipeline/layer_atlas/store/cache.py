"""The cache of inspections: answers about networks, each under the digest of its question.

A question holds everything that its answer depends on, so that an answer is right or not found. It
lies in the user's cache folder, in a file of its own that appears whole or not at all. The cache
decides nothing but time: any file of it may be deleted, and one that is damaged or was written by
somebody else counts as none.
"""

import contextlib
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from layer_atlas.config.records import build, digest, plain
from layer_atlas.errors import StorageError, UserError
from layer_atlas.store.files import read_object, write_json

logger = logging.getLogger(__name__)

VARIABLE = "LAYER_ATLAS_CACHE"
"""The folder of the cache; empty for none."""

SCHEMA = "layer-atlas-inspection/1"

_MOST_FILES = 1000
"""Answers that are kept; the oldest make way."""

T = TypeVar("T")


def cache_folder() -> Path | None:
    """The folder of the cache, by the conventions of the platform; `None` for no cache."""
    chosen = os.environ.get(VARIABLE)
    try:
        if chosen is not None:
            return Path(chosen).expanduser() if chosen.strip() else None
        return _users_folder() / "layer-atlas"
    except RuntimeError:  # a user without a home
        return None


def _users_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    chosen = Path(os.environ.get("XDG_CACHE_HOME") or ".")
    # The convention has it that relative paths are ignored.
    return chosen if chosen.is_absolute() else Path.home() / ".cache"


def recall(question: Mapping[str, Any], kind: type[T]) -> T | None:
    """Return the kept answer to a question, a record of class `kind`; `None` if there is none."""
    folder = cache_folder()
    if folder is None:
        return None
    key = digest(question)
    try:
        values = read_object(_file(folder, key))
        if (values["schema"], values["question"]) != (SCHEMA, key):
            raise ValueError("it answers something else")
        if values["sha256"] != digest(values["answer"]):
            raise ValueError("it is damaged")
        answer = build(kind, values["answer"])
    except FileNotFoundError:
        return None
    # Whoever wrote it: what is no answer is found out again, and replaced.
    except (OSError, ValueError, LookupError, TypeError, RecursionError, UserError) as error:
        logger.debug("kept answer %s is not used: %s", key[:8], error)
        return None
    logger.debug("kept answer %s is used: %s", key[:8], kind.__name__)
    return answer


def keep(question: Mapping[str, Any], answer: Any) -> None:
    """Keep a record as the answer to a question, if the folder can be written."""
    folder = cache_folder()
    if folder is None or not _comes_back(answer):
        return
    key, values = digest(question), plain(answer)
    entry = {"schema": SCHEMA, "question": key, "sha256": digest(values), "answer": values}
    try:
        write_json(_file(folder, key), entry)
    except StorageError as error:
        logger.debug("an answer is not kept: %s", error)
        return
    _remove_oldest(_file(folder, key).parent)


def _comes_back(answer: Any) -> bool:
    """Whether a record is the same once it was written and read."""
    try:
        return bool(build(type(answer), plain(answer)) == answer)
    except UserError:  # such as a number out of bounds
        return False


def _file(folder: Path, key: str) -> Path:
    return folder / "inspections" / f"{key}.json"


def _remove_oldest(folder: Path) -> None:
    # Other processes may remove the same files. A killed one leaves a temporary file.
    with contextlib.suppress(OSError):
        files = list(folder.iterdir())
        if len(files) > _MOST_FILES:
            files.sort(key=lambda path: path.stat().st_mtime)
            for path in files[:-_MOST_FILES]:
                path.unlink(missing_ok=True)
