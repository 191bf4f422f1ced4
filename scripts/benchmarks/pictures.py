"""The pictures of the report: speed against agreement, and what the images look like."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from judges.sheets import labelled_rows
from PIL import Image

from benchmarks.judging import Judge
from benchmarks.rounds import Entry

MOST_COLUMNS = 8
_COLOURS = {
    "ours": "#0b6e4f",
    "torch-dreams": "#b3541e",
    "lucent": "#4a4e9c",
    "lucent-in-time": "#8a8dc4",
}


# --- plot ----------------------------------------------------------------------------------------


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Seconds per channel against agreement on the shared channels, one panel per layer.

    Without photographs there is no agreement; the robust activation takes its place.
    """
    try:
        import matplotlib
    except ImportError:
        print("no plot: package matplotlib is missing; pip install 'layer-atlas[bench]'")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    points = [row for row in rows if row["set"] == "shared" and row["counts"]]
    layers = list(dict.fromkeys(row["layer"] for row in points))
    if not layers:
        return
    measure = "agreement" if "agreement" in points[0] else "robust_activation"
    figure, axes = pyplot.subplots(
        1, len(layers), figsize=(5.8 * len(layers), 4.2), squeeze=False, layout="constrained"
    )
    for layer, axis in zip(layers, axes[0], strict=True):
        _panel(axis, [row for row in points if row["layer"] == layer], measure)
        axis.set_title(layer, loc="left", fontsize=11)
    names = {"agreement": "agreement with photographs", "robust_activation": "robust activation"}
    axes[0][0].set_ylabel(names[measure])
    figure.savefig(path, dpi=160)
    pyplot.close(figure)


def _panel(axis: Any, rows: Sequence[dict[str, Any]], measure: str) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    rows = sorted(rows, key=lambda row: row["seconds_per_channel"]["median"])
    seconds = [row["seconds_per_channel"]["median"] for row in rows]
    low, high = seconds[0] / 2, max(seconds[-1] * 2, seconds[0] * 20)
    for place, (row, middle) in enumerate(zip(rows, seconds, strict=True)):
        # Labels point to the middle of the panel, by turns above and below their points.
        _point(axis, row, measure, middle**2 > low * high, bool(place % 2))
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.set_ylim(0, max([row[measure] or 0 for row in rows] + [1e-6]) * 1.25)
    axis.xaxis.set_major_locator(LogLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("seconds per channel (log)")
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.spines[["top", "right"]].set_visible(False)


def _point(axis: Any, row: dict[str, Any], measure: str, leftwards: bool, below: bool) -> None:
    seconds, height = row["seconds_per_channel"], row[measure]
    if height is None:
        return
    middle = seconds["median"]
    reach = [[middle - seconds["min"]], [seconds["max"] - middle]]
    colour = _COLOURS[row["system"].split()[0]]
    axis.errorbar(middle, height, xerr=reach, fmt="o", color=colour, markersize=7, capsize=3)
    dead = f", {row['dead']} dead" if row["dead"] else ""
    axis.annotate(
        f"{row['system']}{dead}",
        (middle, height),
        xytext=(-5 if leftwards else 5, -18 if below else 11),
        ha="right" if leftwards else "left",
        textcoords="offset points",
        fontsize=9,
        color=colour,
    )


# --- contact sheet -------------------------------------------------------------------------------


def contact_sheet(
    entries: Sequence[Entry],
    judges: dict[str, Judge],
    verdicts: Sequence[dict[int, dict[str, float | bool]]],
    path: Path,
) -> None:
    """Rows are systems, columns are channels, block by block of one layer each."""
    blocks = []
    for layer, judge in judges.items():
        pairs = [
            (entry, seen)
            for entry, seen in zip(entries, verdicts, strict=True)
            if entry.images and entry.case.info.name == layer
        ]
        if pairs:
            blocks.append(_block(layer, judge, pairs))
    if not blocks:
        return
    sheet = Image.new("RGB", (max(b.width for b in blocks), sum(b.height for b in blocks)), "white")
    top = 0
    for block in blocks:
        sheet.paste(block, (0, top))
        top += block.height
    sheet.save(path)


def _block(
    layer: str, judge: Judge, pairs: Sequence[tuple[Entry, dict[int, dict[str, float | bool]]]]
) -> Image.Image:
    shared = pairs[0][0].shared
    channels = shared[:: math.ceil(len(shared) / MOST_COLUMNS)]
    lines = [
        (entry.system.label, [(entry.images[c].numpy(), _caption(seen[c])) for c in channels])
        for entry, seen in pairs
    ]
    if judge.dataset_images is not None and judge.strongest is not None:
        strongest = judge.dataset_images.pixels[judge.strongest[list(channels)]].numpy()
        lines.append(("strongest photograph", [(pixels, "") for pixels in strongest]))
    return labelled_rows(layer, [f"channel {channel}" for channel in channels], lines)


def _caption(verdict: dict[str, float | bool]) -> str:
    if verdict["dead"]:
        return "dead"
    if "agreement" in verdict:
        return f"{verdict['agreement']:.2f}, rank {verdict['rank']}"
    return f"{verdict['robust_activation']:.3g}"
