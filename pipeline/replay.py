"""CUDA graphs: a step that launches hundreds of small kernels, launched as one.

On a GPU the time between kernels costs more than many of them; a graph has none. A function can be
captured if it works in place on the same tensors every time and never waits for the device.
"""

import sys
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


class Replayed:
    """Replays CUDA graphs of a function; calls it as it is where that cannot be.

    Every flag has been passed to the function before: libraries set themselves up in their first
    call, which must not be captured. Capturing computes nothing.

    Args:
        function: takes one flag, returns a tensor, and keeps to the rules above.
        flags: the values to capture it for.
    """

    def __init__(self, function: Callable[[bool], Tensor], flags: Iterable[bool]) -> None:
        self._function = function
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: dict[bool, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        try:
            for flag in flags:
                self._graphs[flag] = self._captured(flag)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._graphs.clear()
            reason = str(error).splitlines()[0]
            print(f"no CUDA graph of a step, so slower steps: {reason}", file=sys.stderr)

    @property
    def works(self) -> bool:
        """Whether there are graphs."""
        return bool(self._graphs)

    def __call__(self, flag: bool) -> Tensor:
        """Do what the function does; the next call overwrites the tensor that is returned."""
        if flag not in self._graphs:
            return self._function(flag)
        graph, result = self._graphs[flag]
        graph.replay()
        return result

    def _captured(self, flag: bool) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.empty_cache()  # what the first calls took is needed now
        with torch.cuda.graph(graph, pool=self._pool):
            result = self._function(flag)
        return graph, result
