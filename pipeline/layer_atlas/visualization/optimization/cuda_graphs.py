"""CUDA graphs: a step that launches hundreds of small kernels, launched as one.

On a GPU the time between kernels costs more than many of them; a graph has none. A function can be
captured if it works in place on the same tensors every time and never waits for the device.
"""

import gc
import logging
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

logger = logging.getLogger(__name__)


class Graphs:
    """CUDA graphs of one function, one for each value of its flag."""

    def __init__(self, function: Callable[[bool], Tensor], flags: Iterable[bool]) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs = {flag: self._captured(function, flag) for flag in flags}

    def replay(self, flag: bool) -> Tensor:
        """Do what the function does; the next call overwrites the tensor that is returned."""
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


def capture(function: Callable[[bool], Tensor], flags: Iterable[bool]) -> Graphs | None:
    """Capture a function for each flag; None, and a line that says why, where that cannot be.

    Every flag has been passed to the function before: libraries set themselves up in their first
    call, which must not be captured. Capturing computes nothing.

    Args:
        function: takes one flag, returns a tensor, and keeps to the rules above.
        flags: the values to capture it for.
    Raises:
        torch.OutOfMemoryError: the device is full.
    """
    gc.collect()  # what is garbage must not be freed in the middle of a capture
    torch.cuda.empty_cache()
    stream = torch.cuda.current_stream()
    try:
        return Graphs(function, flags)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        logger.warning("no CUDA graph of a step, so slower steps: %s", reason)
        return None
    finally:
        torch.cuda.set_stream(stream)  # a capture that failed leaves its own behind
