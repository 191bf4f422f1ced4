"""What `atlas status` prints: how far an output folder is, and who is at work on it."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from layer_atlas.atlas.gather import layer_views
from layer_atlas.plan.labels import count_images, counted, sanitize
from layer_atlas.plan.plan import Plan
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import plan_of, read_manifest
from layer_atlas.sweep.failed_tasks import FailedTask, read_failed_tasks
from layer_atlas.sweep.monitor import (
    LayerProgress,
    layer_progress_of,
    live_status,
    mixture_in_store,
    not_counted,
)
from layer_atlas.sweep.report.failures import in_short, remedies
from layer_atlas.sweep.report.plan import dataset_images_seen
from layer_atlas.sweep.report.tables import fit, table, terminal_width
from layer_atlas.sweep.report.workers import at_work

_MOST_LAYERS = 20
"""So many are shown one by one; of more, neighbours that have nothing to tell share a line."""

_MOST_CASES = 3


def status_table(folder: OutputFolder, every_layer: bool = False) -> str:
    """How far an output folder is, from the store, the manifest, pulses and records of failures.

    Args:
        folder: of a sweep that is at work, here or elsewhere, or was.
        every_layer: a line for each layer, however many there are.
    Raises:
        UserError: there is no sweep.
    """
    manifest = read_manifest(folder)
    plan, scene = plan_of(manifest), live_status(folder)
    views = list(layer_views(folder, plan))
    standings = [layer_progress_of(view, scene.tasks) for view in views]
    cases = [case for case in read_failed_tasks(folder, manifest) if case.is_open]
    parts = [
        _headline(folder, plan, standings),
        _layers(plan, standings, fold=not every_layer and len(standings) > _MOST_LAYERS),
        "\n".join([*dataset_images_seen(folder, plan), *at_work(scene, standings)]),
        "\n".join([*not_counted(folder, plan), *mixture_in_store(plan, views)]),
        "\n".join(
            f"left out: {sanitize(f'{out.model}: {out.why}')}" for out in plan.skipped_models
        ),
        "\n".join(_failures(folder, cases)),
    ]
    return "\n\n".join(part for part in parts if part)


def _headline(folder: OutputFolder, plan: Plan, standings: Sequence[LayerProgress]) -> str:
    done, total = _sum(standings, "done"), _sum(standings, "total")
    share = f"{100 * done / total:.1f} %"
    return f"{folder.root}: {done} of {count_images(plan, total)} done ({share})"


def _sum(standings: Iterable[LayerProgress], name: str) -> int:
    return sum(getattr(layer_progress, name) for layer_progress in standings)


def _layers(plan: Plan, standings: Sequence[LayerProgress], fold: bool) -> str:
    """A table of models and, below each, its layers."""
    names = ("total", "done", "running", "failed", "missing")
    header = ("layer", "images" if plan.variants == 1 else "jobs", *names[1:])
    lines = [
        line
        for model, group in groupby(standings, key=lambda layer_progress: layer_progress.model)
        for line in _lines(model, list(group), fold)
    ]
    sums = [[_sum(layers, name) for name in names] for _, _, layers in lines]
    columns = zip(header[1:], *sums, strict=True)
    room = terminal_width() - sum(2 + max(len(str(n)) for n in column) for column in columns)
    titles = (begin + fit(name, room - len(begin)) for begin, name, _ in lines)
    return table(header, ((title, *numbers) for title, numbers in zip(titles, sums, strict=True)))


def _lines(
    model: str, layers: Sequence[LayerProgress], fold: bool
) -> Iterator[tuple[str, str, Sequence[LayerProgress]]]:
    """The lines of a model: what each is called, in two parts, and the layers it sums up."""
    yield "", model, layers
    for kind, group in groupby(layers, key=_kind):
        some = list(group)
        if fold and kind != "astir" and len(some) > 1:
            yield f"  {len(some)} layers, to ", some[-1].layer, some
        else:
            yield from (("  ", layer.layer, [layer]) for layer in some)


def _kind(layer_progress: LayerProgress) -> str:
    """Neighbours of one kind that are not astir have nothing to tell but their number."""
    if layer_progress.running or layer_progress.failed:
        return "astir"
    if layer_progress.done:
        return "begun" if layer_progress.missing else "complete"
    return "untouched"


def _failures(folder: OutputFolder, cases: Sequence[FailedTask]) -> Iterator[str]:
    """The latest failures, and what can be done about them."""
    if not cases:
        return
    yield f"{counted(len(cases), 'task')} failed; the latest:"
    for case in reversed(cases[-_MOST_CASES:]):
        yield from (f"  {line}" for line in in_short(case))
        log = folder.root / case.last.log
        yield from [f"    {sanitize(str(log))}"] if log.exists() else []
    yield from remedies(folder, cases)
