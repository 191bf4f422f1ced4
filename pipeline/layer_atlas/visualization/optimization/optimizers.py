"""Optimizers: updates of a batch's parameters along their gradients.

The contract of a `BatchOptimizer` for parameters (B, P):
- It maximizes: this module is the only one that sets the direction.
- It moves row b by row b's gradients and scores alone, with the same bits in any batch. Rows are
  whole cache lines (`parameterizations`), so that none has an odd end.
- `restart` resets it in place, because the CUDA graphs of its steps refer to memory addresses.
- `step` never waits for the device, unless it declares so (`waits`).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain, repeat
from threading import Semaphore, Thread
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from layer_atlas.config.optimizers import LBFGS, SGD, Adam, AdamW, NAdam, Optimizer

Ask = Callable[[], None]
"""Blocks until the request is answered."""


def side_by_side(functions: Sequence[Callable[[Ask], None]], answer: Callable[[], None]) -> None:
    """Run functions concurrently to their ends; answer each time when all running ones have asked.

    Only one runs at a time, in a fixed order, so that the result is deterministic.

    Args:
        functions: each receives the callable that it asks by.
        answer: answers all requests at once, in the caller's thread.
    Raises: what a function or the answer raises; the other functions are then cancelled.
    """
    # Threads, because torch's L-BFGS calls its closure from deep inside a line search: only a
    # thread can be suspended there.
    runs = [_Run(function) for function in functions]
    try:
        asking = [run for run in runs if run.resume()]
        while asking:
            answer()
            asking = [run for run in asking if run.resume()]
    finally:
        for run in runs:
            run.cancel()


class _Run:
    """A function in its own thread, which runs only while the caller waits for it."""

    def __init__(self, function: Callable[[Ask], None]) -> None:
        self._function = function
        self._may_run, self._stopped = Semaphore(0), Semaphore(0)
        self._ended = self._cancelled = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def resume(self) -> bool:
        """Resume the function until its next request; return False if it has ended instead."""
        self._may_run.release()
        self._stopped.acquire()
        if self._error is not None:
            raise self._error
        return not self._ended

    def cancel(self) -> None:
        """Cancel the function where it stands."""
        self._cancelled = True
        self._may_run.release()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._wait()
            self._function(self._ask)
        except _Cancelled:
            pass
        except BaseException as error:  # noqa: BLE001 - raised in the waiting thread
            self._error = error
        finally:
            self._ended = True
            self._stopped.release()

    def _ask(self) -> None:
        self._stopped.release()
        self._wait()

    def _wait(self) -> None:
        self._may_run.acquire()
        if self._cancelled:
            raise _Cancelled


class _Cancelled(BaseException):  # no Exception, which the function might catch
    """Cancels a function in the middle."""


Evaluate = Callable[[], Tensor]
"""Sets the gradient (B, P) of the current parameters and returns their scores (B,)."""

_EPS = 1e-12
"""Lower bound of divisors of gradients: scores may be small."""


class BatchOptimizer(ABC):
    """Base class; see the module for the contract."""

    waits: ClassVar[bool] = False
    """Whether a step waits for the device, so that it cannot be captured as a CUDA graph."""

    def __init__(self, parameters: nn.Parameter, settings: Optimizer) -> None:
        self.parameters, self.settings = parameters, settings

    @abstractmethod
    def restart(self) -> None:
        """Reset the state: the parameters hold other values now."""

    @abstractmethod
    def begin(self, step: int) -> None:
        """Set what differs between steps, before the step of that number."""

    @abstractmethod
    def step(self, scores: Tensor, evaluate: Evaluate) -> None:
        """Move the parameters one step uphill.

        Args:
            scores: (B,) at the current parameters; their gradient is set.
            evaluate: evaluates further points, for line searches.
        """


def make_batch_optimizer(parameters: nn.Parameter, settings: Optimizer) -> BatchOptimizer:
    """Build the optimizer that the settings name, for parameters (B, P)."""
    if isinstance(settings, LBFGS):
        return BatchLBFGS(parameters, settings)
    if isinstance(settings, SGD) and settings.normalised:
        return Normalised(parameters, settings)
    return FirstOrder(parameters, settings)


def learning_rate(settings: Optimizer, step: int) -> float:
    """Return the step size of a step: linear warm-up, then the schedule."""
    first, last = settings.learning_rate, settings.final_learning_rate
    warmup = settings.warmup_steps
    if step < warmup:
        return first * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(settings.steps - 1 - warmup, 1)
    return last + (first - last) * _SCHEDULES[settings.schedule](progress)


_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}
"""Progress from 0 to 1 to the remaining fraction of the decrease of the step size."""


# --- first order ---------------------------------------------------------------------------------


class FirstOrder(BatchOptimizer):
    """Steps that depend on the gradients so far."""

    def __init__(self, parameters: nn.Parameter, settings: Optimizer) -> None:
        super().__init__(parameters, settings)
        # On a GPU the rate is a tensor, so that a replayed graph reads its current value.
        rate = torch.zeros((), device=parameters.device) if parameters.is_cuda else 0.0
        self._torch = _torch_optimizer(parameters, settings, rate)

    def restart(self) -> None:
        """Reset the state to that of an optimizer before its first step."""
        for state in self._torch.state.values():
            for name, tensor in state.items():
                # In place: the graphs refer to these tensors.
                tensor.fill_(_INITIAL_STATE.get(name, 0.0))

    def begin(self, step: int) -> None:
        """Set the step size."""
        rate = learning_rate(self.settings, step)
        for group in self._torch.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def step(self, scores: Tensor, evaluate: Evaluate) -> None:
        """Move the parameters one step uphill."""
        self._torch.step()


class Normalised(FirstOrder):
    """Steps along gradients whose rows have a root mean square of 1."""

    def step(self, scores: Tensor, evaluate: Evaluate) -> None:
        """Move the parameters one step uphill."""
        gradient = self.parameters.grad
        assert gradient is not None
        size = gradient.norm(dim=1, keepdim=True) / math.sqrt(gradient.shape[1])
        self.parameters.grad = gradient / size.clamp_min(_EPS)
        super().step(scores, evaluate)


_INITIAL_STATE = {"mu_product": 1.0}
"""Initial state of torch's optimizers, where it is not 0."""


def _torch_optimizer(
    parameters: nn.Parameter, settings: Optimizer, rate: float | Tensor
) -> torch.optim.Optimizer:
    """Build torch's optimizer in the variant that treats all elements alike and allows capture."""
    if isinstance(settings, SGD):
        return _sgd(parameters, settings, rate)
    assert isinstance(settings, Adam | AdamW | NAdam)
    shared: dict[str, Any] = {
        "lr": rate,
        "betas": (settings.beta1, settings.beta2),
        "eps": _EPS,
        "weight_decay": settings.weight_decay,
        "maximize": True,
        "capturable": parameters.is_cuda,
    }
    if isinstance(settings, NAdam):
        decay = settings.momentum_decay
        return torch.optim.NAdam([parameters], momentum_decay=decay, foreach=True, **shared)
    kind = torch.optim.Adam if isinstance(settings, Adam) else torch.optim.AdamW
    # Fused: one kernel per step, and on a CPU the same instructions for every element.
    return kind([parameters], fused=True, **shared)


def _sgd(parameters: nn.Parameter, settings: SGD, rate: float | Tensor) -> torch.optim.SGD:
    sgd = torch.optim.SGD(
        [parameters],
        lr=rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
        maximize=True,
        fused=True,
    )
    if settings.momentum > 0:
        # Otherwise the first step would run other code than the first one after a restart.
        sgd.state[parameters]["momentum_buffer"] = torch.zeros_like(parameters)
    return sgd


# --- L-BFGS --------------------------------------------------------------------------------------


class BatchLBFGS(BatchOptimizer):
    """torch's L-BFGS for each row independently; line searches of all rows share evaluations.

    A loss is the decrease of a row's score since the start of the step. It is scaled once so that
    the row's first gradient is at most 1, because torch compares curvature with a constant.
    """

    waits = True

    def __init__(self, parameters: nn.Parameter, settings: LBFGS) -> None:
        super().__init__(parameters, settings)
        # Views: updating a row updates the parameters.
        self._rows = list(parameters.detach())
        self._make = partial(_lbfgs, settings)
        self.restart()

    def restart(self) -> None:
        """Reset the curvature estimates."""
        self._torch = [self._make(row) for row in self._rows]
        self._scale = self.parameters.new_zeros(len(self._rows))
        self._before = self.parameters.new_full((len(self._rows),), math.nan)

    def begin(self, step: int) -> None:
        """Set the initial step size of each iteration."""
        self._leaks = self.settings.leaks(step)
        rate = learning_rate(self.settings, step)
        for lbfgs in self._torch:
            lbfgs.param_groups[0]["lr"] = rate

    def step(self, scores: Tensor, evaluate: Evaluate) -> None:
        """Optimize for as many evaluations as the settings allow; finished rows stay in place."""
        self._choose_search(scores)
        self._distribute(scores, scores)
        rows = [partial(self._optimize_row, row) for row in range(len(self._rows))]
        threads = torch.get_num_threads()
        try:
            side_by_side(rows, lambda: self._distribute(scores, evaluate()))
        finally:
            torch.set_num_threads(threads)  # later threads inherit this value

    def _choose_search(self, scores: Tensor) -> None:
        """Use line searches, but full steps for rows whose gradient is only the ReLU leak."""
        # A constant score (B,) gives a line search no information.
        blind = (scores == self._before) & self._leaks
        self._before = scores
        for lbfgs, is_blind in zip(self._torch, blind.tolist(), strict=True):
            lbfgs.param_groups[0]["line_search_fn"] = None if is_blind else "strong_wolfe"

    def _distribute(self, start: Tensor, scores: Tensor) -> None:
        """Distribute gradients and losses; `start` and `scores` (B,) are scores before and now."""
        gradient = self.parameters.grad
        assert gradient is not None
        largest = gradient.abs().amax(dim=1)
        first = (self._scale == 0) & (largest > 0)
        self._scale = torch.where(first, largest.clamp_min(_EPS).reciprocal(), self._scale)
        losses = (start - scores) * self._scale
        self._losses: list[float] = losses.nan_to_num(_WORST, _WORST, _WORST).tolist()
        for row, uphill in zip(self._rows, gradient * self._scale[:, None], strict=True):
            row.grad = -uphill

    def _optimize_row(self, row: int, ask: Ask) -> None:
        """Run the step of one row, in its own thread."""
        torch.set_num_threads(1)  # in this thread: a dot product's rounding depends on the count
        requests = chain([lambda: None], repeat(ask))  # the first evaluation is known

        def loss() -> float:
            next(requests)()
            return self._losses[row]

        self._torch[row].step(loss)  # type: ignore[no-untyped-call]


_WORST = 1e6
"""Loss where the score is not finite; its square must fit in float32."""


def _lbfgs(settings: LBFGS, row: Tensor) -> torch.optim.LBFGS:
    return torch.optim.LBFGS(
        [row],
        max_iter=settings.evaluations,
        max_eval=settings.evaluations,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        history_size=settings.history,
    )
