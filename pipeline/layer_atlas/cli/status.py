"""What `atlas status`, `failures` and `retry` print: progress, workers, failed tasks."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from textwrap import wrap

from layer_atlas.atlas.gather import layer_views
from layer_atlas.cli.tables import dataset_images_seen, fit, table, terminal_width
from layer_atlas.errors import sanitize
from layer_atlas.plan.labels import count_images
from layer_atlas.plan.plan import Plan
from layer_atlas.plan.targets import counted
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import excluded_devices, plan_of, read_manifest
from layer_atlas.store.quarantine import Failure, cause, read_failures
from layer_atlas.sweep.failed_tasks import FailedTask, is_done, read_failed_tasks, select
from layer_atlas.sweep.monitor import (
    LOOK_SECONDS,
    LayerProgress,
    LiveStatus,
    WorkerStatus,
    duration,
    layer_progress_of,
    live_status,
    mixture_in_store,
    not_counted,
)

_MOST_LAYERS = 20
"""More layers than these are folded: neighbours in the same state share a line."""

_MOST_FAILURES = 3
_MOST_CAUSES = 5
_MOST_WORKERS = 12


def status_table(folder: OutputFolder, every_layer: bool = False) -> str:
    """Progress of a sweep, from the store, the manifest, heartbeats and records of failures.

    Args:
        folder: of a sweep that runs, here or elsewhere, or has ended.
        every_layer: print a line for each layer, however many there are.
    Raises:
        UserError: there is no sweep.
    """
    manifest = read_manifest(folder)
    plan, live = plan_of(manifest), live_status(folder)
    views = list(layer_views(folder, plan))
    layers = [layer_progress_of(view, live.tasks) for view in views]
    failed = [task for task in read_failed_tasks(folder, manifest) if task.is_open]
    parts = [
        _headline(folder, plan, layers),
        _layers(plan, layers, fold=not every_layer and len(layers) > _MOST_LAYERS),
        "\n".join([*dataset_images_seen(folder, plan), *_workers(live, layers)]),
        "\n".join(
            sanitize(f"not used any more: {device}, {reason}")
            for device, reason in excluded_devices(manifest).items()
        ),
        "\n".join([*not_counted(folder, plan), *mixture_in_store(plan, views)]),
        "\n".join(f"skipped: {sanitize(f'{out.model}: {out.why}')}" for out in plan.skipped_models),
        "\n".join(_failures(folder, failed)),
    ]
    return "\n\n".join(part for part in parts if part)


def progress(folder: OutputFolder) -> str:
    """How many images of a sweep are done, in a line. Raises UserError if there is no sweep."""
    plan = plan_of(read_manifest(folder))
    layers = [layer_progress_of(view, ()) for view in layer_views(folder, plan)]
    return _headline(folder, plan, layers)


def _headline(folder: OutputFolder, plan: Plan, layers: Sequence[LayerProgress]) -> str:
    done, total = _sum(layers, "done"), _sum(layers, "total")
    share = f"{100 * done / total:.1f} %"
    return f"{folder.root}: {done} of {count_images(plan, total)} done ({share})"


def _sum(layers: Iterable[LayerProgress], name: str) -> int:
    return sum(getattr(layer, name) for layer in layers)


def _layers(plan: Plan, layers: Sequence[LayerProgress], fold: bool) -> str:
    """Table of the models and, below each, its layers."""
    names = ("total", "done", "running", "failed", "missing")
    header = ("layer", "images" if plan.variants == 1 else "jobs", *names[1:])
    lines = [
        line
        for model, group in groupby(layers, key=lambda layer: layer.model)
        for line in _rows(model, list(group), fold)
    ]
    sums = [[_sum(some, name) for name in names] for _, _, some in lines]
    columns = zip(header[1:], *sums, strict=True)
    room = terminal_width() - sum(2 + max(len(str(n)) for n in column) for column in columns)
    titles = (begin + fit(name, room - len(begin)) for begin, name, _ in lines)
    return table(header, ((title, *numbers) for title, numbers in zip(titles, sums, strict=True)))


def _rows(
    model: str, layers: Sequence[LayerProgress], fold: bool
) -> Iterator[tuple[str, str, Sequence[LayerProgress]]]:
    """Rows of a model: indent, name, and the layers that each row sums up."""
    yield "", model, layers
    for state, group in groupby(layers, key=_state):
        some = list(group)
        if fold and state != "active" and len(some) > 1:
            yield f"  {len(some)} layers, to ", some[-1].layer, some
        else:
            yield from (("  ", layer.layer, [layer]) for layer in some)


def _state(layer: LayerProgress) -> str:
    """State of a layer; active ones are never folded."""
    if layer.running or layer.failed:
        return "active"
    if layer.done:
        return "begun" if layer.missing else "complete"
    return "pending"


def _failures(folder: OutputFolder, failed: Sequence[FailedTask]) -> Iterator[str]:
    """The latest failures, and the commands that help."""
    if not failed:
        return
    yield f"{counted(len(failed), 'task')} failed; the latest:"
    for task in reversed(failed[-_MOST_FAILURES:]):
        yield from (f"  {line}" for line in in_short(task))
        log = folder.root / task.last.log
        yield from [f"    {sanitize(str(log))}"] if log.exists() else []
    yield from remedies(folder, failed)


# --- workers -------------------------------------------------------------------------------------


def _workers(live: LiveStatus, layers: Sequence[LayerProgress]) -> Iterator[str]:
    """The driver, the rate and time left, and the workers that run, start or wait in a queue."""
    if live.driver is None and not live.workers:
        yield "no process is at work on it"
        return
    driver = live.driver or "detached workers, which continue without their driver"
    yield f"at work: {driver}"
    yield from _rate(live, layers)
    begun = [worker for worker in live.workers if worker.heartbeat is not None]
    # Workers without a recent heartbeat sort first, so that they are never cut off.
    shown = sorted(begun, key=lambda worker: worker.moves)[:_MOST_WORKERS]
    yield from (line for worker in sorted(shown, key=_device) for line in _worker(worker))
    if len(shown) < len(begun):
        yield f"  and {counted(len(begun) - len(shown), 'worker')} more"
    yield from _not_begun(live)


def _rate(live: LiveStatus, layers: Sequence[LayerProgress]) -> Iterator[str]:
    rates = {unit: live.rate("done", unit) for unit in live.units}
    parts = [_per_time(rate, unit) for unit, rate in rates.items() if rate]
    if flops := live.rate("flops", "channels"):
        left = duration(sum(layer.flops_left for layer in layers) / flops)
        parts.append(f"all images in about {left}")
    if parts:
        yield f"  {', '.join(parts)}"


def _per_time(rate: float, unit: str) -> str:
    """Format a rate per second, or per the shortest longer time in which there is at least one."""
    spans = {"s": 1, "min": 60, "h": 3600}
    span = next((name for name, seconds in spans.items() if rate * seconds >= 1), "h")
    return f"{rate * spans[span]:.1f} {unit}/{span}"


def _device(worker: WorkerStatus) -> str:
    heartbeat = worker.heartbeat or {}
    return f"{heartbeat.get('device') or '?'} on {heartbeat.get('host') or '?'}"


def _worker(worker: WorkerStatus) -> Iterator[str]:
    """What a worker does, and whether it seems to be stuck."""
    if not worker.has_begun:
        yield f"  {_device(worker)}: preparing"
        return
    task, width = str((worker.heartbeat or {}).get("at")), terminal_width()
    done = f"  {_device(worker)}: {worker.fact('done'):.0f} {worker.unit} so far"
    both = f"{done}; {task}"
    yield from [both] if len(both) <= width else [done, f"    {fit(task, width - 4)}"]
    if not worker.moves:
        usual = f"usually one every {worker.heartbeat_age:.1f} s"
        yield f"    no heartbeat for {LOOK_SECONDS:g} s; {usual}"


def _not_begun(live: LiveStatus) -> Iterator[str]:
    waiting = [worker for worker in live.workers if worker.heartbeat is None]
    for engine in sorted({worker.engine for worker in waiting}):
        n = counted(sum(worker.engine == engine for worker in waiting), "worker")
        yield f"  {n} waiting in the queue of {engine}" if engine else f"  {n} starting"


def failures_report(folder: OutputFolder, words: Sequence[str]) -> str:
    """List the failed tasks; with words, every attempt at the tasks that they name.

    Raises:
        UserError: there is no sweep, or a word names no failed task.
    """
    tasks = read_failed_tasks(folder, read_manifest(folder))
    if words:
        reports = ("\n".join(_full_report(folder, task)) for task in select(tasks, words))
        return "\n\n\n".join(reports)
    return "\n".join(_list(folder, tasks))


def causes_of_failures(folder: OutputFolder) -> str:
    """List the distinct causes of the tasks in quarantine, and the commands that help.

    Read from the records alone, because it ends a run: which tasks are wanted takes seconds.
    """
    failed = [f for f in read_failures(folder) if f.given_up and not is_done(folder, f)]
    if not failed:
        return ""
    causes = Counter(sanitize(cause(failure.said)) or failure.how for failure in failed)
    lines = [f"{counted(len(failed), 'task')} failed:"]
    lines += [f"  {n} x {text}" for text, n in causes.most_common(_MOST_CAUSES)]
    if len(causes) > _MOST_CAUSES:
        lines.append(f"  and {len(causes) - _MOST_CAUSES} other causes")
    lines.append(f"`atlas failures {folder.choice}` lists them with their tracebacks")
    lines.append(f"`atlas retry {folder.choice}` makes the next run try them again")
    return "\n".join(lines)


def retry_report(folder: OutputFolder, tasks: Sequence[FailedTask]) -> str:
    """List the tasks that the next run tries again."""
    if not tasks:
        return f"{folder.root}: nothing to put back"
    lines = [f"{task.key}  {task.last.what}" for task in tasks]
    return "\n".join(
        [*lines, f"{counted(len(tasks), 'task')} put back; the next `atlas run` tries again"]
    )


def _list(folder: OutputFolder, tasks: Sequence[FailedTask]) -> Iterator[str]:
    if not tasks:
        yield f"{folder.root}: nothing failed"
        return
    states = Counter(task.state for task in tasks)
    counts = ", ".join(f"{n} {state}" for state, n in states.items())
    yield f"{folder.root}: {counted(len(tasks), 'task')} failed: {counts}"
    for task in tasks:
        yield ""
        yield from in_short(task)
    yield ""
    yield from remedies(folder, tasks)


def in_short(task: FailedTask) -> Iterator[str]:
    """Describe a failed task in three lines."""
    attempts = counted(len(task.earlier) + len(task.attempts), "attempt")
    yield f"{task.key}  {task.state} after {attempts}"
    yield f"  {task.last.what}"
    yield f"  {task.last.how}: {cause(task.last.said)}"


def remedies(folder: OutputFolder, tasks: Sequence[FailedTask]) -> Iterator[str]:
    """List the commands that help with failed tasks."""
    yield f"`atlas failures {tasks[-1].key} {folder.choice}` prints every attempt"
    if any(task.state == "in quarantine" for task in tasks):
        yield f"`atlas retry {folder.choice}` puts back what is in quarantine"


def _full_report(folder: OutputFolder, task: FailedTask) -> Iterator[str]:
    last = task.last
    yield last.what
    yield f"  key      {last.task}"
    request = wrap(json.dumps(last.request), terminal_width() - 11)
    yield "  request  " + f"\n{' ' * 11}".join(request)
    yield f"  state    {task.state}"
    for failure in task.earlier:
        yield from _attempt(folder, failure, f"attempt {failure.attempt}, before it was put back")
    for failure in task.attempts:
        yield from _attempt(folder, failure, f"attempt {failure.attempt}")
    if task.state == "in quarantine":
        yield ""
        yield f"`atlas retry {task.key} {folder.choice}` puts it back"


def _attempt(folder: OutputFolder, failure: Failure, title: str) -> Iterator[str]:
    log = folder.root / failure.log
    yield ""
    yield f"{title}, {failure.when}: {failure.how}"
    yield f"  worker   {failure.worker}" + (f" on {failure.host}" if failure.host else "")
    yield f"  log      {log}" + ("" if log.exists() else " (removed or empty)")
    yield from (f"  | {line}" for line in failure.said.splitlines())
