"""Plain tables, and what makes them fit."""

import shutil
from collections.abc import Iterable, Sequence

from layer_atlas.plan.labels import sanitize


def table(header: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """A plain table; the first `left` columns are aligned to the left, the others to the right."""
    lines = [list(header), *([sanitize(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def say(text: str) -> None:
    """Print a text of several lines, of which none does anything to the terminal but be shown."""
    print("\n".join(sanitize(line) for line in text.split("\n")))


def terminal_width() -> int:
    """Columns of the terminal; files and pipes have room for more."""
    return shutil.get_terminal_size(fallback=(120, 24)).columns


def fit(text: str, width: int) -> str:
    """A text that is no wider; of names with dots the end tells most.

    >>> fit("encoder.layers.encoder_layer_11.mlp.0", 20)
    '...er_layer_11.mlp.0'
    """
    width = max(width, 10)
    return text if len(text) <= width else f"...{text[3 - width :]}"
