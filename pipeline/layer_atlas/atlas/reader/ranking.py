"""By which statistic channels may be ranked against each other, and by which they may not."""

from collections.abc import Collection

_COMPARABLE = ("agreement", "selectivity")
"""The default, in order of preference. A percentile compares too, but made images tie at 100."""

_OWN_SCALE = frozenset(
    {
        *("activation", "activation_robust", "activation_max"),
        *("dataset/min", "dataset/max", "dataset/mean", "dataset/std"),
    }
)
"""Statistics in the unit of a channel's own responses, of which each channel has another."""


def default_ranking(statistics: Collection[str]) -> str:
    """The statistic that channels are ranked by unless another is asked for.

    It compares between channels where there is one: agreement with dataset images, else
    selectivity. Objectives without responses of channels, such as class scores, leave activations.
    """
    choices = (*_COMPARABLE, "activation_robust")
    return next((name for name in choices if name in statistics), "activation")


def is_on_own_scale(statistic: str) -> bool:
    """Whether each channel has its values of a statistic on a scale of its own."""
    return statistic in _OWN_SCALE
