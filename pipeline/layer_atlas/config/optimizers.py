"""The optimizers: how images follow the gradient. The code is in `visualization.optimization`."""

from dataclasses import dataclass
from typing import Literal

from layer_atlas.config.records import Choice, Reference, register, require, setting

Schedule = Literal["constant", "linear", "cosine"]

KINGMA_2015 = Reference(
    "Kingma & Ba 2015",
    "Adam: a method for stochastic optimization. ICLR, arXiv:1412.6980.",
)
LOSHCHILOV_2019 = Reference(
    "Loshchilov & Hutter 2019",
    "Decoupled weight decay regularization. ICLR, arXiv:1711.05101.",
)
DOZAT_2016 = Reference("Dozat 2016", "Incorporating Nesterov momentum into Adam. ICLR workshop.")
LIU_1989 = Reference(
    "Liu & Nocedal 1989",
    "On the limited memory BFGS method for large scale optimization. Mathematical "
    "Programming 45, 503-528.",
)


@dataclass(frozen=True, kw_only=True)
class Optimizer(Choice, family="optimizer"):
    """Base of the optimizers: number and size of the steps, and a leaky gradient at first."""

    steps: int = setting(48, at_least=1, phrase="{} step(s)")
    """Number of optimization steps per image."""
    learning_rate: float = setting(0.5, above=0, phrase="a learning rate of {}")
    """Step size at the start, after the warm-up."""
    final_learning_rate: float = setting(0.1, above=0, phrase="falling to {}")
    """Step size at the end, unless the schedule is constant."""
    schedule: Schedule = setting("cosine", phrase="by a {} schedule")
    """The step size falls along half a `cosine` or a `linear` line, or not at all (`constant`)."""
    warmup_steps: int = setting(0, at_least=0, phrase="a warm-up of {} step(s)")
    """Number of first steps in which the step size rises linearly from 0."""
    leaky_steps: int = setting(
        8, at_least=0, phrase="gradients of channels without response leaked through closed ReLUs"
    )
    """Number of first steps in which gradients of channels without response leak through the closed
    side of ReLU."""
    leaky_slope: float = setting(0.1, at_least=0, phrase="with a slope of {}")
    """Slope of that leak. With 0, a channel that starts closed stays a grey tile."""
    starts: int = setting(
        3, at_least=1, at_most=255, off=1, phrase="up to {} starts for channels that stayed dead"
    )
    """Largest number of random starts of a channel that stays dead. Later starts leak at every
    step."""

    @property
    def passes_per_step(self) -> int:
        """Forward and backward passes per step."""
        return 1

    def leaks(self, step: int) -> bool:
        """Whether gradients leak in the step of that number."""
        return step < self.leaky_steps and self.leaky_slope > 0

    def clauses(self) -> dict[str, str]:
        """The words for each setting; one clause for the learning rate, and one for the leak."""
        found = super().clauses()
        falls = [found.pop("final_learning_rate"), found.pop("schedule")]
        # A constant schedule ignores the final learning rate, so it must not be mentioned.
        if self.schedule != "constant":
            found["learning_rate"] = " ".join([found["learning_rate"], *falls])
        leaks = [found.pop(name, "") for name in ("leaky_steps", "leaky_slope")]
        if self.leaks(0):
            plural = "" if self.leaky_steps == 1 else "s"
            first = f"in the first {self.leaky_steps} step{plural}"
            found["leaky_steps"] = " ".join([leaks[0], first, leaks[1]])
        elif self.starts > 1 and self.leaky_slope > 0:
            found["starts"] += f" (later ones with a leak through closed ReLUs {leaks[1]})"
        return found


@dataclass(frozen=True, kw_only=True)
class _FirstOrder(Optimizer):
    """Base of optimizers that follow the gradient alone."""

    weight_decay: float = setting(0.0, at_least=0, phrase="a weight decay of {}")
    """Pull of the parameters (Fourier coefficients, pixels or phases) to 0, added to the gradient
    as it is used (L2). `regularizers.l2` pulls at the image instead."""


@dataclass(frozen=True, kw_only=True)
class _Moments(_FirstOrder):
    """Base of optimizers that divide the mean gradient by the root of the mean squared one."""

    beta1: float = setting(0.3, at_least=0, below=1, phrase="a beta1 of {}")
    """Decay of the mean of gradients."""
    beta2: float = setting(0.99, at_least=0, below=1, phrase="a beta2 of {}")
    """Decay of the mean of squared gradients."""


@register("adam", kw_only=True)
class Adam(_Moments):
    """Adam."""

    references = (KINGMA_2015,)
    phrase = "Adam"


@register("adamw", kw_only=True)
class AdamW(_Moments):
    """Adam with decoupled weight decay."""

    references = (LOSHCHILOV_2019,)
    phrase = "AdamW"
    weight_decay: float = setting(0.01, at_least=0, phrase="a decoupled weight decay of {}")
    """Fraction, times the step size, by which each step shrinks the parameters (Fourier
    coefficients, pixels or phases)."""


@register("nadam", kw_only=True)
class NAdam(_Moments):
    """Adam with Nesterov's momentum."""

    references = (DOZAT_2016,)
    phrase = "NAdam"
    momentum_decay: float = setting(0.004, at_least=0, phrase="a momentum decay of {}")
    """Speed at which the momentum rises to beta1 from half of it."""


@register("sgd", kw_only=True)
class SGD(_FirstOrder):
    """Gradient steps with momentum."""

    momentum: float = setting(0.5, at_least=0, below=1, phrase="a momentum of {}")
    """Fraction of the last step that is added to the next."""
    nesterov: bool = setting(False, phrase="Nesterov's momentum")
    """Whether momentum is applied before it is updated (Sutskever et al. 2013)."""
    normalized: bool = setting(True, phrase="normalized gradients")
    """Whether each image's gradient is scaled to a root mean square of 1. Then one step size means
    the same for channels that respond with 0.1 and with 100, and clipping has no effect."""

    def check(self) -> None:
        """Check that Nesterov's momentum has a momentum."""
        require(self.momentum > 0 or not self.nesterov, "nesterov needs a momentum above 0.")


@register("lbfgs", kw_only=True)
class LBFGS(Optimizer):
    """L-BFGS with a strong Wolfe line search, for each image by itself.

    Line searches compare scores: penalties and clipping turn the directions but do not limit the
    length. Where a score stays at 0 and only a leak leads on, it takes whole steps instead.
    """

    references = (LIU_1989,)
    phrase = "L-BFGS"
    learning_rate: float = setting(1.0, above=0, phrase="a learning rate of {}")
    """First length that a line search tries, where 1 is the quasi-Newton step."""
    final_learning_rate: float = setting(1.0, above=0, phrase="falling to {}")
    """First length that the last line search tries, unless the schedule is constant."""
    schedule: Schedule = setting("constant", phrase="by a {} schedule")
    """That length falls along half a `cosine` or a `linear` line, or not at all (`constant`)."""
    history: int = setting(10, at_least=1, at_most=100, phrase="a history of {}")
    """Number of changes of the gradient that are remembered."""
    evaluations: int = setting(8, at_least=2, phrase="{} evaluations per step")
    """Approximate number of passes through the network per step. A step does as many iterations as
    this allows, all for the same view of the image."""

    @property
    def passes_per_step(self) -> int:
        """Forward and backward passes per step."""
        return self.evaluations
