"""The workers of a sweep as `atlas status` shows them."""

from collections.abc import Iterator, Sequence

from layer_atlas.plan.labels import counted
from layer_atlas.sweep.monitor import LOOK_SECONDS, LayerProgress, LiveStatus, WorkerStatus
from layer_atlas.sweep.progress import duration
from layer_atlas.sweep.report.tables import fit, terminal_width

_MOST_WORKERS = 12


def at_work(scene: LiveStatus, standings: Sequence[LayerProgress]) -> Iterator[str]:
    """Who is at work, at what, how fast, and for how long yet."""
    if scene.driver is None and not scene.workers:
        yield "nobody is at work on it"
        return
    if scene.driver is None:
        yield "at work: workers that go on without the run that started them"
    else:
        yield f"at work: {scene.driver}"
    yield from _pace(scene, standings)
    begun = [worker for worker in scene.workers if worker.heartbeat is not None]
    shown = sorted(begun, key=lambda worker: worker.moves)[:_MOST_WORKERS]
    yield from (line for worker in sorted(shown, key=_place) for line in _lines(worker))
    if len(shown) < len(begun):
        yield f"  and {counted(len(begun) - len(shown), 'worker')} more"
    yield from _yet_to_begin(scene)


def _pace(scene: LiveStatus, standings: Sequence[LayerProgress]) -> Iterator[str]:
    rates = {unit: scene.rate("done", unit) for unit in scene.units}
    told = [_speed(rate, unit) for unit, rate in rates.items() if rate]
    flops = scene.rate("flops", "channels")
    if flops:
        left = duration(sum(layer_progress.flops_left for layer_progress in standings) / flops)
        told.append(f"all images in about {left}")
    if told:
        yield f"  {', '.join(told)}"


def _speed(rate: float, unit: str) -> str:
    """So many in a second, or in a span of time in which there is at least one."""
    spans = {"s": 1, "min": 60, "h": 3600}
    span = next((name for name, seconds in spans.items() if rate * seconds >= 1), "h")
    return f"{rate * spans[span]:.1f} {unit}/{span}"


def _place(worker: WorkerStatus) -> str:
    heartbeat = worker.heartbeat or {}
    return f"{heartbeat.get('device') or '?'} on {heartbeat.get('host') or '?'}"


def _lines(worker: WorkerStatus) -> Iterator[str]:
    """What a worker is at; and whether it seems to be stuck."""
    if not worker.has_begun:
        yield f"  {_place(worker)}: preparing"
        return
    at, width = str((worker.heartbeat or {}).get("at")), terminal_width()
    told = f"  {_place(worker)}: {worker.fact('done'):.0f} {worker.unit} so far"
    both = f"{told}; {at}"
    yield from [both] if len(both) <= width else [told, f"    {fit(at, width - 4)}"]
    if not worker.moves:
        usual = f"usually it does every {worker.heartbeat_age:.1f} s"
        yield f"    did not move in {LOOK_SECONDS:g} s; {usual}"


def _yet_to_begin(scene: LiveStatus) -> Iterator[str]:
    waiting = [worker for worker in scene.workers if worker.heartbeat is None]
    for engine in sorted({worker.engine for worker in waiting}):
        n = counted(sum(worker.engine == engine for worker in waiting), "worker")
        yield f"  {n} waiting in the queue of {engine}" if engine else f"  {n} starting"
