"""Exit codes, and the exceptions whose message is all that a user sees."""

import contextlib
import errno
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

EXIT_OK = 0
EXIT_FAILED_JOBS = 1
EXIT_USER_ERROR = 2
EXIT_NO_DEVICE = 69
EXIT_IO = 74
EXIT_PREEMPTED = 75
EXIT_INTERRUPTED = 130

LONGEST_MESSAGE = 600
"""Characters of a message at most; a quoted value may have millions, and nobody reads them."""

FULL = (errno.ENOSPC, errno.EDQUOT)
"""Error numbers of a full disk, and of a user's quota that is used up."""


class UserError(Exception):
    """A mistake in the config or the input. Its message is all the user gets to see (exit 2).

    Whatever it quotes, the message is one line that a terminal can show. A long message loses its
    middle: the mistake stands at its beginning, the remedy at its end.
    """

    def __init__(self, message: str) -> None:
        line = " ".join(part.strip() for part in message.splitlines())
        super().__init__(_shortened(sanitize(line)))


class UnusableFile(UserError):
    """A file exists, but its content cannot be used: truncated, hostile, or of another kind.

    The mistake is in the file and not in the config, so a sweep of several models skips the model
    whose weights are such a file and continues.
    """


class NoDevice(Exception):
    """The device that a worker was given does not compute; its tasks are not at fault (exit 69)."""


class StorageError(Exception):
    """The output folder cannot take more data: full, read-only or gone (exit 74)."""


def sanitize(text: str) -> str:
    """Escape line breaks and control characters, so that a terminal only shows the text.

    >>> sanitize("a\\nb\\x1b[31m")
    'a\\\\nb\\\\x1b[31m'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _shortened(line: str) -> str:
    half = (LONGEST_MESSAGE - 5) // 2
    return line if len(line) <= LONGEST_MESSAGE else f"{line[:half]} ... {line[-half:]}"


def print_error(message: object) -> None:
    """Print to standard error, which a parent process reads; ignores a full disk behind it."""
    with contextlib.suppress(OSError):
        print(message, file=sys.stderr)


_MOST = 400
"""Characters of another library's message that are repeated in one of ours."""


def reason(error: BaseException) -> str:
    """Return the first line of an error's message, or its kind where it has none, for a message."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:_MOST]


def kind_and_reason(error: BaseException) -> str:
    """Return the kind of an error and the first line of its message, for a message."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:_MOST]


def first_of(names: Sequence[str], most: int = 5) -> str:
    """List the first of some names, for a message."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def nearest(value: str, choices: Iterable[str], most: int = 8) -> str:
    """List the choices that are the most similar to a value, for a message."""
    return ", ".join(nearest_first(value, choices)[:most])


def nearest_first(value: str, choices: Iterable[str]) -> list[str]:
    """Sort `choices`, the most similar to `value` first.

    >>> nearest_first("resnet5", ["alexnet", "resnet50", "vgg11"])[0]
    'resnet50'
    """
    rest = sorted(choices)
    lower = {choice.lower(): choice for choice in reversed(rest)}
    close = [lower[m] for m in get_close_matches(value.lower(), lower, n=5, cutoff=0.5)]
    return close + [choice for choice in rest if choice not in close]


def unknown(what: str, value: object, choices: Iterable[str], remedy: str = "") -> UserError:
    """Build the error for a value that is not among the choices: lists them, nearest first."""
    ordered = nearest_first(str(value), choices)
    shown = ", ".join(ordered[:12]) + (
        f", ... ({len(ordered)} in all)" if len(ordered) > 12 else ""
    )
    message = f"unknown {what} {value!r}; choose from: {shown or '(none)'}. {remedy}"
    return UserError(message.strip())
