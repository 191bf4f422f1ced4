"""What `atlas failures` and `atlas retry` print: failed tasks, and every attempt at each."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from textwrap import wrap

from layer_atlas.cli.tables import terminal_width
from layer_atlas.plan.targets import counted
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import read_manifest
from layer_atlas.store.quarantine import Failure, cause
from layer_atlas.sweep.failed_tasks import FailedTask, read_failed_tasks, select


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
