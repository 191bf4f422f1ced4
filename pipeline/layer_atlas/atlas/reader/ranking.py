"""Which statistics compare between channels, and so may rank them."""

from collections.abc import Collection

_COMPARABLE = ("agreement", "selectivity")
"""Defaults in order of preference. Percentiles compare too, but optimized images tie at 100."""

_OWN_SCALE = frozenset(
    {
        *("activation", "activation_robust", "activation_max"),
        *("dataset/min", "dataset/max", "dataset/mean", "dataset/std"),
    }
)
"""Statistics in the unit of a channel's own responses, which differs between channels."""


def default_ranking(statistics: Collection[str]) -> str:
    """Choose the statistic that ranks channels by default.

    Agreement with dataset images or, without a dataset, selectivity: both compare between channels.
    Objectives without responses of channels, such as class scores, leave activations alone.
    """
    choices = (*_COMPARABLE, "activation_robust")
    return next((name for name in choices if name in statistics), "activation")


def is_on_own_scale(statistic: str) -> bool:
    """Whether the scale of a statistic differs between channels."""
    return statistic in _OWN_SCALE
