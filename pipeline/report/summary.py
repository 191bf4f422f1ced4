"""The last words of a run: what was made, and what to open."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.collate.gather import layer_views
from pipeline.jobs import STATUS
from pipeline.manifest import plan_of, read_manifest
from pipeline.progress import duration
from pipeline.store import OutputFolder
from pipeline.wording import count_images


def summary(folder: OutputFolder) -> str:
    """What was made and what to open."""
    import h5py
    import numpy as np

    counts = dict.fromkeys(STATUS, 0)
    montages, layers, films = [], [], []
    manifest = read_manifest(folder)
    plan = plan_of(manifest)
    with h5py.File(folder.atlas, "r") as file:
        for view in layer_views(folder, plan):
            layers.append(file[view.group])
            status = layers[-1]["status"][()]
            for word, code in STATUS.items():
                counts[word] += int(np.count_nonzero(status == code))
            names = view.model.label, view.layer.info.name
            montages.append(folder.montage(*names))
            films += folder.films(*names)
        evidence = _evidence(layers)
    told = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    lines = [f"{count_images(plan, plan.n_jobs)}: {told}", f"  atlas     {folder.atlas}"]
    lines.append(f"  montages  {_first(montages)}")
    if films:
        lines.append(f"  films     {_first(films)}")
    lines += evidence
    lines += _time_taken(manifest["timings"])
    for model in plan.left_out:
        lines.append(f"  left out  {model.model}: {model.why} Mend that and run again.")
    if counts["failed"]:
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


def _evidence(layers: Sequence[Any]) -> list[str]:
    """What photographs say of the images, in a line; and how many could not be read."""
    import numpy as np

    told = [layer for layer in layers if "agreement" in layer]
    lines = []
    if told:
        live = [layer["status"][()] == STATUS["ok"] for layer in told]
        values = {
            name: np.concatenate(
                [layer[name][()][ok] for layer, ok in zip(told, live, strict=True)]
            )
            for name in ("agreement", "agreement_rank", "percentile")
        }
        if len(values["agreement"]):
            above = 100 * np.mean(values["percentile"] == 100)
            lines.append(
                f"  evidence  agreement {np.mean(values['agreement']):.2f}, median rank "
                f"{np.median(values['agreement_rank']):.0f}, {above:.1f} % of live images excite "
                "more than any photograph"
            )
    seen = [layer["dataset"].attrs for layer in layers if "dataset" in layer]
    worst = max(seen, key=lambda attrs: attrs["unreadable"], default=None)
    if worst is not None and worst["unreadable"]:
        some = ", ".join(worst["unreadable_paths"][:3])
        lines.append(f"  photos    {worst['unreadable']} could not be read: {some} ...")
    return lines


def _time_taken(timings: dict[str, Any]) -> list[str]:
    """How long the run took that wrote the manifest, and what share of it the devices computed."""
    devices = timings.get("devices", {}).values()
    if not any(device["workers"] for device in devices):
        return []
    slots = sum(device["slots"] for device in devices)
    busy = sum(device["busy"] for device in devices) / (slots * timings["total"])
    return [f"  time      {duration(timings['total'])}, devices busy {100 * busy:.0f} % of it"]
