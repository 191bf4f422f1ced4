"""Records of the optimizers: how images climb. The code is in `ascent.optimizers`."""

from dataclasses import dataclass
from typing import Literal

from layer_atlas.config.ranges import not_negative, positive, require

Schedule = Literal["constant", "linear", "cosine"]


@dataclass(frozen=True, kw_only=True)
class OptimizerRecord:
    """What all optimizers have in common: steps, their size, and a leaky gradient at first."""

    steps: int = 24
    """Ascent steps per image."""
    learning_rate: float = 0.5
    """Step size at the start, once it is warm."""
    final_learning_rate: float = 0.1
    """Step size at the end, unless the schedule is constant."""
    schedule: Schedule = "cosine"
    """How the step size falls: along half a `cosine`, a `linear` line, or not (`constant`)."""
    warmup_steps: int = 0
    """Number of first steps in which the step size rises along a line that starts at 0."""
    leaky_steps: int = 8
    """Number of first steps in which gradients leak through the closed side of ReLU."""
    leaky_slope: float = 0.1
    """Slope of that leak; with 0 a channel that starts closed stays a grey tile."""
    starts: int = 3
    """How many random starts a channel gets that stays dead; later ones leak at every step."""

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"steps must be 1 or more, not {self.steps}.")
        positive(learning_rate=self.learning_rate, final_learning_rate=self.final_learning_rate)
        not_negative(warmup_steps=self.warmup_steps)
        not_negative(leaky_steps=self.leaky_steps, leaky_slope=self.leaky_slope)
        require(1 <= self.starts <= 255, f"starts must be 1 to 255, not {self.starts}.")

    @property
    def passes_per_step(self) -> int:
        """How often a step goes through the network, forward and backward."""
        return 1

    def leaks(self, step: int) -> bool:
        """Whether gradients leak in the step of that number."""
        return step < self.leaky_steps and self.leaky_slope > 0


@dataclass(frozen=True, kw_only=True)
class _FirstOrder(OptimizerRecord):
    """Optimizers that follow gradients alone."""

    weight_decay: float = 0.0
    """Pull to 0 of the parameters, which are what is optimised: Fourier coefficients, pixels or
    phases; `regularizers.l2` pulls at the image. Added to the gradient as it is used (L2)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(weight_decay=self.weight_decay)


@dataclass(frozen=True, kw_only=True)
class _Moments(_FirstOrder):
    """Optimizers that divide the mean gradient by the root of the mean squared one."""

    beta1: float = 0.3
    """Decay of the mean of gradients."""
    beta2: float = 0.99
    """Decay of the mean of squared gradients."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.beta1 < 1, f"beta1 must be in [0, 1), not {self.beta1}.")
        require(0 <= self.beta2 < 1, f"beta2 must be in [0, 1), not {self.beta2}.")


@dataclass(frozen=True, kw_only=True)
class Adam(_Moments):
    """Adam (Kingma & Ba 2015, arXiv 1412.6980)."""

    name: str = "adam"


@dataclass(frozen=True, kw_only=True)
class AdamW(_Moments):
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv 1711.05101)."""

    name: str = "adamw"
    weight_decay: float = 0.01
    """Times the step size: share by which each step shrinks the parameters, which are what is
    optimised: Fourier coefficients, pixels or phases."""


@dataclass(frozen=True, kw_only=True)
class NAdam(_Moments):
    """Adam with Nesterov's momentum (Dozat 2016, "Incorporating Nesterov Momentum into Adam")."""

    name: str = "nadam"
    momentum_decay: float = 0.004
    """How fast the momentum rises to beta1 from half of it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        not_negative(momentum_decay=self.momentum_decay)


@dataclass(frozen=True, kw_only=True)
class SGD(_FirstOrder):
    """Steps along the gradient itself, with momentum."""

    name: str = "sgd"
    momentum: float = 0.5
    """Share of the last step that is gone on with."""
    nesterov: bool = False
    """Whether momentum is applied before it is updated (Sutskever et al. 2013)."""
    normalised: bool = True
    """Whether each image's gradient is scaled to a root mean square of 1, so that one step size
    means the same for channels that answer with 0.1 and with 100; clipping then has no effect."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.momentum < 1, f"momentum must be in [0, 1), not {self.momentum}.")
        require(self.momentum > 0 or not self.nesterov, "nesterov needs a momentum above 0.")


@dataclass(frozen=True, kw_only=True)
class LBFGS(OptimizerRecord):
    """L-BFGS (Liu & Nocedal 1989) with a strong Wolfe line search, for each image by itself.

    Line searches compare scores: penalties and clipping turn its directions, but do not tell it how
    far to go. Where a score stays at 0 and a leak alone leads on, it takes whole steps instead.
    """

    name: str = "lbfgs"
    learning_rate: float = 1.0
    """First length that a line search tries, where 1 is the quasi-Newton step."""
    final_learning_rate: float = 1.0
    """The same at the end, unless the schedule is constant."""
    schedule: Schedule = "constant"
    """How that length falls: along half a `cosine`, a `linear` line, or not (`constant`)."""
    history: int = 10
    """How many changes of the gradient are remembered."""
    evaluations: int = 8
    """About how often a step goes through the network: as many iterations as this allows for, all
    for the same view of the image."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(1 <= self.history <= 100, f"history must be 1 to 100, not {self.history}.")
        require(self.evaluations >= 2, f"evaluations must be 2 or more, not {self.evaluations}.")

    @property
    def passes_per_step(self) -> int:
        """How often a step goes through the network, forward and backward."""
        return self.evaluations


Optimizer = Adam | AdamW | NAdam | SGD | LBFGS
