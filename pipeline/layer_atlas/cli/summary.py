"""The summary that ends `atlas run` and `atlas collate`, and the report of `atlas verify`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layer_atlas.errors import UserError, sanitize
from layer_atlas.plan.labels import count_images, network_lines, sampling_lines
from layer_atlas.presentation.summary import AtlasSummary, read_summary
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import plan_of, read_manifest
from layer_atlas.sweep.progress import duration


def summary(folder: OutputFolder) -> str:
    """What was made, which files to open, and what failed.

    Raises:
        UserError: there is no atlas.
    """
    manifest = read_manifest(folder)
    plan, summary = plan_of(manifest), read_summary(folder)
    if summary is None:
        raise UserError(f"there is no atlas in {str(folder.root)!r}; `atlas collate` makes it.")
    names = [(model.label, layer.info.name) for model in plan.models for layer in model.layers]
    montages = [folder.montage(*name) for name in names]
    animations = [animation for name in names for animation in folder.animations(*name)]
    counts = ", ".join(f"{n} {status}" for status, n in summary.counts.items() if n)
    lines = [f"{count_images(plan, plan.n_jobs)}: {counts}"]
    lines += [f"  targets   {line}" for line in sampling_lines(plan)]
    lines += [f"  model     {line}" for line in network_lines(plan)]
    lines.append(f"  atlas     {folder.atlas}")
    lines.append(f"  montages  {_first(montages)}")
    if (page := folder.site / "index.html").exists():
        lines.append(f"  site      {page}, to browse the atlas")
    if animations:
        lines.append(f"  animations     {_first(animations)}")
    lines += [f"  versions  {sanitize(summary.mixture)}"] if summary.mixture else []
    lines += _evidence(summary)
    lines += _time_taken(manifest["timings"])
    for model in plan.skipped_models:
        reason = sanitize(f"{model.model}: {model.why}")
        lines.append(f"  skipped   {reason} Repair it and run again.")
    if summary.counts.get("failed"):
        lines.append(
            f"  failures  `atlas failures {folder.choice}` lists them; `atlas retry "
            f"{folder.choice}` makes the next run try them again"
        )
    return "\n".join(lines)


def workers_left(folder: OutputFolder, workers: int) -> str:
    """What to do after a run that leaves before its detached workers."""
    return (
        f"{workers} workers continue on their own; `atlas status {folder.choice}` shows their "
        "progress, and the same command collects their results"
    )


def verification_report(notes: Sequence[str], problems: Sequence[str]) -> str:
    """What was compared and measured; below it every problem."""
    return "\n".join([*notes, *(f"  {sanitize(problem)}" for problem in problems)])


def _first(paths: Sequence[Path]) -> str:
    return f"{paths[0]}" + (f" and {len(paths) - 1} more" if paths[1:] else "")


def _evidence(summary: AtlasSummary) -> list[str]:
    """How the images compare with the dataset, in a line; and which files could not be read."""
    lines = []
    if (evidence := summary.evidence) is not None:
        lines.append(
            f"  evidence  agreement {evidence.agreement:.2f}, median rank {evidence.rank:.0f}, "
            f"{100 * evidence.above:.1f} % of live images excite more than any dataset image"
        )
    if summary.unreadable:
        some = ", ".join(map(sanitize, summary.unreadable_paths))
        lines.append(f"  dataset   {summary.unreadable} images could not be read: {some} ...")
    return lines


def _time_taken(timings: dict[str, Any]) -> list[str]:
    """Duration of the run that wrote the manifest, and the busy fraction of its devices."""
    devices = timings.get("devices", {}).values()
    if not any(device["workers"] for device in devices):
        return []
    slots = sum(device["slots"] for device in devices)
    busy = sum(device["busy"] for device in devices) / (slots * timings["total"])
    return [f"  time      {duration(timings['total'])}, devices busy {100 * busy:.0f} % of it"]
