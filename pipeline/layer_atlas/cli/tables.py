"""Tables: plain text in columns, and those of `atlas layers` and `atlas clean`."""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from layer_atlas.config.config import Config
from layer_atlas.errors import UserError, sanitize
from layer_atlas.plan.jobs import LayerInfo
from layer_atlas.store.folder import OutputFolder, disk_size

if TYPE_CHECKING:  # these need torch, which most commands do without
    from layer_atlas.sweep.cleaning import Unneeded
    from layer_atlas.sweep.planning import InspectedModel

_MOST_NAMES = 10


def print_result(text: str) -> None:
    """Print what a command was asked for to standard output, control characters escaped."""
    print("\n".join(sanitize(line) for line in text.split("\n")))


def table(header: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """Format a table; the first `left` columns are aligned to the left, the others to the right."""
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


def terminal_width() -> int:
    """Columns of the terminal; 120 for files and pipes."""
    return shutil.get_terminal_size(fallback=(120, 24)).columns


def fit(text: str, width: int) -> str:
    """Shorten a text to a width; the end of a dotted name says most.

    >>> fit("encoder.layers.encoder_layer_11.mlp.0", 20)
    '...er_layer_11.mlp.0'
    """
    width = max(width, 10)
    return text if len(text) <= width else f"...{text[3 - width :]}"


# --- layers --------------------------------------------------------------------------------------


def layer_table(config: Config, models: Sequence["InspectedModel"]) -> str:
    """Tables of all layers, one per model; a star marks the layers that the config selects."""
    tables = [_layers_of(model, config) for model in models]
    note = "* selected by `layers`. A layer called several times shows its first call."
    if any(info.prefix_tokens for model in models for info in model.layers):
        note += (
            "\nTokens in brackets are non-spatial (class token, registers) and excluded; "
            "keep_prefix_tokens=true includes them."
        )
    return "\n\n".join([*tables, note])


def _layers_of(model: "InspectedModel", config: Config) -> str:
    network = model.network
    patterns = {entry.title: entry.layers for entry in config.models}[network.label]
    try:
        selected = {info.name for info in model.choose(patterns or config.objective.own_layers)}
    except UserError:  # patterns that match nothing are what this table is consulted for
        selected = set()
    rows = [
        (
            "*" if info.name in selected else "",
            info.name,
            info.module_type,
            info.n_channels,
            _shape(info),
            f"{100 * info.flops_share:.1f} %",
            info.calls if info.calls > 1 else "",
        )
        for info in model.layers
    ]
    size = " x ".join(map(str, model.image_size))
    title = f"{sanitize(f'{network.label} ({network.source})')}, {size} px input"
    if network.fixed_size is not None:
        title += f", resized to {network.fixed_size} px"
    header = ("", "layer", "type", "channels", "shape", "FLOPs", "calls")
    return f"{title}\n\n{table(header, rows, left=3)}"


def _shape(info: LayerInfo) -> str:
    """Shape of an activation, excluded tokens in brackets: `(1+)196x192`."""
    if not info.prefix_tokens:
        return "x".join(map(str, info.shape))
    return f"({info.prefix_tokens}+){info.positions}x{info.n_channels}"


# --- cleaning ------------------------------------------------------------------------------------


def cleaning_table(folder: OutputFolder, found: "Unneeded") -> str:
    """Removable files by kind, records of failures by name, and files of no known kind."""
    unknown = ["\n".join(_unknown(folder, found.unknown))] if found.unknown else []
    if not found.removable:
        return "\n\n".join([*unknown, f"{folder.root}: there is nothing to remove"])
    sizes = {kind: [p.lstat().st_size for p in paths] for kind, paths in found.removable.items()}
    rows = [(kind, len(some), disk_size(sum(some))) for kind, some in sizes.items()]
    everything = [size for some in sizes.values() for size in some]
    rows.append(("together", len(everything), disk_size(sum(everything))))
    parts = [f"{folder.root}", table(("not needed by the plan", "files", "size"), rows)]
    if found.failures:
        failures = sorted({f"  {record.what}: {record.how}" for record in found.failures})
        parts.append("\n".join(["failed once, done since:", *_first_of(failures)]))
    return "\n\n".join([*parts, *unknown])


def _unknown(folder: OutputFolder, paths: Sequence[Path]) -> Iterator[str]:
    yield "unknown, left alone:"
    # Names on a disk need not be text.
    names = [os.fsencode(folder.relative(path)).decode(errors="replace") for path in paths]
    yield from _first_of([f"  {name}" for name in names])


def _first_of(lines: Sequence[str]) -> Iterator[str]:
    yield from lines[:_MOST_NAMES]
    if len(lines) > _MOST_NAMES:
        yield f"  and {len(lines) - _MOST_NAMES} more"
