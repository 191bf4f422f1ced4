"""Optimizers: how the parameters of a batch climb along their gradients.

The contract of the family: a `BatchOptimizer` made for parameters (B, P),
- which climbs: this module is the one place that says "up",
- which moves row b as row b's gradients and scores tell, to the same bits in any company: rows are
  whole cache lines (`parameterizations`), so that none has an odd end,
- which begins anew with `restart`, its tensors staying where they lie, because the graphs of its
  steps know them by that, and
- whose `step` never waits for the device, unless it says so (`waits`).
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
"""Returns once what is asked for has been answered."""


def side_by_side(functions: Sequence[Callable[[Ask], None]], answer: Callable[[], None]) -> None:
    """Run functions to their ends; each time all that still run have asked, answer.

    One runs at a time, in their order, so that nothing is left to chance.

    Args:
        functions: each is given what it asks by.
        answer: answers all who ask, in the thread of the caller.
    Raises: what a function or the answer raises; the other functions then end where they are.
    """
    runs = [_Run(function) for function in functions]
    try:
        asking = [run for run in runs if run.goes_on()]
        while asking:
            answer()
            asking = [run for run in asking if run.goes_on()]
    finally:
        for run in runs:
            run.end()


class _Run:
    """A function in a thread of its own, which runs only while the caller waits for it."""

    def __init__(self, function: Callable[[Ask], None]) -> None:
        self._function = function
        self._may_run, self._stopped = Semaphore(0), Semaphore(0)
        self._over = self._unwanted = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def goes_on(self) -> bool:
        """Let it run until it asks; False if it has come to its end instead."""
        self._may_run.release()
        self._stopped.acquire()
        if self._error is not None:
            raise self._error
        return not self._over

    def end(self) -> None:
        """Have it end where it is."""
        self._unwanted = True
        self._may_run.release()
        self._thread.join()

    def _run(self) -> None:
        try:
            self._wait()
            self._function(self._ask)
        except _Unwanted:
            pass
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            self._error = error
        finally:
            self._over = True
            self._stopped.release()

    def _ask(self) -> None:
        self._stopped.release()
        self._wait()

    def _wait(self) -> None:
        self._may_run.acquire()
        if self._unwanted:
            raise _Unwanted


class _Unwanted(BaseException):
    """Ends a function that is left in the middle."""


Evaluate = Callable[[], Tensor]
"""Sets the gradient (B, P) at the parameters as they are, and returns the scores there: (B,)."""

_EPS = 1e-12
"""Least size that a gradient is divided by: scores may be small."""


class BatchOptimizer(ABC):
    """What the family promises."""

    waits: ClassVar[bool] = False
    """Whether a step waits for the device; then it cannot be captured as a CUDA graph."""

    def __init__(self, parameters: nn.Parameter, settings: Optimizer) -> None:
        self.parameters, self.settings = parameters, settings

    @abstractmethod
    def restart(self) -> None:
        """Begin anew: other values have taken the place of the parameters."""

    @abstractmethod
    def begin(self, step: int) -> None:
        """Set what differs between steps, before the step of that number."""

    @abstractmethod
    def step(self, scores: Tensor, evaluate: Evaluate) -> None:
        """Move the parameters one step up.

        Args:
            scores: (B,) at the parameters as they are; their gradient is set.
            evaluate: for those that want to know more.
        """


def make_batch_optimizer(parameters: nn.Parameter, settings: Optimizer) -> BatchOptimizer:
    """The optimizer that the settings name, for parameters (B, P)."""
    if isinstance(settings, LBFGS):
        return BatchLBFGS(parameters, settings)
    if isinstance(settings, SGD) and settings.normalised:
        return Normalised(parameters, settings)
    return FirstOrder(parameters, settings)


def learning_rate(settings: Optimizer, step: int) -> float:
    """The step size of a step: a line up while it warms, then the schedule down."""
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
"""From 0 to 1 on the way: how much is left of what the step size falls by."""


# --- first order ---------------------------------------------------------------------------------


class FirstOrder(BatchOptimizer):
    """Steps that follow from the gradients so far."""

    def __init__(self, parameters: nn.Parameter, settings: Optimizer) -> None:
        super().__init__(parameters, settings)
        # On a GPU a graph reads the rate from where it lies.
        rate = torch.zeros((), device=parameters.device) if parameters.is_cuda else 0.0
        self._torch = _torch_optimizer(parameters, settings, rate)

    def restart(self) -> None:
        """Begin anew, with the state of an optimizer that has not made a step."""
        for state in self._torch.state.values():
            for name, tensor in state.items():
                tensor.fill_(_AT_FIRST.get(name, 0.0))

    def begin(self, step: int) -> None:
        """Set the step size."""
        rate = learning_rate(self.settings, step)
        for group in self._torch.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def step(self, scores: Tensor, evaluate: Evaluate) -> None:
        """Move the parameters one step up."""
        self._torch.step()


class Normalised(FirstOrder):
    """Steps along gradients of which each row has a root mean square of 1."""

    def step(self, scores: Tensor, evaluate: Evaluate) -> None:
        """Move the parameters one step up."""
        gradient = self.parameters.grad
        assert gradient is not None
        size = gradient.norm(dim=1, keepdim=True) / math.sqrt(gradient.shape[1])
        self.parameters.grad = gradient / size.clamp_min(_EPS)
        super().step(scores, evaluate)


_AT_FIRST = {"mu_product": 1.0}
"""What torch's optimizers begin with, where it is not 0."""


def _torch_optimizer(
    parameters: nn.Parameter, settings: Optimizer, rate: float | Tensor
) -> torch.optim.Optimizer:
    """torch's own, in the form that treats all numbers alike and that a graph can capture."""
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
        # Else the first step would be made by other code than that after a restart.
        sgd.state[parameters]["momentum_buffer"] = torch.zeros_like(parameters)
    return sgd


# --- L-BFGS --------------------------------------------------------------------------------------


class BatchLBFGS(BatchOptimizer):
    """torch's L-BFGS for each row by itself; where rows want to look, they look together.

    A loss is what a row's score falls by from the start of the step. It is scaled, for good, so
    that the row's first gradient is at most 1: torch measures curvature against a constant.
    """

    waits = True

    def __init__(self, parameters: nn.Parameter, settings: LBFGS) -> None:
        super().__init__(parameters, settings)
        # Views: what moves a row moves the parameters.
        self._rows = list(parameters.detach())
        self._make = partial(_lbfgs, settings)
        self.restart()

    def restart(self) -> None:
        """Begin anew, knowing no curvature."""
        self._torch = [self._make(row) for row in self._rows]
        self._scale = self.parameters.new_zeros(len(self._rows))
        self._before = self.parameters.new_full((len(self._rows),), math.nan)

    def begin(self, step: int) -> None:
        """Set how far each iteration tries to go at first."""
        self._leaks = self.settings.leaks(step)
        rate = learning_rate(self.settings, step)
        for lbfgs in self._torch:
            lbfgs.param_groups[0]["lr"] = rate

    def step(self, scores: Tensor, evaluate: Evaluate) -> None:
        """Climb for as many evaluations as the settings allow; rows that are done stay."""
        self._choose_search(scores)
        self._take(scores, scores)
        climbs = [partial(self._climb, row) for row in range(len(self._rows))]
        threads = torch.get_num_threads()
        try:
            side_by_side(climbs, lambda: self._take(scores, evaluate()))
        finally:
            torch.set_num_threads(threads)  # which is what later threads begin with

    def _choose_search(self, scores: Tensor) -> None:
        """Line searches, but whole steps for rows that only a leak leads on."""
        # A score (B,) that stays the same cannot tell how far to go.
        blind = (scores == self._before) & self._leaks
        self._before = scores
        for lbfgs, is_blind in zip(self._torch, blind.tolist(), strict=True):
            lbfgs.param_groups[0]["line_search_fn"] = None if is_blind else "strong_wolfe"

    def _take(self, start: Tensor, scores: Tensor) -> None:
        """Hand out gradients and losses; scores (B,) are those at the start of a step and here."""
        gradient = self.parameters.grad
        assert gradient is not None
        largest = gradient.abs().amax(dim=1)
        first = (self._scale == 0) & (largest > 0)
        self._scale = torch.where(first, largest.clamp_min(_EPS).reciprocal(), self._scale)
        losses = (start - scores) * self._scale
        self._losses: list[float] = losses.nan_to_num(_WORST, _WORST, _WORST).tolist()
        for row, uphill in zip(self._rows, gradient * self._scale[:, None], strict=True):
            row.grad = -uphill

    def _climb(self, row: int, ask: Ask) -> None:
        """A step of one row, in a thread of its own."""
        torch.set_num_threads(1)  # here: a scalar product depends on how many share in it
        questions = chain([lambda: None], repeat(ask))  # the first is answered already

        def loss() -> float:
            next(questions)()
            return self._losses[row]

        self._torch[row].step(loss)  # type: ignore[no-untyped-call]


_WORST = 1e6
"""Loss where the score is not finite; torch squares it in float32."""


def _lbfgs(settings: LBFGS, row: Tensor) -> torch.optim.LBFGS:
    return torch.optim.LBFGS(
        [row],
        max_iter=settings.evaluations,
        max_eval=settings.evaluations,
        tolerance_grad=0.0,
        tolerance_change=0.0,
        history_size=settings.history,
    )
