"""What `atlas export` writes for other tools, and `atlas label` makes of a finished run."""

from dataclasses import dataclass
from typing import Any, Literal

from layer_atlas.config.records import Record, require, setting


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


@dataclass(frozen=True)
class LabelSettings(Record):
    """Labels that an encoder of images and texts proposes for channels, and search by words."""

    encoder: str = ""
    """Dotted name of an object with `encode_images` (a batch (N, 3, H, W) in [0, 1] to (N, D)) and
    `encode_texts` (a list of M texts to (M, D)), or of a callable that returns one."""
    args: dict[str, Any] | None = None
    """Keyword arguments of the callable; the default is none."""
    vocabulary: str | None = None
    """Text file with a label on each line, of which the best ones are proposed. null makes the
    embeddings of channels alone, which are enough for `labels.search`."""
    prompt: str = "{}"
    """Text that the encoder is given for a label, such as `a photo of a {}`."""
    kept: int = setting(5, at_least=1, at_most=64)
    """Number of labels per channel that are kept."""
    image_size: int = setting(224, at_least=1, at_most=4096)
    """Height and width of the images that the encoder is given, in pixels."""
    batch_size: int = setting(32, at_least=1)
    """Largest number of images that the encoder is given at once."""
    search: tuple[str, ...] = ()
    """Texts to search for: the channels whose images are most like each are printed. Labels that
    are there already are kept, where no vocabulary is named."""
    source: Literal["dataset", "optimized"] = "dataset"
    """Images that `labels.search` compares with the texts: the channels' strongest dataset images,
    or the optimized ones."""

    def check(self) -> None:
        """Check that the prompt has room for a label."""
        require(
            self.prompt.count("{}") == 1 and self.prompt.count("{") == 1,
            f"labels.prompt={self.prompt!r} needs one {{}}, where the label goes.",
        )
