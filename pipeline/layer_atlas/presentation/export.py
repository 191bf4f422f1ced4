"""Export: the atlas as a table and image files, for tools that read neither HDF5 nor this package.

The table has a row for each image. It is called `metadata` and names the files in `file_name`, as
image folders of Hugging Face's `datasets` have it. Layers are read and written some channels at a
time, so memory does not depend on the number of images.
"""

import csv
import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.atlas.display import in_colour
from layer_atlas.atlas.frames import column_name, layer_columns
from layer_atlas.atlas.reader import Atlas, Layer, open_atlas
from layer_atlas.config.outputs import ExportSettings
from layer_atlas.errors import UserError
from layer_atlas.plan.jobs import STATUS, WITHOUT_IMAGE
from layer_atlas.plan.targets import counted
from layer_atlas.processes import usable_cores
from layer_atlas.store.files import read_object, write_json
from layer_atlas.store.folder import safe_name

SCHEMA = "layer-atlas-export/1"
RECORD, TABLE, IMAGES = "export.json", "metadata", "images"
_CHANNELS_AT_ONCE = 64
_NO_IMAGE = frozenset(word for word, code in STATUS.items() if code in WITHOUT_IMAGE)

Row = dict[str, Any]
"""Values by column; None where there is none, or no finite number."""


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    kind: str
    """`text`, `integer`, `number`, or `texts` and `numbers` for lists."""
    description: str


_FIXED = {
    "file_name": Column("text", "file of the image, relative to the table; none if it is not made"),
    "model": Column("text", "label of the network"),
    "layer": Column("text", "dotted name of the module"),
    "channel": Column("integer", "index of the channel, or of another target"),
    "label": Column("text", "number and name where channels are classes or combinations"),
    "given_label": Column("text", "label of the user's own, by `collate.labels` or `names`"),
    "seed": Column("integer", "random seed"),
    "variant": Column("text", "which of the images of a channel and seed, where there are several"),
    "status": Column("text", "ok, dead, silent, diverged, failed or missing"),
}
_STRONGEST = {
    "dataset/top_path": Column("texts", "dataset images with the strongest responses, by path"),
    "dataset/top_score": Column("numbers", "mean response of the channel to each of them"),
}


def check_export(target: Path, settings: ExportSettings, may_replace: bool) -> None:
    """Check that an export can be written.

    Raises:
        UserError: pyarrow is missing, or the folder holds an earlier export that may not be
            replaced, or other files.
    """
    if settings.format == "parquet":
        _pyarrow()
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not has_export(target):
        raise UserError(
            f"{str(target)!r} holds what no export wrote; choose another folder with "
            "export.folder=/some/folder."
        )
    if not may_replace:
        raise UserError(
            f"{str(target)!r} holds an earlier export; `atlas export yes ...` replaces it, and "
            "export.folder=/some/folder writes elsewhere."
        )


def has_export(target: Path) -> bool:
    """Whether a folder holds an export, finished or not."""
    try:
        return read_object(target / RECORD).get("schema") == SCHEMA
    except (OSError, ValueError):
        return False


def export_atlas(
    path: Path, target: Path, settings: ExportSettings, names: Mapping[str, str] | None = None
) -> str:
    """Write an atlas as a table and image files; returns what was written.

    Args:
        path: the atlas.
        target: the folder; an earlier export in it is replaced.
        settings: formats.
        names: labels of channels, as `collate.names` has them.
    Raises:
        OSError: the disk is full or fails.
    """
    target.mkdir(parents=True, exist_ok=True)
    with open_atlas(path) as atlas:
        columns = table_columns(atlas.values())
        record = _record(atlas, columns, settings)
        # First, so that what an interrupted export leaves is known as such and may be replaced.
        write_json(target / RECORD, {**record, "complete": False})
        _remove_earlier(target)
        table = target / f"{TABLE}.{settings.format}"
        rows, images = 0, 0
        with ExitStack() as stack:
            write = stack.enter_context(_WRITERS[settings.format](table, columns))
            pool = stack.enter_context(ThreadPoolExecutor(usable_cores()))
            for layer in atlas.values():
                for block in layer_rows(layer.called(names), settings.images):
                    rows += len(block)
                    images += _write_images(layer, block, target, settings, pool)
                    write([{name: row.get(name) for name in columns} for row in block])
        write_json(target / RECORD, {**record, "rows": rows, "images": images, "complete": True})
    return f"{counted(rows, 'row')}, {counted(images, 'image file')}: {table}"


def _remove_earlier(target: Path) -> None:
    for ending in _WRITERS:
        (target / f"{TABLE}.{ending}").unlink(missing_ok=True)
    if (target / IMAGES).exists():
        shutil.rmtree(target / IMAGES)


def _record(atlas: Atlas, columns: Mapping[str, Column], settings: ExportSettings) -> Row:
    """What the files hold and where it comes from."""
    return {
        "schema": SCHEMA,
        "table": f"{TABLE}.{settings.format}",
        "atlas": {"created": atlas.created, "content": atlas.content, "versions": atlas.versions},
        "columns": {name: vars(column) for name, column in columns.items()},
        "models": {
            name: {
                "source": str(model.facts.get("source", "")),
                "weights": model.weights,
                "preprocessing": model.preprocessing,
            }
            for name, model in atlas.models.items()
        },
        "config": atlas.config,
    }


# --- rows ----------------------------------------------------------------------------------------


def table_columns(layers: Iterable[Layer]) -> dict[str, Column]:
    """Columns of the table of some layers: one table has those of all."""
    columns = dict(_FIXED)
    lists: dict[str, Column] = {}
    for layer in layers:
        for name, description in layer.statistics.items():
            kind = "number" if layer.dataset(name).dtype.kind == "f" else "integer"
            columns.setdefault(column_name(name), Column(kind, description))
        for source in layer.label_sources:
            meaning = layer.attributes(f"words/{source}_label")["description"]
            columns[f"words_{source}_label"] = Column("text", f"{meaning}; the best one")
        lists |= {column_name(name): c for name, c in _STRONGEST.items() if name in layer}
    return columns | lists


def layer_rows(layer: Layer, images: str = "png") -> Iterator[list[Row]]:
    """Yield the rows of a layer, those of some channels at a time.

    Args:
        layer: the layer.
        images: ending of the image files, or `none`.
    """
    table = layer_columns(layer)
    per_channel = math.prod(layer.job_shape[1:])
    for first in range(0, len(layer.channels), _CHANNELS_AT_ONCE):
        channels = slice(first, first + _CHANNELS_AT_ONCE)
        some = slice(first * per_channel, channels.stop * per_channel)
        block = {
            name: values if isinstance(values, str) else _plain(values[some])
            for name, values in table.items()
        }
        count = len(block["channel"])
        block |= {
            column_name(name): _repeated(layer.dataset(name)[channels], per_channel)
            for name in _STRONGEST
            if name in layer
        }
        lists = {name: [v] * count if isinstance(v, str) else v for name, v in block.items()}
        rows = [
            dict(zip(lists, values, strict=True)) for values in zip(*lists.values(), strict=True)
        ]
        for row in rows:
            row["file_name"] = _file_name(row, images)
        yield rows


def _plain(values: Any) -> list[Any]:
    """Values as those of Python; None in place of numbers that are not finite."""
    listed = np.asarray(values).tolist()
    return [None if isinstance(v, float) and not math.isfinite(v) else v for v in listed]


def _repeated(lists: NDArray[Any], times: int) -> list[list[Any]]:
    """Lists (n, m) of a dataset, each as often as its channel has images."""
    texts = lists.dtype.kind == "O"
    plain = [[v.decode() if texts else v for v in row] for row in lists.tolist()]
    return [row if texts else _plain(row) for row in plain for _ in range(times)]


def _file_name(row: Row, images: str) -> str | None:
    if images == "none" or row["status"] in _NO_IMAGE:
        return None
    variant = f".{safe_name(row['variant'])}" if row.get("variant") else ""
    name = f"{row['channel']:05}.seed-{row['seed']}{variant}.{images}"
    return f"{IMAGES}/{safe_name(row['model'])}/{safe_name(row['layer'])}/{name}"


# --- files ---------------------------------------------------------------------------------------


def _write_images(
    layer: Layer,
    block: Sequence[Row],
    target: Path,
    settings: ExportSettings,
    pool: ThreadPoolExecutor,
) -> int:
    """Write the image files of some rows; returns their number."""
    named = [row for row in block if row["file_name"]]
    for folder in {(target / row["file_name"]).parent for row in named}:
        folder.mkdir(parents=True, exist_ok=True)
    pictures = (layer.pixels(row["channel"], row["seed"], row.get("variant")) for row in named)
    paths = (target / row["file_name"] for row in named)
    return len(list(pool.map(partial(_write_image, settings.images), paths, pictures)))


def _write_image(kind: str, path: Path, pixels: NDArray[np.uint8]) -> None:
    how: dict[str, Any] = {"lossless": True} if kind == "webp" else {"compress_level": 1}
    Image.fromarray(in_colour(pixels)).save(path, **how)


class _Lines:
    """Writes JSON Lines: an object per row."""

    def __init__(self, path: Path, columns: Mapping[str, Column]) -> None:
        self._file = open(path, "w", encoding="utf-8", newline="\n")  # noqa: SIM115

    def __enter__(self) -> Callable[[Sequence[Row]], None]:
        return self.write

    def write(self, rows: Sequence[Row]) -> None:
        """Write some rows."""
        for row in rows:
            self._file.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")

    def __exit__(self, *exception: object) -> None:
        self._file.close()


class _Csv(_Lines):
    """Writes CSV with a line of names; lists are JSON, and what is missing is empty."""

    def __init__(self, path: Path, columns: Mapping[str, Column]) -> None:
        super().__init__(path, columns)
        self._writer = csv.DictWriter(self._file, list(columns), lineterminator="\n")
        self._writer.writeheader()

    def write(self, rows: Sequence[Row]) -> None:
        """Write some rows."""
        for row in rows:
            self._writer.writerow(
                {
                    k: json.dumps(v, ensure_ascii=False) if isinstance(v, list) else v
                    for k, v in row.items()
                }
            )


class _Parquet:
    """Writes Parquet, with the descriptions of columns in the fields' metadata."""

    def __init__(self, path: Path, columns: Mapping[str, Column]) -> None:
        self._arrow, parquet = _pyarrow()
        arrow = self._arrow
        kinds = {"text": arrow.string(), "integer": arrow.int64(), "number": arrow.float64()}
        kinds |= {"texts": arrow.list_(kinds["text"]), "numbers": arrow.list_(kinds["number"])}
        self._schema = arrow.schema(
            [
                arrow.field(name, kinds[c.kind], metadata={"description": c.description})
                for name, c in columns.items()
            ]
        )
        self._writer = parquet.ParquetWriter(path, self._schema)

    def __enter__(self) -> Callable[[Sequence[Row]], None]:
        return self.write

    def write(self, rows: Sequence[Row]) -> None:
        """Write some rows."""
        self._writer.write_table(self._arrow.Table.from_pylist(list(rows), self._schema))

    def __exit__(self, *exception: object) -> None:
        self._writer.close()


_WRITERS: dict[str, Any] = {"parquet": _Parquet, "jsonl": _Lines, "csv": _Csv}
"""Writers by the ending of the table: contexts that give a function which writes some rows."""


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise UserError(
            f"Parquet needs `pip install 'layer-atlas[export]'` ({error}); export.format=jsonl and "
            "export.format=csv need nothing."
        ) from None
    return pyarrow, pyarrow.parquet
