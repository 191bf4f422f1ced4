"""Packing: the tasks of one model cut into bundles, one per worker process."""

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def pack(
    tasks: Sequence[T], seconds: Callable[[T], float], slots: int, most_seconds: float
) -> Iterator[list[T]]:
    """Cut the tasks of one model into bundles of about equal time, one per slot and wave.

    Within a wave the longest task goes to the slot with the least work (Graham 1969); a bundle's
    tasks stay in plan order, so that a worker has the shards of a layer back to back.

    Args:
        tasks: in plan order.
        seconds: about how long a task takes.
        slots: workers at once.
        most_seconds: about the longest that a bundle should take.
    """
    wave: list[tuple[float, int]] = []
    total = 0.0
    for number, task in enumerate(tasks):
        wave.append((seconds(task), number))
        total += wave[-1][0]
        if total >= slots * most_seconds:
            yield from ([tasks[i] for i in numbers] for numbers in _balance(wave, slots))
            wave, total = [], 0.0
    yield from ([tasks[i] for i in numbers] for numbers in _balance(wave, slots))


def _balance(wave: Sequence[tuple[float, int]], slots: int) -> list[list[int]]:
    loads: list[tuple[float, int, list[int]]] = [(0.0, slot, []) for slot in range(slots)]
    for cost, number in sorted(wave, key=lambda item: (-item[0], item[1])):
        load, slot, numbers = heapq.heappop(loads)
        heapq.heappush(loads, (load + cost, slot, [*numbers, number]))
    return [sorted(numbers) for _, _, numbers in sorted(loads, key=lambda x: x[1]) if numbers]
