"""The worker: one process on one device that does a bundle of tasks and commits each.

Started as `python -m layer_atlas worker OUTPUT_FOLDER BUNDLE.json`. It reports by its exit code,
the files it commits, a heartbeat file, and its log, in which the reason of a failure comes last.
"""

import faulthandler
import json
import logging
import signal
from collections.abc import Sequence
from pathlib import Path

from layer_atlas.config.records import build
from layer_atlas.errors import (
    EXIT_FAILED_JOBS,
    EXIT_IO,
    EXIT_OK,
    EXIT_PREEMPTED,
    EXIT_USER_ERROR,
    StorageError,
    UserError,
    print_error,
)
from layer_atlas.logs import worker_logging
from layer_atlas.processes import Preempted, die_with_parent, stop_on_signal
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.heartbeat import Heartbeat
from layer_atlas.sweep.tasks import Bundle, Committer, Drained, open_context
from layer_atlas.sweep.tasks.dataset_statistics import ExamplesBundle, StatisticsBundle
from layer_atlas.sweep.tasks.judge import JudgeBundle
from layer_atlas.sweep.tasks.optimize import OptimizationBundle

logger = logging.getLogger(__name__)

BUNDLES: dict[str, type[Bundle]] = {
    "optimize": OptimizationBundle,
    "statistics": StatisticsBundle,
    "examples": ExamplesBundle,
    "judge": JudgeBundle,
}
"""Kinds of bundles, by the `kind` in the bundle's file."""


def main(argv: Sequence[str]) -> int:
    """Do the bundle that the command line names; returns the exit code."""
    die_with_parent()
    _handle_signals()
    worker_logging()
    folder, path = OutputFolder(Path(argv[0])), Path(argv[1])
    heartbeat = Heartbeat(folder.heartbeat(path.stem))
    heartbeat.write()
    try:
        work(folder, path, heartbeat)
        return EXIT_OK
    except (Preempted, Drained):  # what was made is written, what was in the making is dropped
        logger.debug("leaving as asked")
        return EXIT_PREEMPTED
    except StorageError as error:
        print_error(error)  # the driver quotes the last line, so it stands alone
        return EXIT_IO
    except UserError as error:
        print_error(error)
        return EXIT_USER_ERROR
    except Exception:  # the driver reads it in the log and tries again
        logger.exception("the bundle failed")
        return EXIT_FAILED_JOBS
    finally:
        heartbeat.write()


def work(folder: OutputFolder, path: Path, heartbeat: Heartbeat) -> None:
    """Do and commit every task of a bundle file that is not done yet."""
    values = json.loads(path.read_text())
    heartbeat.facts["kind"] = kind = values.pop("kind")
    bundle = build(BUNDLES[kind], values)
    facts = heartbeat.facts
    logger.debug("process %s on %s: %s, %s", facts["pid"], facts["host"], kind, bundle.plan.label)
    with Committer(heartbeat) as committer:
        bundle.run(open_context(bundle, folder, committer, heartbeat))
    logger.debug("done: %.0f units, %.1f s busy", facts["done"], facts["busy"])


def _handle_signals() -> None:
    stop_on_signal()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver handles Ctrl-C
    # Print the stack of a worker that hangs or crashes outside Python.
    faulthandler.enable()
    # Of this thread alone: others keep running, and reading their stacks may crash.
    faulthandler.register(signal.SIGTERM, all_threads=False, chain=True)
