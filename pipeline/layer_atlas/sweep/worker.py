"""The worker: one process on one device that does a bundle of tasks and commits each.

Started as `python -m layer_atlas worker OUTPUT_FOLDER BUNDLE.json`. It reports by its exit code,
the files it commits, a heartbeat file, and its log, in which the reason of a failure comes last.
"""

import faulthandler
import json
import logging
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from layer_atlas.config.records import build
from layer_atlas.errors import (
    EXIT_FAILED_JOBS,
    EXIT_IO,
    EXIT_NO_DEVICE,
    EXIT_OK,
    EXIT_PREEMPTED,
    EXIT_USER_ERROR,
    NoDevice,
    StorageError,
    UserError,
    print_error,
)
from layer_atlas.logs import worker_logging
from layer_atlas.processes import Preempted, die_with_parent, stop_on_signal
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.executors.base import WORKER_COMMAND
from layer_atlas.sweep.heartbeat import Heartbeat
from layer_atlas.sweep.tasks import Bundle, Committer, Drained, open_context
from layer_atlas.sweep.tasks.connections import ConnectionsBundle
from layer_atlas.sweep.tasks.dataset_statistics import ExamplesBundle, JudgeBundle, StatisticsBundle
from layer_atlas.sweep.tasks.optimize import OptimizationBundle
from layer_atlas.visualization.optimization.cuda_graphs import GRAPHS_VARIABLE, CaptureFailed

logger = logging.getLogger(__name__)

BUNDLES: dict[str, type[Bundle]] = {
    "optimize": OptimizationBundle,
    "statistics": StatisticsBundle,
    "examples": ExamplesBundle,
    "judge": JudgeBundle,
    "connections": ConnectionsBundle,
}
"""Kinds of bundles, by the `kind` in the bundle's file."""


def main(argv: Sequence[str]) -> int:
    """Do the bundle that the command line names; returns the exit code."""
    die_with_parent()
    _handle_signals()
    worker_logging()
    folder, path = OutputFolder(Path(argv[0])), Path(argv[1])
    try:
        return attempt(folder, path, Heartbeat(folder.heartbeat(path.stem)), print_error)
    except CaptureFailed as error:
        logger.warning("%s; starting again without CUDA graphs", error)
        _start_again_without_graphs(argv)


def _start_again_without_graphs(argv: Sequence[str]) -> NoReturn:
    """Replace this process by a fresh one, in the same place of its executor."""
    command = [*WORKER_COMMAND, *argv]
    os.execve(command[0], command, {**os.environ, GRAPHS_VARIABLE: "0"})


def attempt(
    folder: OutputFolder,
    path: Path,
    heartbeat: Heartbeat,
    report: Callable[[object], None],
    device: str | None = None,
) -> int:
    """Do a bundle file; returns the exit code by which the driver knows how it ended.

    Args:
        folder: the output folder.
        path: the bundle file.
        heartbeat: of this worker.
        report: prints the reason of a failure, which the driver quotes.
        device: where to compute; default: the first that this process sees.
    Raises:
        CaptureFailed: this process can compute no further on its GPU.
    """
    heartbeat.write()
    try:
        work(folder, path, heartbeat, device)
        return EXIT_OK
    except (Preempted, Drained):  # what was made is written, what was in the making is dropped
        logger.debug("leaving as asked")
        return EXIT_PREEMPTED
    except StorageError as error:
        report(error)  # the driver quotes the last line, so it stands alone
        return EXIT_IO
    except NoDevice as error:
        report(error)
        return EXIT_NO_DEVICE
    except UserError as error:
        report(error)
        return EXIT_USER_ERROR
    except CaptureFailed:  # no fault of the tasks
        raise
    except Exception:  # the driver reads it in the log and tries again
        logger.exception("the bundle failed")
        return EXIT_FAILED_JOBS
    finally:
        heartbeat.write()


def work(folder: OutputFolder, path: Path, heartbeat: Heartbeat, device: str | None = None) -> None:
    """Do and commit every task of a bundle file that is not done yet."""
    values = json.loads(path.read_text())
    heartbeat.facts["kind"] = kind = values.pop("kind")
    bundle = build(BUNDLES[kind], values)
    facts = heartbeat.facts
    logger.debug("process %s on %s: %s, %s", facts["pid"], facts["host"], kind, bundle.plan.label)
    with Committer(heartbeat) as committer:
        bundle.run(open_context(bundle, folder, committer, heartbeat, device))
    logger.debug("done: %.0f units, %.1f s busy", facts["done"], facts["busy"])


def _handle_signals() -> None:
    stop_on_signal()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver handles Ctrl-C
    # Print the stack of a worker that hangs or crashes outside Python.
    faulthandler.enable()
    # Of this thread alone: others keep running, and reading their stacks may crash.
    faulthandler.register(signal.SIGTERM, all_threads=False, chain=True)
