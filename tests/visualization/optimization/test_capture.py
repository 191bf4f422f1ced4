"""What comes before and after a capture, without a GPU: waiting steps, failures, the switch."""

import contextlib
import gc
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from layer_atlas.visualization.optimization.cuda_graphs import (
    CaptureFailed,
    are_graphs_on,
    capture,
)


class Stream:
    """Stands for the state of torch.cuda during captures."""

    def __init__(self) -> None:
        self.mode, self.is_capturing, self.current = 0, False, "own"
        self.fails = ""

    @contextlib.contextmanager
    def graph(self, graph: object, pool: object) -> Iterator[None]:
        self.is_capturing, self.current = True, "of the capture"
        try:
            yield
            if self.fails:
                raise RuntimeError(self.fails)
        finally:
            self.is_capturing = False

    def wait(self) -> None:
        if self.mode:
            raise RuntimeError("called a synchronizing CUDA operation\nmore")


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Stream:
    stream = Stream()
    stands_for = {
        "graph": stream.graph,
        "CUDAGraph": object,
        "graph_pool_handle": lambda: 0,
        "empty_cache": lambda: None,
        "current_stream": lambda: stream.current,
        "set_stream": lambda name: setattr(stream, "current", name),
        "get_sync_debug_mode": lambda: stream.mode,
        "set_sync_debug_mode": lambda mode: setattr(stream, "mode", mode),
    }
    for name, value in stands_for.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return stream


def test_a_step_that_waits_is_found_before_anything_is_captured(
    stream: Stream, caplog: pytest.LogCaptureFixture
) -> None:
    def step(leaky: bool) -> Tensor:
        assert not stream.is_capturing
        if not leaky:
            stream.wait()
        return torch.zeros(())

    assert capture(step, (True, False)) is None
    assert "no CUDA graph of a step, so slower steps: called a synchronizing" in caplog.text
    assert stream.mode == 0
    assert stream.current == "own"


def test_other_errors_of_a_step_are_its_own(stream: Stream) -> None:
    def step(leaky: bool) -> Tensor:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        capture(step, (True,))
    assert stream.mode == 0


def test_a_capture_that_fails_ends_what_this_process_can_do(stream: Stream) -> None:
    stream.fails = "CUDA error: operation failed due to a previous error during capture\nmore"
    with pytest.raises(CaptureFailed, match=r"previous error during capture$"):
        capture(lambda leaky: torch.zeros(()), (True,))
    assert stream.current == "own"
    assert gc.isenabled()


def test_out_of_memory_is_told_apart(stream: Stream) -> None:
    def step(leaky: bool) -> Tensor:
        if stream.is_capturing:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return torch.zeros(())

    with pytest.raises(torch.OutOfMemoryError):
        capture(step, (True,))
    assert gc.isenabled()


def test_no_garbage_is_freed_during_a_capture(stream: Stream) -> None:
    def step(leaky: bool) -> Tensor:
        assert gc.isenabled() != stream.is_capturing
        return torch.zeros(())

    assert capture(step, (True, False)) is not None
    assert gc.isenabled()


@pytest.mark.parametrize(("value", "on"), [(None, True), ("1", True), ("0", False)])
def test_the_environment_switches_graphs_off(value: str | None, on: bool) -> None:
    assert are_graphs_on({} if value is None else {"LAYER_ATLAS_CUDA_GRAPHS": value}) is on
