"""What `atlas failures` prints: which tasks failed, and the full story of each."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from textwrap import wrap

from layer_atlas.plan.labels import counted
from layer_atlas.store.failures import Failure, cause
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import read_manifest
from layer_atlas.sweep.failed_tasks import FailedTask, read_failed_tasks, select
from layer_atlas.sweep.report.tables import terminal_width


def failures_report(folder: OutputFolder, words: Sequence[str]) -> str:
    """A list of the tasks that failed; or the full story of those that words name.

    Raises:
        UserError: there is no sweep, or a word names no task that failed.
    """
    cases = read_failed_tasks(folder, read_manifest(folder))
    if words:
        stories = ("\n".join(_story(folder, case)) for case in select(cases, words))
        return "\n\n\n".join(stories)
    return "\n".join(_list(folder, cases))


def put_back_report(folder: OutputFolder, cases: Sequence[FailedTask]) -> str:
    """What was put back."""
    if not cases:
        return f"{folder.root}: nothing to put back"
    lines = [f"{case.key}  {case.last.what}" for case in cases]
    told = f"{counted(len(cases), 'task')} put back; the next `atlas run` tries again"
    return "\n".join([*lines, told])


def _list(folder: OutputFolder, cases: Sequence[FailedTask]) -> Iterator[str]:
    if not cases:
        yield f"{folder.root}: nothing failed"
        return
    states = Counter(case.state for case in cases)
    told = ", ".join(f"{n} {state}" for state, n in states.items())
    yield f"{folder.root}: {counted(len(cases), 'task')} failed: {told}"
    for case in cases:
        yield ""
        yield from in_short(case)
    yield ""
    yield from remedies(folder, cases)


def in_short(case: FailedTask) -> Iterator[str]:
    """A task that failed, in three lines."""
    attempts = counted(len(case.earlier) + len(case.attempts), "attempt")
    yield f"{case.key}  {case.state} after {attempts}"
    yield f"  {case.last.what}"
    yield f"  {case.last.how}: {cause(case.last.said)}"


def remedies(folder: OutputFolder, cases: Sequence[FailedTask]) -> Iterator[str]:
    """What can be done about tasks that failed."""
    yield f"`atlas failures {cases[-1].key} {folder.choice}` tells the full story"
    if any(case.state == "in quarantine" for case in cases):
        yield f"`atlas retry {folder.choice}` puts back what is in quarantine"


def _story(folder: OutputFolder, case: FailedTask) -> Iterator[str]:
    last = case.last
    yield last.what
    yield f"  key      {last.task}"
    request = wrap(json.dumps(last.request), terminal_width() - 11)
    yield "  request  " + f"\n{' ' * 11}".join(request)
    yield f"  state    {case.state}"
    for failure in case.earlier:
        yield from _attempt(folder, failure, f"attempt {failure.attempt}, before it was put back")
    for failure in case.attempts:
        yield from _attempt(folder, failure, f"attempt {failure.attempt}")
    if case.state == "in quarantine":
        yield ""
        yield f"`atlas retry {case.key} {folder.choice}` puts it back"


def _attempt(folder: OutputFolder, failure: Failure, title: str) -> Iterator[str]:
    log = folder.root / failure.log
    yield ""
    yield f"{title}, {failure.when}: {failure.how}"
    yield f"  worker   {failure.worker}" + (f" on {failure.host}" if failure.host else "")
    yield f"  log      {log}" + ("" if log.exists() else ", which is gone or was empty")
    yield from (f"  | {line}" for line in failure.said.splitlines())
