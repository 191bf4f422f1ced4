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
from typing import ClassVar

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
    match settings:
        case LBFGS():
            return BatchLBFGS(parameters, settings)
        case SGD():
            return _SGD(parameters, settings)
        case NAdam():
            return _NAdam(parameters, settings)
        case Adam() | AdamW():
            return _Adam(parameters, settings)
    raise TypeError(type(settings))


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
    """Steps that depend on the gradients so far.

    Adam and SGD call torch's fused kernels themselves: one kernel per step, and on a CPU the same
    instructions for every element. The classes around them in `torch.optim` import torch's compiler
    at their first step, which takes two seconds of every worker's start.
    """

    def __init__(self, parameters: nn.Parameter, settings: Optimizer) -> None:
        super().__init__(parameters, settings)
        # On a GPU the rate is a tensor, so that a replayed graph reads its current value.
        self.rate = torch.zeros((), device=parameters.device) if parameters.is_cuda else 0.0

    @property
    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """The tensors that one step hands to the next, by name."""

    def restart(self) -> None:
        """Reset the state to that of an optimizer before its first step."""
        for name, tensor in self.state.items():
            # In place: the graphs refer to these tensors.
            tensor.fill_(_INITIAL_STATE.get(name, 0.0))

    def begin(self, step: int) -> None:
        """Set the step size."""
        rate = learning_rate(self.settings, step)
        if isinstance(self.rate, Tensor):
            self.rate.fill_(rate)
        else:
            self.rate = rate

    def step(self, scores: Tensor, evaluate: Evaluate) -> None:
        """Move the parameters one step uphill."""
        gradient = self.parameters.grad
        assert gradient is not None
        with torch.no_grad():
            self._move(gradient)

    @abstractmethod
    def _move(self, gradient: Tensor) -> None:
        """Move the parameters by their gradient (B, P)."""


_INITIAL_STATE = {"mu_product": 1.0}
"""Initial state of torch's optimizers, where it is not 0."""


class _Adam(FirstOrder):
    """Adam and AdamW."""

    def __init__(self, parameters: nn.Parameter, settings: Adam | AdamW) -> None:
        super().__init__(parameters, settings)
        self.mean, self.square = torch.zeros_like(parameters), torch.zeros_like(parameters)
        self.steps = torch.zeros((), device=parameters.device)
        kernels = {Adam: torch._fused_adam_, AdamW: torch._fused_adamw_}
        self._kernel = partial(
            kernels[type(settings)],
            beta1=settings.beta1,
            beta2=settings.beta2,
            weight_decay=settings.weight_decay,
            eps=_EPS,
            amsgrad=False,
            maximize=True,
        )

    @property
    def state(self) -> dict[str, Tensor]:
        """Moving averages (B, P) of gradients and of their squares, and the steps so far ()."""
        return {"mean": self.mean, "square": self.square, "steps": self.steps}

    def _move(self, gradient: Tensor) -> None:
        self.steps += 1
        averages = [self.mean], [self.square]
        self._kernel([self.parameters], [gradient], *averages, [], [self.steps], lr=self.rate)


class _SGD(FirstOrder):
    """Gradient ascent, with momentum if asked for."""

    def __init__(self, parameters: nn.Parameter, settings: SGD) -> None:
        super().__init__(parameters, settings)
        self.momentum = [torch.zeros_like(parameters)] if settings.momentum > 0 else []
        self._kernel = partial(
            torch._fused_sgd_,
            weight_decay=settings.weight_decay,
            momentum=settings.momentum,
            dampening=0.0,
            nesterov=settings.nesterov,
            maximize=True,
            is_first_step=False,
        )
        self._is_normalised = settings.normalized

    @property
    def state(self) -> dict[str, Tensor]:
        """The sum of gradients so far (B, P), if there is a momentum."""
        return dict(zip(("momentum",), self.momentum, strict=False))

    def _move(self, gradient: Tensor) -> None:
        if self._is_normalised:
            # Rows then have a root mean square of 1.
            size = gradient.norm(dim=1, keepdim=True) / math.sqrt(gradient.shape[1])
            gradient = gradient / size.clamp_min(_EPS)
        self._kernel([self.parameters], [gradient], self.momentum, lr=self.rate)


class _NAdam(FirstOrder):
    """NAdam, by torch's class: there is no fused kernel."""

    def __init__(self, parameters: nn.Parameter, settings: NAdam) -> None:
        super().__init__(parameters, settings)
        self._torch = torch.optim.NAdam(
            [parameters],
            lr=self.rate,
            betas=(settings.beta1, settings.beta2),
            eps=_EPS,
            weight_decay=settings.weight_decay,
            momentum_decay=settings.momentum_decay,
            maximize=True,
            foreach=True,
            capturable=parameters.is_cuda,
        )

    @property
    def state(self) -> dict[str, Tensor]:
        """The state of torch's optimizer; empty before the first step."""
        return dict(self._torch.state[self.parameters])

    def _move(self, gradient: Tensor) -> None:
        self._torch.param_groups[0]["lr"] = self.rate
        self._torch.step()


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
