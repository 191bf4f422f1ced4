"""The last words of a run: what was made, and what to open."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from layer_atlas.errors import UserError
from layer_atlas.plan.labels import count_images, network_lines, sampling_lines, sanitize
from layer_atlas.presentation.summary import AtlasSummary, read_summary
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import plan_of, read_manifest
from layer_atlas.sweep.scheduling.progress import duration


def summary(folder: OutputFolder) -> str:
    """What was made and what to open."""
    manifest = read_manifest(folder)
    plan, summary = plan_of(manifest), read_summary(folder)
    if summary is None:
        raise UserError(f"there is no atlas in {str(folder.root)!r}; `atlas collate` makes it.")
    names = [(model.label, layer.info.name) for model in plan.models for layer in model.layers]
    montages = [folder.montage(*name) for name in names]
    animations = [animation for name in names for animation in folder.animations(*name)]
    told = ", ".join(f"{n} {word}" for word, n in summary.counts.items() if n)
    lines = [f"{count_images(plan, plan.n_jobs)}: {told}"]
    lines += [f"  targets   {line}" for line in sampling_lines(plan)]
    lines += [f"  model     {line}" for line in network_lines(plan)]
    lines.append(f"  atlas     {folder.atlas}")
    lines.append(f"  montages  {_first(montages)}")
    if (page := folder.site / "index.html").exists():
        lines.append(f"  site      {page}, to browse all of it")
    if animations:
        lines.append(f"  animations     {_first(animations)}")
    lines += [f"  versions  {sanitize(summary.mixture)}"] if summary.mixture else []
    lines += _evidence(summary)
    lines += _time_taken(manifest["timings"])
    for model in plan.skipped_models:
        why = sanitize(f"{model.model}: {model.why}")
        lines.append(f"  left out  {why} Mend that and run again.")
    if summary.counts.get("failed"):
        lines.append(
            f"  failures  `atlas failures {folder.choice}` says why; `atlas retry {folder.choice}` "
            "has the next run try them again"
        )
    return "\n".join(lines)


def still_at_work(folder: OutputFolder, workers: int) -> str:
    """What a user is told when a run leaves before its workers."""
    return (
        f"{workers} workers go on by themselves; `atlas status {folder.choice}` shows how far they "
        "are, and the same command again takes them up"
    )


def _first(paths: Sequence[Path]) -> str:
    return f"{paths[0]}" + (f" and {len(paths) - 1} more" if paths[1:] else "")


def _evidence(summary: AtlasSummary) -> list[str]:
    """What photographs say of the images, in a line; and how many could not be read."""
    lines = []
    if (evidence := summary.evidence) is not None:
        lines.append(
            f"  evidence  agreement {evidence.agreement:.2f}, median rank {evidence.rank:.0f}, "
            f"{100 * evidence.above:.1f} % of live images excite more than any photograph"
        )
    if summary.unreadable:
        some = ", ".join(map(sanitize, summary.unreadable_paths))
        lines.append(f"  photos    {summary.unreadable} could not be read: {some} ...")
    return lines


def _time_taken(timings: dict[str, Any]) -> list[str]:
    """How long the run took that wrote the manifest, and what share of it the devices computed."""
    devices = timings.get("devices", {}).values()
    if not any(device["workers"] for device in devices):
        return []
    slots = sum(device["slots"] for device in devices)
    busy = sum(device["busy"] for device in devices) / (slots * timings["total"])
    return [f"  time      {duration(timings['total'])}, devices busy {100 * busy:.0f} % of it"]
