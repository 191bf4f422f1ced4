"""The report: one row of numbers per system, layer and set of channels; a table; a JSON file."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from judges.photographs import DatasetImages
from PIL import Image

from benchmarks.judging import Judge, finite, summarised
from benchmarks.pictures import contact_sheet, plot
from benchmarks.rounds import Entry
from layer_atlas.store.manifest import versions

SCHEMA = "layer-atlas-benchmark/1"
_PACKAGES = ("torch-lucent", "torch_dreams", "kornia", "matplotlib")
_ROOT = Path(__file__).resolve().parents[2]


def report(
    entries: list[Entry], judges: dict[str, Judge], facts: dict[str, Any], out: Path
) -> None:
    """Judge the images, print the table, write everything into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    verdicts = [judges[entry.case.info.name].judge(entry.images) for entry in entries]
    rows = [row for pair in zip(entries, verdicts, strict=True) for row in _rows(*pair)]
    _compare(rows)
    raw = [_raw(entry, images) for entry, images in zip(entries, verdicts, strict=True)]
    result = {"schema": SCHEMA, **facts, "rows": rows, "raw": raw}
    (out / "benchmark.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    print(table(rows))
    if facts["photographs"]:
        share = facts["photographs"]["high_frequency_share"]
        print(f"\nhigh-frequency fraction of the photographs: {share:.3f}")
    plot(rows, out / "benchmark.png")
    contact_sheet(entries, judges, verdicts, out / "contact_sheet.png")
    _write_images(entries, out / "images")
    print(f"\nwrote {', '.join(sorted(str(path) for path in out.glob('*.*')))}")


def _write_images(entries: Sequence[Entry], folder: Path) -> None:
    """Write every image as SYSTEM/LAYER/CHANNEL.png, as `judge_recipes.py --images` reads them."""
    for entry in entries:
        into = folder / entry.system.label / entry.case.info.name
        for channel, pixels in entry.images.items():
            into.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.numpy()).save(into / f"{channel}.png")


# --- rows ----------------------------------------------------------------------------------------


def _rows(entry: Entry, verdicts: dict[int, dict[str, float | bool]]) -> list[dict[str, Any]]:
    """A row for all channels of a system, and one for those that every system made."""
    row = {
        "layer": entry.case.info.name,
        "system": entry.system.label,
        "batch": entry.system.batch,
        "steps": entry.system.steps,
        **{name: _spread(values) for name, values in entry.timings.items()},
    }
    if "steps_in_time" in row:
        row["steps"] = round(row["steps_in_time"]["median"])
    if "seconds_per_channel" in row:
        seconds = entry.timings["seconds_per_channel"]
        row["ms_per_channel_step"] = _spread(s * 1000 / row["steps"] for s in seconds)
    if not verdicts:
        return [{**row, "set": "none", "channels": []}]
    sets = {"all": entry.channels, "shared": entry.shared}
    if entry.channels == entry.shared:
        del sets["all"]
    return [
        {**row, "set": name, "channels": list(own), **summarised([verdicts[c] for c in own])}
        for name, own in sets.items()
    ]


def _spread(values: Iterable[float]) -> dict[str, float]:
    known = list(values)
    return {"median": statistics.median(known), "min": min(known), "max": max(known)}


def _compare(rows: list[dict[str, Any]]) -> None:
    """Print which rows count, the fastest batch of each other system, and our speed-up."""
    for layer in {row["layer"] for row in rows}:
        here = [row for row in rows if row["layer"] == layer and row["channels"]]
        fastest: dict[str, float] = {}
        for row in here:
            name, seconds = _family(row), row["seconds_per_channel"]["median"]
            fastest[name] = min(fastest.get(name, seconds), seconds)
        fastest.pop("ours", None)
        for row in here:
            own = row["seconds_per_channel"]["median"]
            row["counts"] = own == fastest.get(_family(row), own)
            if _family(row) == "ours":
                row["speed_up"] = {name: seconds / own for name, seconds in fastest.items()}


def _family(row: dict[str, Any]) -> str:
    """`ours draft` and `ours standard` are ours, whatever the preset; so for batch sizes."""
    return str(row["system"].split()[0])


def _raw(entry: Entry, verdicts: dict[int, dict[str, float | bool]]) -> dict[str, Any]:
    """Every timing and every image's verdict, for whoever wants to reckon otherwise."""
    return {
        "layer": entry.case.info.name,
        "system": entry.system.label,
        "timings": dict(entry.timings),
        "images": {
            str(channel): {k: v if isinstance(v, bool) else finite(v) for k, v in verdict.items()}
            for channel, verdict in verdicts.items()
        },
    }


# --- table ---------------------------------------------------------------------------------------


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as aligned text: medians, and the range of the timings in brackets."""
    others = sorted({name for row in rows for name in row.get("speed_up", {})})
    heads = ["layer", "system", "channels", "batch", "steps", "s/channel", "CPU s/channel"]
    heads += ["+ statistics"]
    heads += ["ms/channel-step", "x floor", "dead", "robust", "high freq", "agreement", "rank"]
    heads += [f"vs {name}" for name in others]
    lines = [heads, *(_cells(row, others) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _cells(row: dict[str, Any], others: Sequence[str]) -> list[str]:
    count = len(row["channels"])
    channels = {"all": f"all {count}", "shared": f"shared {count}", "none": "-"}[row["set"]]
    cells = [row["layer"], row["system"], channels, str(row["batch"])]
    cells.append(str(row["steps"]) if count else "-")
    cells += [_range(row.get("seconds_per_channel")), _range(row.get("cpu_seconds_per_channel"))]
    cells += [_range(row.get("seconds_per_channel_with_statistics"))]
    cells += [_range(row.get("ms_per_channel_step")), _range(row.get("step_over_floor"))]
    cells += [str(row.get("dead", "-")), _number(row.get("robust_activation"))]
    cells += [_number(row.get("high_frequency_share")), _number(row.get("agreement"))]
    cells.append(_number(row.get("median_rank")))
    return cells + [_number(row.get("speed_up", {}).get(name)) for name in others]


def _range(values: dict[str, float] | None) -> str:
    if values is None:
        return "-"
    low, high = _number(values["min"]), _number(values["max"])
    return f"{_number(values['median'])} [{low}-{high}]"


def _number(value: float | None) -> str:
    """Three significant digits, without an exponent."""
    if value is None:
        return "-"
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


# --- facts ---------------------------------------------------------------------------------------


def gather_facts(
    argv: Sequence[str],
    settings: dict[str, Any],
    device: torch.device,
    dataset_images: DatasetImages | None,
) -> dict[str, Any]:
    """When, where, of what and how this was measured."""
    seen = dataset_images and {
        "count": len(dataset_images.pixels),
        "unreadable": dataset_images.unreadable,
        "high_frequency_share": dataset_images.high_frequency_share,
    }
    return {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": [sys.argv[0], *argv],
        "machine": _machine(device),
        "versions": {**versions(), **{name: _version(name) for name in _PACKAGES}},
        "git": _git(),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in settings.items()},
        "photographs": seen,
    }


def _machine(device: torch.device) -> dict[str, Any]:
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": str(device),
        "gpu": gpu,
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any]:
    commit, changes = _git_says("rev-parse", "HEAD"), _git_says("status", "--porcelain")
    return {"commit": commit, "dirty": None if changes is None else bool(changes)}


def _git_says(*arguments: str) -> str | None:
    try:
        told = subprocess.run(
            ["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.strip() if told.returncode == 0 else None
