"""What the commands print: tables of plans, layers and progress, and the last words of a run."""

import contextlib
import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from pipeline.collate.gather import layer_views
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.jobs import STATUS
from pipeline.manifest import plan_of, read_manifest
from pipeline.plan import (
    FLOPS_PER_SECOND,
    LayerPlan,
    ModelPlan,
    Plan,
    bytes_needed,
    flops_per_job,
)
from pipeline.progress import duration
from pipeline.sealed_file import CorruptFile
from pipeline.store import DoneIndex, OutputFolder, owner, read_shard

if TYPE_CHECKING:  # the survey needs torch, which most tables do not
    from pipeline.survey import Survey


def table(header: Sequence[str], rows: Iterable[Sequence[object]], left: int = 1) -> str:
    """A plain table; the first `left` columns are aligned to the left, the others to the right."""
    lines = [list(header), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def plan_table(folder: OutputFolder, plan: Plan, devices: list[str]) -> str:
    """Models, layers, channels, shards, done and missing, estimated time and disk."""
    index = DoneIndex(folder)
    rows, missing = [], []
    seconds = 0.0
    for model in plan.models:
        for layer in model.layers:
            shards = [s for seed in plan.seeds for s in plan.layer_shards(model, layer, seed)]
            left = list(index.missing(shards))
            jobs, undone = sum(len(s.channels) for s in shards), sum(len(s.channels) for s in left)
            seconds += undone * _job_seconds(folder, index, plan, model, layer, devices)
            missing += left
            rows.append(
                (
                    model.label,
                    layer.info.name,
                    len(layer.channels),
                    len(plan.seeds),
                    len(shards),
                    jobs - undone,
                    undone,
                )
            )
    seconds /= len(devices)
    header = ("model", "layer", "channels", "seeds", "shards", "done", "missing")
    notes = [
        f"output    {folder.root}",
        f"devices   {', '.join(devices)}; precision {plan.models[0].recipe.precision}",
        f"images    {plan.n_jobs}, of which {sum(row[-1] for row in rows)} are missing",
        f"estimate  {duration(seconds)}, {bytes_needed(plan, missing) / 1e6:.1f} MB",
        *(f"note      {notice}" for notice in notices(plan)),
    ]
    return table(header, rows, left=2) + "\n\n" + "\n".join(notes)


def _job_seconds(
    folder: OutputFolder,
    index: DoneIndex,
    plan: Plan,
    model: ModelPlan,
    layer: LayerPlan,
    devices: list[str],
) -> float:
    """Seconds per channel: as measured in the layer's first done shards, else a guess by FLOPs."""
    measured = []
    shards = (s for seed in plan.seeds for s in plan.layer_shards(model, layer, seed))
    for shard in islice(shards, 3):
        path = folder.shard(shard)
        if index.locate(shard) and path.exists():
            try:
                measured.append(float(read_shard(path).facts["seconds_per_job"]))
            except (CorruptFile, KeyError):
                continue
    rate = min(FLOPS_PER_SECOND[device.split(":")[0]] for device in devices)
    guess = flops_per_job(layer.info, model.recipe) / rate
    return statistics.median(measured) if measured else guess


def notices(plan: Plan) -> list[str]:
    """What a user should know about the plan: layers of which only one call is looked at."""
    return [
        f"{model.label}/{layer.info.name} is called {layer.info.calls} times per forward pass; "
        "its first call is used"
        for model in plan.models
        for layer in model.layers
        if layer.info.calls > 1
    ]


def layer_table(config: Config, surveys: Sequence["Survey"]) -> str:
    """Every layer of every model: name, type, channels, shape, share of FLOPs; chosen or not."""
    parts = []
    for model, found in zip(config.models, surveys, strict=True):
        try:
            wanted = {info.name for info in found.choose(model.layers or config.layers)}
        except UserError:
            wanted = set()
        rows = [
            (
                "*" if info.name in wanted else "",
                info.name,
                info.module_type,
                info.n_channels,
                "x".join(map(str, info.shape)),
                f"{100 * info.flops_share:.1f} %",
                info.calls if info.calls > 1 else "",
            )
            for info in found.layers
        ]
        header = ("", "layer", "type", "channels", "shape", "FLOPs", "calls")
        title = f"{found.network.label} ({found.network.source}), {found.image_size} px input"
        parts.append(f"{title}\n\n{table(header, rows, left=3)}")
    note = "* chosen by `layers`. A layer called several times shows its first call."
    return "\n\n".join([*parts, note])


def status_table(folder: OutputFolder) -> str:
    """How far an output folder is, layer by layer, from the store and the manifest."""
    plan = plan_of(read_manifest(folder))
    rows = []
    for view in layer_views(folder, plan):
        status = view.initial_status()
        done = sum(len(located) for _, _, located in view.located())
        failed = int((status == STATUS["failed"]).sum())
        missing = status.size - done - failed
        rows.append((view.model.label, view.layer.info.name, status.size, done, failed, missing))
    header = ("model", "layer", "images", "done", "failed", "missing")
    done, total = sum(row[3] for row in rows), sum(row[2] for row in rows)
    lines = [f"{folder.root}: {done} of {total} images are done ({100 * done / total:.1f} %)"]
    lines += _at_work(folder, total - done)
    lines += [f"failed: {record}" for record in _last_failures(folder)]
    return table(header, rows, left=2) + "\n\n" + "\n".join(lines)


def _at_work(folder: OutputFolder, left: int) -> list[str]:
    """Who runs the sweep now, how fast, and for how long yet."""
    who = owner(folder)
    if who is None:
        return ["nobody is at work on it"]
    rate = sum(pulse["done"] / max(pulse["seconds"], 1e-9) for pulse in _pulses(folder))
    eta = duration(left / rate) if rate else "unknown time"
    return [f"at work: {who}; {rate:.2f} channels/s, {eta} left"]


def _pulses(folder: OutputFolder) -> Iterator[dict[str, Any]]:
    for path in folder.logs.glob("*.pulse"):
        with contextlib.suppress(OSError, ValueError):
            yield json.loads(path.read_text())


def _last_failures(folder: OutputFolder, n: int = 5) -> list[str]:
    """The latest records of failed attempts, a line each."""
    paths = sorted(folder.failures.glob("*.json"), key=lambda path: path.stat().st_mtime)[-n:]
    records = [json.loads(path.read_text()) for path in paths]
    return [f"{r['what']}, attempt {r['attempt']}: {r['how']} ({r['log']})" for r in records]


def summary(folder: OutputFolder) -> str:
    """What was made and what to open."""
    import h5py
    import numpy as np

    counts = dict.fromkeys(STATUS, 0)
    montages = []
    manifest = read_manifest(folder)
    plan = plan_of(manifest)
    with h5py.File(folder.atlas, "r") as file:
        for view in layer_views(folder, plan):
            status = file[view.group]["status"][()]
            for word, code in STATUS.items():
                counts[word] += int(np.count_nonzero(status == code))
            montages.append(folder.montage(view.model.label, view.layer.info.name))
    told = ", ".join(f"{n} {word}" for word, n in counts.items() if n)
    lines = [f"{plan.n_jobs} images: {told}", f"  atlas     {folder.atlas}"]
    lines.append(
        f"  montages  {montages[0]}" + (f" and {len(montages) - 1} more" if montages[1:] else "")
    )
    lines += _time_taken(manifest["timings"])
    if counts["failed"]:
        lines.append(f"  failures  {folder.failures} says why; running again tries them again")
    return "\n".join(lines)


def _time_taken(timings: dict[str, Any]) -> list[str]:
    """How long the run took that wrote the manifest, and what share of it the devices computed."""
    devices = timings.get("devices", {}).values()
    if not any(device["workers"] for device in devices):
        return []
    slots = sum(device["slots"] for device in devices)
    busy = sum(device["busy"] for device in devices) / (slots * timings["total"])
    return [f"  time      {duration(timings['total'])}, devices busy {100 * busy:.0f} % of it"]
