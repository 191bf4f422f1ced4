"""What can go wrong and is not a bug: the one exception a user sees, and the exit codes."""

import contextlib
import errno
import sys
from collections.abc import Iterable
from difflib import get_close_matches

EXIT_OK = 0
EXIT_FAILED_JOBS = 1
EXIT_USER_ERROR = 2
EXIT_IO = 74
EXIT_PREEMPTED = 75
EXIT_INTERRUPTED = 130


FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system calls a disk that is full, or a user's share of it."""


class UserError(Exception):
    """A mistake in the config or the input. Its message is all the user gets to see (exit 2)."""


class StorageError(Exception):
    """The output folder cannot take more data: full, read-only or gone (exit 74)."""


def tell(message: object) -> None:
    """Print to standard error, if it takes anything: it may be a file on a disk that is full."""
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr)


def nearest_first(value: str, choices: Iterable[str]) -> list[str]:
    """Sort `choices`, those that look most like `value` first.

    >>> nearest_first("resnet5", ["alexnet", "resnet50", "vgg11"])[0]
    'resnet50'
    """
    rest = sorted(choices)
    lower = {choice.lower(): choice for choice in reversed(rest)}
    close = [lower[m] for m in get_close_matches(value.lower(), lower, n=5, cutoff=0.5)]
    return close + [choice for choice in rest if choice not in close]


def unknown(what: str, value: object, choices: Iterable[str], remedy: str = "") -> UserError:
    """Name the value that is not among the choices, the choices (nearest first), the remedy."""
    ordered = nearest_first(str(value), choices)
    shown = ", ".join(ordered[:12]) + (
        f", ... ({len(ordered)} in all)" if len(ordered) > 12 else ""
    )
    return UserError(f"unknown {what} {value!r}; choose from: {shown or '(none)'}." + _tail(remedy))


def _tail(remedy: str) -> str:
    return f" {remedy}" if remedy else ""
