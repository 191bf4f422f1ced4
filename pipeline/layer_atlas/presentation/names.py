"""What readers call layers and channels, and note on them: names, labels of a file, notes."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from layer_atlas.config.config import CollateSettings
from layer_atlas.config.inputs import user_file
from layer_atlas.config.records import Record, build, require
from layer_atlas.errors import UserError, unknown
from layer_atlas.plan.labels import check_names
from layer_atlas.plan.plan import Plan
from layer_atlas.plan.targets import TargetSpace
from layer_atlas.store.files import CorruptFile, read_at_most, read_object

_COLUMNS = ("layer", "channel", "label")
_MOST_BYTES = 2**26
"""Largest size of a file of labels: a label for each of a million channels."""
_LONGEST = 200
"""Characters of a label."""


def with_labels(settings: CollateSettings, plan: Plan) -> CollateSettings:
    """Return settings whose `names` hold the labels of the file too, in place of its path.

    Raises:
        UserError: a name or a label of a layer or channel that the plan does not have, or a file
            that cannot be read.
    """
    layers = {
        (model.label, layer.info.name): layer.target_space
        for model in plan.models
        for layer in model.layers
    }
    names = named(settings.names, settings.labels, layers)
    return replace(settings, names=names or None, labels=None)


def named(
    names: Mapping[str, str] | None,
    labels: str | None,
    layers: Mapping[tuple[str, str], TargetSpace],
) -> dict[str, str]:
    """Join names and the labels of a file, where a name goes first.

    Args:
        names: as `collate.names`.
        labels: as `collate.labels`.
        layers: the targets of each layer, by model and layer.
    Raises:
        UserError: as `with_labels`.
    """
    check_names(names or (), layers, lambda _: "collate.names")
    return (_labels_in(labels, layers) if labels else {}) | dict(names or {})


def _labels_in(file: str, layers: Mapping[tuple[str, str], TargetSpace]) -> dict[str, str]:
    """Read the labels of a file, by their places."""
    models, found = {model for model, _ in layers}, dict[str, _Label]()
    for label in _rows(file):
        if label.model and label.model not in models:
            raise unknown(f"model in {label.where}", label.model, models)
        before = found.setdefault(label.place, label)
        if before.label != label.label:
            raise UserError(
                f"{label.where} labels {label.place} {label.label!r}, which line {before.line} "
                f"labels {before.label!r}: leave one of them."
            )
    check_names(found, layers, lambda place: found[place].where)
    return {place: label.label for place, label in found.items()}


@dataclass(frozen=True)
class _Label:
    layer: str
    channel: str
    label: str
    model: str
    line: int
    file: str

    @property
    def where(self) -> str:
        """Its place in the file, for messages."""
        return f"line {self.line} of collate.labels={self.file!r}"

    @property
    def place(self) -> str:
        """Its place in the atlas, as `collate.names` has it."""
        layer = f"{self.model}/{self.layer}" if self.model else self.layer
        return f"{layer}:{self.channel}"


def _rows(file: str) -> Iterator[_Label]:
    """Read the rows of a file. Raises UserError."""
    path = user_file(file, "the file of labels")
    try:
        text = read_at_most(path, _MOST_BYTES).decode("utf-8-sig")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        heads = [str(head).strip().lower() for head in reader.fieldnames or ()]
        lacking = [name for name in _COLUMNS if name not in heads]
        if lacking:
            raise UserError(
                f"collate.labels={file!r} lacks the column {lacking[0]!r} in its first line "
                f"({', '.join(heads)}): it needs {', '.join(_COLUMNS)}, and takes model."
            )
        reader.fieldnames = heads
        for row in reader:
            values = {name: (row.get(name) or "").strip() for name in (*_COLUMNS, "model")}
            label = _Label(**values, line=reader.line_num, file=file)
            if not label.label:
                raise UserError(f"{label.where} has no label: remove the line, or write one.")
            if not label.label.isprintable() or len(label.label) > _LONGEST:
                raise UserError(
                    f"the label in {label.where} must be a text of at most {_LONGEST} characters "
                    f"on one line, not {label.label!r}."
                )
            yield label
    except (OSError, UnicodeDecodeError, csv.Error, CorruptFile) as error:
        raise UserError(f"collate.labels={file!r} is no readable CSV file: {error}.") from error


# --- notes ---------------------------------------------------------------------------------------

NOTES_SCHEMA = "layer-atlas-notes/1"
_LONGEST_NOTE = 10_000
_LONGEST_TAG = 60


@dataclass(frozen=True)
class Note(Record):
    """What a reader notes on a channel."""

    note: str = ""
    tags: tuple[str, ...] = ()
    favourite: bool = False

    def check(self) -> None:
        """Check the lengths of the texts."""
        require(len(self.note) <= _LONGEST_NOTE, f"a note of {len(self.note)} characters.")
        for tag in self.tags:
            require(0 < len(tag) <= _LONGEST_TAG and "," not in tag, f"the tag {tag!r}.")


@dataclass(frozen=True)
class Notes(Record):
    """The notes of a file that a site exported."""

    schema: str
    notes: dict[str, Note]
    """By `model/layer:channel`."""
    atlas: str = ""
    title: str = ""
    exported: str = field(default="")

    def check(self) -> None:
        """Check the schema."""
        require(self.schema == NOTES_SCHEMA, f"a file of {self.schema!r}, not {NOTES_SCHEMA!r}.")


def read_notes(path: Path) -> dict[str, Note]:
    """Read notes by their places. Raises UserError if the file is none of notes."""
    try:
        found = build(Notes, read_object(path, _MOST_BYTES), "notes")
    except (OSError, ValueError, TypeError) as error:
        raise UserError(
            f"notes={str(path)!r} is no file of notes that a site exported: {error}."
        ) from error
    return found.notes


def notes_for(path: Path, layers: Mapping[tuple[str, str], TargetSpace]) -> dict[str, Note]:
    """Read notes on an atlas, by `model/layer:channel`.

    Args:
        path: the file.
        layers: the targets of each layer, by model and layer.
    Raises:
        UserError: it is no such file, or has notes on what is not there.
    """
    notes = read_notes(path)
    check_names(notes, layers, lambda _: f"notes={str(path)!r}")
    found: dict[str, Note] = {}
    for place, note in notes.items():
        layer, _, numbers = place.rpartition(":")
        # A place without a model is meant in all of them; a layer may be called as a place is.
        titles = [f"{m}/{name}" for m, name in layers if layer in (name, f"{m}/{name}")]
        found |= {f"{title}:{numbers}": note for title in titles}
    return found
