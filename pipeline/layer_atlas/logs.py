"""Logging: what a terminal shows, and the timestamped log files of runs and workers.

Every module logs to `logging.getLogger(__name__)`. Importing the package configures nothing. The
command line calls `terminal_logging`, workers `worker_logging`, a run `run_log`.
"""

import contextlib
import logging
import logging.handlers
import os
import re
import sys
import threading
import time
from collections.abc import Container, Iterator
from functools import partial
from pathlib import Path

from layer_atlas.errors import print_error, sanitize, unknown
from layer_atlas.processes import beside

VARIABLE = "LAYER_ATLAS_LOG"
"""Environment variable with the level that the terminal shows, of `LEVELS`."""

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

KEPT_RUNS = 20
"""Logs of runs in an output folder at most; a run removes older ones."""

KEPT_WORKERS = 200
"""Logs of workers at most, besides those that records of failures name."""

RUN_LOG_BYTES = 2_000_000
"""Size at which the log of a run starts a new file; one earlier file is kept beside it."""

logger = logging.getLogger(__name__)

_PACKAGE = "layer_atlas"
_LINE = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_ROUTINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (DEBUG|INFO) ")


class LogFormatter(logging.Formatter):
    """Time, level, logger and message on one line; below it the traceback, if there is one."""

    def __init__(self) -> None:
        super().__init__(_LINE, "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        """Format the record with line breaks and control characters escaped."""
        # A name from a file could otherwise forge a line of the log, or drive the terminal.
        record.message = sanitize(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: object) -> str:  # noqa: N802
        """Format the traceback, line by line escaped."""
        text = super().formatException(ei)  # type: ignore[arg-type]
        return "\n".join(map(sanitize, text.splitlines()))


class TerminalHandler(logging.Handler):
    """Shows records on standard error: as plain messages, with time and logger where verbose."""

    def __init__(self, level: int, verbose: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.threshold, self.verbose = level, verbose
        self.setFormatter(LogFormatter())

    def shows(self, name: str, level: int) -> bool:
        """Whether records of this logger and level reach the terminal."""
        return level >= self.threshold or self.is_verbose(name)

    def is_verbose(self, name: str) -> bool:
        """Whether debug records of this logger are asked for."""
        return any(f"{name}.".startswith(f"{one}." if one else "") for one in self.verbose)

    def filter(self, record: logging.LogRecord) -> bool:
        """Drop what the terminal does not show."""
        return self.shows(record.name, record.levelno) and bool(super().filter(record))

    def format(self, record: logging.LogRecord) -> str:
        """Format a record for people: `warning: the message`."""
        if self.is_verbose(record.name):
            return super().format(record)
        prefix = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        return prefix + sanitize(record.getMessage())

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record, above the progress bar if there is one."""
        # Whoever draws a bar has imported tqdm, which takes a tenth of a second. While another
        # thread is importing it, it is there without its contents.
        bars = getattr(sys.modules.get("tqdm"), "tqdm", None)
        if bars is None:
            print_error(self.format(record))
        else:
            with contextlib.suppress(OSError):
                bars.write(self.format(record), file=sys.stderr)


@contextlib.contextmanager
def terminal_logging(name: str) -> Iterator[None]:
    """Show records on the terminal while a command runs.

    The package's loggers let everything pass, so that the log of a run is complete whatever the
    terminal shows.

    Args:
        name: the lowest level to show, of `LEVELS`.
    """
    root, package = logging.getLogger(), logging.getLogger(_PACKAGE)
    levels = {logger: logger.level for logger in (root, package)}
    handler = TerminalHandler(LEVELS[name], (_PACKAGE,) if name == "debug" else ())
    root.addHandler(handler)
    package.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        root.removeHandler(handler)
        for logger, before in levels.items():
            logger.setLevel(before)


@contextlib.contextmanager
def program_logging() -> Iterator[None]:
    """Show records on standard error while a program of somebody else's uses the package.

    Where the program has handlers of its own that show them, they are left to these.
    """
    root, package = logging.getLogger(), logging.getLogger(_PACKAGE)
    before = package.level
    handler = TerminalHandler(LEVELS[level_name()])
    if root.handlers and root.isEnabledFor(handler.threshold):
        yield
        return
    package.addHandler(handler)
    package.setLevel(min(handler.threshold, package.getEffectiveLevel()))
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(before)


def terminal_shows(name: str, level: int) -> bool:
    """Whether the terminal shows records of a logger."""
    handlers = [*logging.getLogger().handlers, *logging.getLogger(_PACKAGE).handlers]
    return any(h.shows(name, level) for h in handlers if isinstance(h, TerminalHandler))


@contextlib.contextmanager
def step(text: str) -> Iterator[None]:
    """Name what the program is busy with, so that it is never silent for more than two seconds.

    A terminal shows the name with the seconds so far, until the step ends. Where there is none, a
    step that takes longer than two seconds is logged, and again every ten seconds.
    """
    on_terminal = sys.stderr.isatty() and terminal_shows(__name__, logging.INFO)
    with beside(partial(_count_seconds if on_terminal else _log_seconds, text), "step"):
        yield


_SILENT_SECONDS = 2.0
_LINE_SECONDS = 10.0
_COUNT_SECONDS = 0.5


def _log_seconds(text: str, ended: threading.Event) -> None:
    begun, wait = time.monotonic(), _SILENT_SECONDS
    while not ended.wait(wait):
        logger.info("%s, %.0f s so far", text, time.monotonic() - begun)
        wait = _LINE_SECONDS


def _count_seconds(text: str, ended: threading.Event) -> None:
    if ended.wait(_COUNT_SECONDS):
        return
    from tqdm import tqdm

    # Only tqdm knows how to keep lines of the log and a line that changes apart.
    with tqdm(desc=text, bar_format="{desc} [{elapsed}]", leave=False) as line:
        while not ended.wait(_COUNT_SECONDS):
            line.refresh()


def show_debug(*names: str) -> None:
    """Show debug records of these loggers and of those below them; the empty name means all."""
    for name in names:
        logging.getLogger(name).setLevel(logging.DEBUG)
    for handler in logging.getLogger().handlers:
        if isinstance(handler, TerminalHandler):
            handler.verbose += names


def level_name() -> str:
    """Read the name of the level from the environment; default: info.

    Raises:
        UserError: the variable names no level.
    """
    name = os.environ.get(VARIABLE) or "info"
    if name.lower() not in LEVELS:
        raise unknown(VARIABLE, name, LEVELS)
    return name.lower()


def worker_logging() -> None:
    """Log everything to standard error, which is a worker's log file, until the process ends."""
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter())
    logging.getLogger().addHandler(handler)
    logging.getLogger(_PACKAGE).setLevel(logging.DEBUG)


def child_logging() -> None:
    """Print warnings plainly to standard error, for a parent process that logs them itself."""
    logging.basicConfig(format="%(message)s")


def without_routine(text: str) -> str:
    """Drop the debug and info lines of a log; the rest explains a failure."""
    return "\n".join(line for line in text.splitlines() if not _ROUTINE.match(line))


# --- the log files of an output folder -----------------------------------------------------------


@contextlib.contextmanager
def run_log(logs: Path) -> Iterator[None]:
    """Write `run-<time>.log` while a run is at work, and how it ended if it was broken off.

    It holds what the loggers let pass: all records of the package under the command line, as much
    as a program of one's own sets otherwise.
    """
    handler = _RunLog(
        logs / time.strftime("run-%Y%m%d-%H%M%S.log"),
        maxBytes=RUN_LOG_BYTES,
        backupCount=1,
        encoding="utf-8",
        errors="backslashreplace",
        delay=True,
    )
    handler.setFormatter(LogFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    except BaseException as error:
        # To the file alone: the command line shows the error itself.
        ended = "the run ended by %s: %s", (type(error).__name__, error)
        record = root.makeRecord(__name__, logging.ERROR, "", 0, *ended, sys.exc_info())
        handler.handle(record)
        raise
    finally:
        root.removeHandler(handler)
        with contextlib.suppress(OSError):
            handler.close()


class _RunLog(logging.handlers.RotatingFileHandler):
    """A log file on a disk that may be full: the next commit meets that and reports it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Report what is no fault of the disk."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


def remove_old_logs(logs: Path, needed: Container[str]) -> None:
    """Remove the oldest logs, so that a folder of a thousand runs stays small.

    Args:
        logs: the folder.
        needed: names of logs to keep in any case.
    """
    for pattern, most in (("run-*.log*", KEPT_RUNS), ("worker-*.log", KEPT_WORKERS)):
        for path in _newest_first(logs, pattern)[most:]:
            if path.name not in needed:
                path.unlink(missing_ok=True)


def latest_logs(logs: Path) -> list[Path]:
    """List the log of the latest run and those that its workers have written since."""
    runs = _newest_first(logs, "run-*.log*")
    if not runs:
        return []
    name = runs[0].name.partition(".log")[0]
    with contextlib.suppress(ValueError):
        begun = time.mktime(time.strptime(name, "run-%Y%m%d-%H%M%S"))
        workers = (p for p in _newest_first(logs, "worker-*.log") if _modified(p) >= begun)
        return [*(path for path in runs if path.name.startswith(name)), *workers]
    return runs[:1]


def _newest_first(logs: Path, pattern: str) -> list[Path]:
    return sorted(logs.glob(pattern), key=lambda path: (_modified(path), path.name), reverse=True)


def _modified(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:  # removed meanwhile
        return 0.0
