"""Inputs: files that a recipe refers to, such as vectors, pictures and weights.

In a config such a field names a file. In a recipe it holds a reference, the digest of the file's
content with the ending of its name: where a file lies decides no pixel. The output folder keeps a
copy under the reference, so that workers, and whoever comes back in a year, need nothing else.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from layer_atlas.config.paths import user_file
from layer_atlas.errors import UserError

T = TypeVar("T")

Find = Callable[[str], Path]
"""A reference to the file that it stands for."""


def input_field(kind: str, **options: Any) -> Any:
    """A field of a record that names a file.

    Args:
        kind: what the file is, for messages.
        options: of `dataclasses.field`.
    """
    return dataclasses.field(metadata={"input": kind}, **options)


class Inputs:
    """The input files of a sweep, by their references."""

    def __init__(self) -> None:
        self.sources: dict[str, Path] = {}

    def resolved(self, record: T) -> T:
        """A record, and those within it, with references in the place of files.

        Raises:
            UserError: a file that is not there or cannot be read.
        """
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(record):  # type: ignore[arg-type]
            value = getattr(record, field.name)
            if "input" in field.metadata and value:
                changes[field.name] = self._reference(value, field.metadata["input"])
            elif dataclasses.is_dataclass(value):
                changes[field.name] = self.resolved(value)
        return dataclasses.replace(record, **changes) if changes else record  # type: ignore[type-var]

    def find(self, reference: str) -> Path:
        """The file that a reference stands for."""
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
        self.sources.setdefault(reference, path)
        return reference


def nowhere(reference: str) -> Path:
    """Finds nothing: for recipes that refer to no files."""
    raise LookupError(f"no file is known for {reference}")
