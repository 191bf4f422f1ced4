"""CUDA graphs: an optimization step of hundreds of small kernels, launched at once.

On a GPU the launch gaps between kernels can cost more than the kernels; a graph has none. A
function can be captured if it works in place on the same tensors every time and never waits for the
device.
"""

import gc
import logging
import os
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

GRAPHS_VARIABLE = "LAYER_ATLAS_CUDA_GRAPHS"

_WAITS = "synchronizing CUDA operation"
"""In the message of torch about an operation that waits for the device."""


class CaptureFailed(RuntimeError):
    """A capture failed, which leaves torch unusable in this process (pytorch#180395)."""


class Graphs:
    """CUDA graphs of one function, one for each value of its flag."""

    def __init__(self, function: Callable[[bool], Tensor], flags: Iterable[bool]) -> None:
        # One memory pool: the graphs never run at the same time.
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs = {flag: self._captured(function, flag) for flag in flags}

    def replay(self, flag: bool) -> Tensor:
        """Replay the function; the next call overwrites the returned tensor."""
        graph, result = self._graphs[flag]
        graph.replay()
        return result

    def _captured(
        self, function: Callable[[bool], Tensor], flag: bool
    ) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            result = function(flag)
        return graph, result


def are_graphs_on(variables: Mapping[str, str] = os.environ) -> bool:
    """Whether steps may be captured: `LAYER_ATLAS_CUDA_GRAPHS=0` in the environment forbids it."""
    return variables.get(GRAPHS_VARIABLE) != "0"


def capture(function: Callable[[bool], Tensor], flags: Iterable[bool]) -> Graphs | None:
    """Capture a function for each flag; return None, with a warning, if it waits for the device.

    The function must have run with every flag before: libraries initialise themselves in their
    first call, which must not be captured. It runs once more with each.

    Args:
        function: takes one flag, returns a tensor, and follows the rules of this module.
        flags: the values to capture it for.
    Raises:
        torch.OutOfMemoryError: the device memory is exhausted.
        CaptureFailed: the capture failed for another reason.
    """
    flags = list(flags)
    # Looked for before, since a failed capture leaves torch in a broken state.
    if reason := _waits(function, flags):
        logger.warning("no CUDA graph of a step, so slower steps: %s", reason)
        return None
    torch.cuda.empty_cache()
    stream = torch.cuda.current_stream()
    was_enabled = gc.isenabled()
    gc.disable()  # freeing garbage during the capture would invalidate it
    try:
        return Graphs(function, flags)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise CaptureFailed(str(error).splitlines()[0]) from error
    finally:
        torch.cuda.set_stream(stream)  # a failed capture leaves its own stream current
        if was_enabled:
            gc.enable()


def _waits(function: Callable[[bool], Tensor], flags: Iterable[bool]) -> str:
    """The first reason why a function waits for the device; empty if it does not."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for flag in flags:
            function(flag)
    except Exception as error:
        # Not RuntimeError alone: an objective of the user's reports its errors as its own.
        if _WAITS not in str(error):
            raise
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return ""
