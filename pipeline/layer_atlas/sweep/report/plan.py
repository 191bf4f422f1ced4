"""What `atlas plan` prints: what a run would make, how long it takes, and how much disk."""

import contextlib
import statistics
from collections import Counter
from itertools import islice

from layer_atlas.datasets.tasks import all_statistics
from layer_atlas.plan.labels import (
    count_images,
    network_lines,
    sampling_lines,
    sanitize,
    targets_word,
)
from layer_atlas.plan.origin import AS_CONSTRUCTED
from layer_atlas.plan.plan import (
    LayerPlan,
    ModelPlan,
    Plan,
    bytes_needed,
    dataset_image_seconds,
    flops_per_job,
    flops_per_second,
)
from layer_atlas.store.checksummed_file import CorruptFile
from layer_atlas.store.folder import OutputFolder, disk_size
from layer_atlas.store.shards import DoneIndex, read_header
from layer_atlas.sweep.monitor import not_counted
from layer_atlas.sweep.progress import duration
from layer_atlas.sweep.report.tables import table

_LONGEST_JOB = 1e6
"""Seconds; what a shard claims beyond that is no help."""


def plan_table(folder: OutputFolder, plan: Plan, devices: list[str]) -> str:
    """Models, layers, channels, shards, done and missing, estimated time and disk."""
    index = DoneIndex(folder, plan.environments)
    rows, missing = [], []
    seconds = 0.0
    for model in plan.models:
        for layer in model.layers:
            shards = [s for seed in plan.seeds for s in plan.layer_shards(model, layer, seed)]
            left = list(index.missing(shards))
            jobs, undone = sum(len(s.targets) for s in shards), sum(len(s.targets) for s in left)
            if undone:
                seconds += undone * _job_seconds(folder, plan, model, layer, devices)
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
    seconds = (seconds + _study_seconds(folder, plan, devices)) / len(devices)
    total = plan.n_jobs if plan.variants == 1 else count_images(plan, plan.n_jobs)
    header = ("model", "layer", targets_word(plan), "seeds", "shards", "done", "missing")
    notes = [
        f"output    {folder.root}",
        *(f"model     {line}" for line in network_lines(plan)),
        *(f"targets   {line}" for line in sampling_lines(plan)),
        f"devices   {', '.join(devices)}; precision {plan.models[0].recipe.precision}",
        f"images    {total}, of which {sum(row[-1] for row in rows)} are missing",
        *(f"checked   {sanitize(line)}" for line in map(checked_paths, plan.models)),
        *not_counted(folder, plan),
        *dataset_images_seen(folder, plan),
        f"estimate  {duration(seconds)}, {disk_size(bytes_needed(plan, missing))}",
        *(f"note      {notice}" for notice in notices(plan)),
        *(f"left out  {sanitize(f'{model.model}: {model.why}')}" for model in plan.skipped_models),
    ]
    return table(header, rows, left=2) + "\n\n" + "\n".join(notes)


def _job_seconds(
    folder: OutputFolder, plan: Plan, model: ModelPlan, layer: LayerPlan, devices: list[str]
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
    if plan.dataset_plan is None:
        return 0.0
    total = 0.0
    for model in plan.models:
        pairs = zip(model.layers, all_statistics(model, plan.dataset_plan), strict=True)
        left = [layer.info.flops_before for layer, s in pairs if not folder.exists(s.product)]
        if left:
            one = dataset_image_seconds(max(left), flops_per_second(devices))
            total += one * plan.dataset_plan.count
    return total


def dataset_images_seen(folder: OutputFolder, plan: Plan) -> list[str]:
    """How many photographs there are, and how many layers have seen them all."""
    if plan.dataset_plan is None:
        return []
    statistics_tasks = [
        s for model in plan.models for s in all_statistics(model, plan.dataset_plan)
    ]
    done = sum(folder.exists(dataset_stats.product) for dataset_stats in statistics_tasks)
    told = (
        f"photos    {plan.dataset_plan.count} ({sanitize(plan.dataset_plan.source)}), "
        f"studied in {done} of {len(statistics_tasks)}"
    )
    return [f"{told} layers"]


def checked_paths(model: ModelPlan) -> str:
    """How the activations of a model's layers are computed, in a line: which ways agree with the
    plain one."""
    paths = Counter(layer.info.path for layer in model.layers)
    counted = "; ".join(
        f"{path or 'unchecked'} ({n} layer{'s' * (n > 1)})" for path, n in paths.most_common()
    )
    return f"{model.label}: {model.recipe.precision}, {counted}"


def notices(plan: Plan) -> list[str]:
    """What a user should know about the plan.

    Networks of the user's own without a weights file, networks that see images in another size, and
    layers of which only one call is looked at.
    """
    constructed = {
        f"{sanitize(label)} has {AS_CONSTRUCTED}; a file of trained ones is given as weights=FILE"
        for model in plan.models
        for label, origin in model.origins.items()
        if origin.weights == AS_CONSTRUCTED
    }
    resized = [
        f"{sanitize(label)} takes only images of {network.fixed_size} px; those of "
        f"{' x '.join(map(str, model.recipe.image_size))} px are resized for it"
        for model in plan.models
        for label, network in model.networks.items()
        if network.fixed_size is not None
    ]
    noted = [sanitize(model.note) for model in plan.models if model.note]
    return (
        sorted(constructed)
        + noted
        + resized
        + [
            f"{sanitize(f'{model.label}/{layer.info.name}')} is called {layer.info.calls} times "
            "per forward pass; its first call is used"
            for model in plan.models
            for layer in model.layers
            if layer.info.calls > 1
        ]
    )
