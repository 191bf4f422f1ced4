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


MOST_TOLD = 600
"""Characters of a message; more of them nobody reads, and a value may have millions."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system calls a disk that is full, or a user's share of it."""


class UserError(Exception):
    """A mistake in the config or the input. Its message is all the user gets to see (exit 2).

    Whatever it quotes, it is one line that a terminal can show. Of a long one the middle is left
    out: what is wrong stands at the beginning, and what to do about it at the end.
    """

    def __init__(self, message: str) -> None:
        super().__init__(_shortened(_one_line(message)))


class UnusableFile(UserError):
    """A file that is there, but whose content is of no use: cut short, hostile, or of another kind.

    What is wrong is in the file and not in the config. Of several models, a sweep goes on without
    the one whose weights are such a file.
    """


class StorageError(Exception):
    """The output folder cannot take more data: full, read-only or gone (exit 74)."""


def _one_line(text: str) -> str:
    line = " ".join(part.strip() for part in text.splitlines())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _shortened(line: str) -> str:
    half = (MOST_TOLD - 5) // 2
    return line if len(line) <= MOST_TOLD else f"{line[:half]} ... {line[-half:]}"


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
