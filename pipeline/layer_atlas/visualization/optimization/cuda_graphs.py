"""CUDA graphs: an optimization step of hundreds of small kernels, launched at once.

On a GPU the launch gaps between kernels can cost more than the kernels; a graph has none. A
function can be captured if it works in place on the same tensors every time and never waits for the
device.
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


def capture(function: Callable[[bool], Tensor], flags: Iterable[bool]) -> Graphs | None:
    """Capture a function for each flag; return None and report the reason where that fails.

    The function must have run with every flag before: libraries initialise themselves in their
    first call, which must not be captured. Capturing computes nothing.

    Args:
        function: takes one flag, returns a tensor, and follows the rules of this module.
        flags: the values to capture it for.
    Raises:
        torch.OutOfMemoryError: the device memory is exhausted.
    """
    gc.collect()  # freeing garbage during the capture would invalidate it
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
        torch.cuda.set_stream(stream)  # a failed capture leaves its own stream current
