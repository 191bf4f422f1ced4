"""What the commands print: tables of plans, layers and progress, and the last words of a run."""

import contextlib
import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.collate.gather import layer_views
from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.jobs import STATUS, LayerInfo
from pipeline.lock import owner
from pipeline.manifest import plan_of, read_manifest
from pipeline.plan import (
    LayerPlan,
    ModelPlan,
    Plan,
    bytes_needed,
    flops_per_job,
    flops_per_second,
    photograph_seconds,
)
from pipeline.progress import duration
from pipeline.pulse import UNITS
from pipeline.sealed_file import CorruptFile
from pipeline.store import DoneIndex, OutputFolder, read_header
from pipeline.study_tasks import studies_of
from pipeline.wording import count_images, targets_word

_LONGEST_JOB = 1e6
"""Seconds; what a shard claims beyond that is no help."""

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
            seconds += undone * _job_seconds(folder, plan, model, layer, devices)
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
    seconds = (seconds + _study_seconds(folder, plan, devices)) / len(devices)
    total = plan.n_jobs if plan.variants == 1 else count_images(plan, plan.n_jobs)
    header = ("model", "layer", targets_word(plan), "seeds", "shards", "done", "missing")
    notes = [
        f"output    {folder.root}",
        f"devices   {', '.join(devices)}; precision {plan.models[0].recipe.precision}",
        f"images    {total}, of which {sum(row[-1] for row in rows)} are missing",
        *_photographs(folder, plan),
        f"estimate  {duration(seconds)}, {bytes_needed(plan, missing) / 1e6:.1f} MB",
        *(f"note      {notice}" for notice in notices(plan)),
        *(f"left out  {model.model}: {model.why}" for model in plan.left_out),
    ]
    return table(header, rows, left=2) + "\n\n" + "\n".join(notes)


def _job_seconds(
    folder: OutputFolder,
    plan: Plan,
    model: ModelPlan,
    layer: LayerPlan,
    devices: list[str],
) -> float:
    """Seconds per channel: as measured in the layer's first done shards, else a guess by FLOPs."""
    measured = []
    shards = (s for seed in plan.seeds for s in plan.layer_shards(model, layer, seed))
    for shard in islice(shards, 3):
        with contextlib.suppress(CorruptFile, OSError):
            seconds = read_header(folder.shard(shard)).facts.get("seconds_per_job")
            if isinstance(seconds, float) and 0 < seconds < _LONGEST_JOB:
                measured.append(seconds)
    guess = flops_per_job(layer, model.recipe) / flops_per_second(devices)
    return statistics.median(measured) if measured else guess


def _study_seconds(folder: OutputFolder, plan: Plan, devices: list[str]) -> float:
    """Seconds for the photographs that layers are yet to be shown: a guess by FLOPs."""
    if plan.study is None:
        return 0.0
    total = 0.0
    for model in plan.models:
        pairs = zip(model.layers, studies_of(model, plan.study), strict=True)
        left = [layer.info.flops_before for layer, s in pairs if not folder.exists(s.product)]
        if left:
            one = photograph_seconds(max(left), flops_per_second(devices))
            total += one * plan.study.count
    return total


def _photographs(folder: OutputFolder, plan: Plan) -> list[str]:
    """How many photographs there are, and how many layers have seen them all."""
    if plan.study is None:
        return []
    studies = [s for model in plan.models for s in studies_of(model, plan.study)]
    done = sum(folder.exists(study.product) for study in studies)
    told = (
        f"photos    {plan.study.count} ({plan.study.source}), studied in {done} of {len(studies)}"
    )
    return [f"{told} layers"]


def notices(plan: Plan) -> list[str]:
    """What a user should know about the plan.

    Networks that see images in another size, and layers of which only one call is looked at.
    """
    resized = [
        f"{label} takes only images of {network.fixed_size} px; those of "
        f"{' x '.join(map(str, model.recipe.image_size))} px are resized for it"
        for model in plan.models
        for label, network in model.networks.items()
        if network.fixed_size is not None
    ]
    return resized + [
        f"{model.label}/{layer.info.name} is called {layer.info.calls} times per forward pass; "
        "its first call is used"
        for model in plan.models
        for layer in model.layers
        if layer.info.calls > 1
    ]


def layer_table(config: Config, surveys: Sequence["Survey"]) -> str:
    """Every layer of every model: name, type, channels, shape, share of FLOPs; chosen or not."""
    parts = []
    layers = {model.title: model.layers for model in config.models}
    for found in surveys:
        patterns = layers[found.network.label] or config.objective.own_layers
        try:
            wanted = {info.name for info in found.choose(patterns)}
        except UserError:
            wanted = set()
        rows = [
            (
                "*" if info.name in wanted else "",
                info.name,
                info.module_type,
                info.n_channels,
                _shape(info),
                f"{100 * info.flops_share:.1f} %",
                info.calls if info.calls > 1 else "",
            )
            for info in found.layers
        ]
        header = ("", "layer", "type", "channels", "shape", "FLOPs", "calls")
        size = " x ".join(map(str, found.image_size))
        title = f"{found.network.label} ({found.network.source}), {size} px input"
        if found.network.fixed_size is not None:
            title += f", resized to {found.network.fixed_size} px"
        parts.append(f"{title}\n\n{table(header, rows, left=3)}")
    note = "* chosen by `layers`. A layer called several times shows its first call."
    if any(info.prefix_tokens for found in surveys for info in found.layers):
        note += (
            "\nTokens in brackets are no positions (class token, registers) and left out; "
            "class_token=true keeps them."
        )
    return "\n\n".join([*parts, note])


def _shape(info: LayerInfo) -> str:
    """Sides of an activation; those tokens that are left out in brackets: (1+)196x192."""
    if not info.prefix_tokens:
        return "x".join(map(str, info.shape))
    return f"({info.prefix_tokens}+){info.positions}x{info.n_channels}"


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
    jobs = "images" if plan.variants == 1 else "jobs"
    header = ("model", "layer", jobs, "done", "failed", "missing")
    done, total = sum(row[3] for row in rows), sum(row[2] for row in rows)
    share = f"{100 * done / total:.1f} %"
    lines = [f"{folder.root}: {done} of {count_images(plan, total)} are done ({share})"]
    lines += _photographs(folder, plan)
    lines += _at_work(folder, total - done)
    lines += [f"failed: {record}" for record in _last_failures(folder)]
    lines += [f"left out: {model.model}: {model.why}" for model in plan.left_out]
    return table(header, rows, left=2) + "\n\n" + "\n".join(lines)


def _at_work(folder: OutputFolder, left: int) -> list[str]:
    """Who runs the sweep now, how fast, and for how long yet."""
    who = owner(folder)
    if who is None:
        return ["nobody is at work on it"]
    rates: dict[str, float] = {}
    for pulse in _pulses(folder):
        unit = UNITS.get(pulse.get("kind", ""), "channels")
        rates[unit] = rates.get(unit, 0.0) + pulse["done"] / max(pulse["seconds"], 1e-9)
    told = [f"{rate:.2f} {unit}/s" for unit, rate in rates.items()] or ["starting"]
    if rates.get("channels"):
        told.append(f"{duration(left / rates['channels'])} left")
    return [f"at work: {who}; {', '.join(told)}"]


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
        name = folder.root.name
        lines.append(
            f"  failures  `atlas failures name={name}` says why; `atlas retry name={name}` has the "
            "next run try them again"
        )
    return "\n".join(lines)


def still_at_work(folder: OutputFolder, workers: int) -> str:
    """What a user is told when a run leaves before its workers."""
    name = folder.root.name
    return (
        f"{workers} workers go on by themselves; `atlas status name={name}` shows how far they "
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
