"""What `atlas export` writes for other tools."""

from dataclasses import dataclass
from typing import Literal

from layer_atlas.config.records import Record


@dataclass(frozen=True)
class ExportSettings(Record):
    """A table with a row per image, and the images as files."""

    format: Literal["parquet", "jsonl", "csv"] = "parquet"
    """Format of the table. `parquet` needs `pip install 'layer-atlas[export]'`; `jsonl` has a JSON
    object per line; in `csv` lists are JSON."""
    images: Literal["png", "webp", "none"] = "png"
    """Format of the image files, both without loss; `none` writes the table alone."""
    folder: str | None = None
    """Folder that is written; the default is `export` in the output folder."""
