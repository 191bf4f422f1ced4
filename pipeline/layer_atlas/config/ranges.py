"""Checks of values that a user gives, for records that hold them."""

import math


def require(condition: bool, message: str) -> None:
    """Raise ValueError with the message unless the condition holds."""
    if not condition:
        raise ValueError(message)


def positive(**values: float) -> None:
    """Raise ValueError unless all values are finite and above 0."""
    for name, value in values.items():
        require(math.isfinite(value) and value > 0, f"{name} must be above 0, not {value}.")


def not_negative(**values: float) -> None:
    """Raise ValueError unless all values are finite and 0 or more."""
    for name, value in values.items():
        require(math.isfinite(value) and value >= 0, f"{name} must be 0 or more, not {value}.")


def within(least: float, most: float, **values: float) -> None:
    """Raise ValueError unless all values lie between two others, which are allowed too."""
    for name, value in values.items():
        require(least <= value <= most, f"{name} must be {least:g} to {most:g}, not {value}.")


def one_or_more(**values: int) -> None:
    """Raise ValueError unless all values are 1 or more."""
    for name, value in values.items():
        require(value >= 1, f"{name} must be 1 or more, not {value}.")
