"""CUDA graphs: a step that launches hundreds of small kernels, launched as one.

On a GPU the time between kernels costs more than many of them; a graph has none. A function can be
captured if it works in place on the same tensors every time and never waits for the device.
"""

import sys
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 2
"""Calls before the capture: libraries set themselves up in the first ones."""


class Replayed:
    """Calls a function as it is at first, then replays a CUDA graph of it.

    Args:
        function: takes one flag, returns a tensor, and keeps to the rules above. Each value of the
            flag has a graph of its own. The tensor is overwritten by the next call.
    """

    def __init__(self, function: Callable[[bool], Tensor]) -> None:
        self._function = function
        self._calls: Counter[bool] = Counter()
        self._graphs: dict[bool, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self.works = True
        """False once a capture has failed: then the function is called as it is."""

    def __call__(self, flag: bool) -> Tensor:
        """Do what the function does."""
        if flag not in self._graphs:
            self._calls[flag] += 1
            if self._calls[flag] <= WARM_UP or not self._capture(flag):
                return self._function(flag)
        graph, result = self._graphs[flag]
        graph.replay()
        return result

    def _capture(self, flag: bool) -> bool:
        """Capture the function; on failure say so, once, and go on without graphs."""
        if not self.works:
            return False
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool):
                result = self._function(flag)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self.works = False
            reason = str(error).splitlines()[0]
            print(
                f"no CUDA graph of the step ({reason}): going on without, slower", file=sys.stderr
            )
            return False
        self._graphs[flag] = (graph, result)
        return True
