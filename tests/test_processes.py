"""What processes know of themselves."""

import os
import threading

import pytest

from layer_atlas.processes import beside, usable_cores


def test_cores_are_those_that_this_process_may_use() -> None:
    assert usable_cores() == len(os.sched_getaffinity(0))


def test_systems_without_affinities_count_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert usable_cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores() == 1


def test_work_beside_ends_with_the_context_however_that_ends() -> None:
    ended = threading.Event()

    def work(asked: threading.Event) -> None:
        asked.wait()
        ended.set()

    def fail() -> None:
        with beside(work, "test"):
            assert not ended.is_set()
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert ended.is_set()
