"""Functions side by side: all are answered at once, in order, and none outlives the call."""

import threading
from collections.abc import Callable

import pytest

from layer_atlas.visualization.optimization.optimizers import Ask, side_by_side


def asking(name: str, times: int, told: list[str]) -> Callable[[Ask], None]:
    def function(ask: Ask) -> None:
        for time in range(times):
            told.append(f"{name}{time}")
            ask()
        told.append(f"{name} ends")

    return function


def test_all_who_still_run_have_asked_when_they_are_answered() -> None:
    told: list[str] = []
    functions = [asking("a", 2, told), asking("b", 0, told), asking("c", 1, told)]
    side_by_side(functions, lambda: told.append("answer"))
    assert told == ["a0", "b ends", "c0", "answer", "a1", "c ends", "answer", "a ends"]


def test_nobody_is_answered_who_does_not_ask() -> None:
    told: list[str] = []
    side_by_side([asking("a", 0, told)] * 2, lambda: told.append("answer"))
    side_by_side([], lambda: told.append("answer"))
    assert told == ["a ends"] * 2


def test_each_runs_in_a_thread_and_the_answer_in_that_of_the_caller() -> None:
    threads = []
    functions = [lambda ask: (threads.append(threading.current_thread()), ask())[1]] * 3
    side_by_side(functions, lambda: threads.append(threading.current_thread()))
    assert len(set(threads)) == 4
    assert threads[3] is threading.current_thread()


def test_what_one_raises_is_raised_and_the_others_end_where_they_are() -> None:
    told: list[str] = []

    def fails(ask: Ask) -> None:
        ask()
        raise ValueError("this one")

    with pytest.raises(ValueError, match="this one"):
        side_by_side([asking("a", 9, told), fails, asking("b", 9, told)], lambda: None)
    assert told == ["a0", "b0", "a1"]


def test_what_the_answer_raises_is_raised_and_no_thread_is_left() -> None:
    told: list[str] = []
    before = threading.active_count()

    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        side_by_side([asking(name, 3, told) for name in "abc"], interrupted)
    assert told == ["a0", "b0", "c0"]
    assert threading.active_count() == before
