"""Tables: plain text in columns, and what `plan`, `layers`, `run`, `verify` and `clean` print."""

import contextlib
import math
import os
import shutil
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from layer_atlas.config.config import Config
from layer_atlas.datasets.tasks import all_statistics, judgings_of
from layer_atlas.errors import UserError, sanitize
from layer_atlas.plan.jobs import LayerInfo, Shard, seen_size
from layer_atlas.plan.labels import (
    coarse_judgements,
    count_images,
    network_line,
    network_lines,
    notices,
    recipe_lines,
    sampling_lines,
    targets_word,
)
from layer_atlas.plan.plan import (
    COLLATING_SECONDS,
    START_SECONDS,
    LayerPlan,
    ModelPlan,
    Plan,
    bytes_needed,
    dataset_image_seconds,
    flops_per_job,
    flops_per_second,
)
from layer_atlas.presentation.collate import AtlasSummary, read_summary
from layer_atlas.store.files import CorruptFile
from layer_atlas.store.folder import OutputFolder, disk_size
from layer_atlas.store.manifest import plan_of, read_manifest
from layer_atlas.store.resume import DoneIndex
from layer_atlas.store.shards import read_header
from layer_atlas.sweep.monitor import duration, not_counted

if TYPE_CHECKING:  # these need torch, which most commands do without
    from layer_atlas.sweep.cleaning import Unneeded
    from layer_atlas.sweep.planning import InspectedModel

_MOST_NAMES = 10


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
    if any(info.prefix_tokens + info.suffix_tokens for model in models for info in model.layers):
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
    seen = seen_size(network.fixed_size, network.input_size, model.image_size, network.origin)
    line = network_line(network.label, network.mean, network.std, *seen)
    return f"{title}\n{line}\n\n{table(header, rows, left=3)}"


def _shape(info: LayerInfo) -> str:
    """Shape of an activation, excluded tokens in brackets: `(1+)196x192`, `(1+)16(+5)x32`."""
    before, after = info.prefix_tokens, info.suffix_tokens
    if not before + after:
        return "x".join(map(str, info.shape))
    count = f"({before}+)" * bool(before) + f"{info.positions}" + f"(+{after})" * bool(after)
    return f"{count}x{info.n_channels}"


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


_LONGEST_JOB = 1e6
"""Seconds; a shard from elsewhere may claim any duration, and longer ones are ignored."""


Row = tuple[str, str, int, int, int, int, int]


def plan_table(folder: OutputFolder, plan: Plan, devices: list[str], planning: float = 0.0) -> str:
    """Table of the layers with their done and missing jobs; below it time, disk and notices.

    Args:
        folder: the output folder.
        plan: what is to be made.
        devices: where.
        planning: seconds that planning took, and will take again.
    """
    index = DoneIndex(folder, plan.environments)
    rows: list[Row] = []
    missing, seconds = list[Shard](), list[float]()
    for model in plan.models:
        for layer in model.layers:
            shards = [s for seed in plan.seeds for s in plan.layer_shards(model, layer, seed)]
            left = list(index.missing(shards))
            jobs, undone = sum(len(s.targets) for s in shards), sum(len(s.targets) for s in left)
            if undone:
                each = _job_seconds(folder, plan, model, layer, devices)
                seconds += [len(shard.targets) * each for shard in left]
            missing += left
            rows.append(
                (
                    model.label,
                    layer.info.name,
                    len(layer.targets),
                    len(plan.seeds),
                    len(shards),
                    jobs - undone,
                    undone,
                )
            )
    estimate = planning + _run_seconds(folder, plan, devices, seconds)
    total = plan.n_jobs if plan.variants == 1 else count_images(plan, plan.n_jobs)
    header = ("model", "layer", targets_word(plan), "seeds", "shards", "done", "missing")
    notes = [
        f"output    {folder.root}",
        *(f"model     {line}" for line in network_lines(plan)),
        *(f"recipe    {line}" for line in recipe_lines(plan)),
        *(f"targets   {line}" for line in sampling_lines(plan)),
        f"devices   {', '.join(devices)}; precision {plan.models[0].recipe.precision}",
        f"images    {total}, of which {sum(row[-1] for row in rows)} are missing",
        *(f"checked   {sanitize(line)}" for line in map(checked_paths, plan.models)),
        *not_counted(folder, plan),
        *dataset_images_seen(folder, plan),
        f"estimate  {duration(estimate)}, {disk_size(bytes_needed(plan, missing))}",
        *(f"note      {notice}" for notice in notices(plan)),
        *(f"skipped   {sanitize(f'{model.model}: {model.why}')}" for model in plan.skipped_models),
    ]
    return table(header, rows, left=2) + "\n\n" + "\n".join(notes)


def _run_seconds(
    folder: OutputFolder, plan: Plan, devices: list[str], optimizing: Sequence[float]
) -> float:
    """Seconds of a run after planning, with the starts of workers, and collation.

    Args:
        folder: the output folder.
        plan: what is to be made.
        devices: where.
        optimizing: seconds of a worker for each shard that is missing.
    """
    over_dataset = _dataset_seconds(folder, plan, devices)
    # Workers start for every stage; examples follow dataset statistics and take little else.
    examples = [0.0] if over_dataset else []
    stages = (over_dataset, optimizing, examples, _judging_seconds(folder, plan, devices))
    if not any(stages):
        return 0.0
    # A stage of few tasks leaves devices idle.
    working = sum(max(sum(tasks) / len(devices), *tasks) for tasks in stages if tasks)
    whole, each = COLLATING_SECONDS
    return working + sum(map(bool, stages)) * START_SECONDS + whole + each * plan.n_jobs


def _judging_seconds(folder: OutputFolder, plan: Plan, devices: list[str]) -> list[float]:
    """Seconds for each shard whose images are not judged, estimated from FLOPs."""
    return [
        task.units * task.judge.info.flops_before / flops_per_second(devices)
        for model in plan.models
        for layer in model.layers
        for task in judgings_of(plan, model, layer)
        if not folder.is_done(task)
    ]


def _job_seconds(
    folder: OutputFolder, plan: Plan, model: ModelPlan, layer: LayerPlan, devices: list[str]
) -> float:
    """Seconds per job: measured in the layer's first done shards, else estimated from FLOPs."""
    measured = []
    shards = (s for seed in plan.seeds for s in plan.layer_shards(model, layer, seed))
    for shard in islice(shards, 3):
        with contextlib.suppress(CorruptFile, OSError):
            seconds = read_header(folder.shard(shard)).facts.get("seconds_per_job")
            if isinstance(seconds, float) and 0 < seconds < _LONGEST_JOB:
                measured.append(seconds)
    estimate = flops_per_job(layer, model.recipe) / flops_per_second(devices)
    return statistics.median(measured) if measured else estimate


def _dataset_seconds(folder: OutputFolder, plan: Plan, devices: list[str]) -> list[float]:
    """Seconds for each block of the missing dataset statistics, estimated from FLOPs."""
    if plan.dataset_plan is None:
        return []
    blocks = math.ceil(plan.dataset_plan.count / plan.dataset_plan.block)
    seconds: list[float] = []
    for model in plan.dataset_models:
        pairs = zip(model.layers, all_statistics(model, plan.dataset_plan), strict=True)
        left = [layer.info.flops_before for layer, s in pairs if not folder.exists(s.product)]
        if left:
            per_image = dataset_image_seconds(max(left), flops_per_second(devices))
            seconds += [per_image * plan.dataset_plan.count / blocks] * blocks
    return seconds


def dataset_images_seen(folder: OutputFolder, plan: Plan) -> list[str]:
    """Count the dataset's images, and the layers whose statistics are complete; as 0 or 1 line."""
    if plan.dataset_plan is None:
        return []
    tasks = [
        task for model in plan.dataset_models for task in all_statistics(model, plan.dataset_plan)
    ]
    done = sum(folder.exists(task.product) for task in tasks)
    images = f"{plan.dataset_plan.count} images ({sanitize(plan.dataset_plan.source)})"
    return [f"dataset   {images}, statistics of {done} of {len(tasks)} layers"]


def checked_paths(model: ModelPlan) -> str:
    """Which computation paths agree with the plain forward pass, and for how many layers."""
    paths = Counter(layer.info.path for layer in model.layers)
    counted = "; ".join(
        f"{path or 'unchecked'} ({n} layer{'s' * (n > 1)})" for path, n in paths.most_common()
    )
    return f"{model.label}: {model.recipe.precision}, {counted}"


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
    lines += _evidence(summary, coarse_judgements(plan))
    lines += _time_taken(manifest["timings"])
    for model in plan.skipped_models:
        reason = sanitize(f"{model.model}: {model.why}")
        lines.append(f"  skipped   {reason} Repair it and run again.")
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


def _evidence(summary: AtlasSummary, coarse: Sequence[str]) -> list[str]:
    """How the images compare with the dataset, and which files could not be read.

    Args:
        summary: of the atlas.
        coarse: sentences on recognisability.
    """
    lines = []
    if (evidence := summary.evidence) is not None:
        lines.append(
            f"  evidence  agreement {evidence.agreement:.2f}, median rank {evidence.rank:.0f}, "
            f"{100 * evidence.above:.1f} % of live images excite more than any dataset image"
        )
        if evidence.recognisability is not None:
            ceiling = evidence.recognisability_of_dataset or math.nan
            lines.append(
                f"  judged    recognisability {evidence.recognisability:.2f}; of the strongest "
                f"dataset images {ceiling:.2f}, by chance 0.50"
            )
            lines += [f"            {line}" for line in coarse]
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
