"""The worker: one process on one device that does a bundle of tasks and commits each.

Started as `python -m layer_atlas worker OUTPUT_FOLDER BUNDLE.json`. It reports by its exit code, by
the files it commits, and by a heartbeat file with its progress.
"""

import faulthandler
import json
import signal
import traceback
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
    tell,
)
from layer_atlas.processes import Preempted, die_with_parent, stop_on_signal
from layer_atlas.store.folder import OutputFolder
from layer_atlas.sweep.heartbeat import Heartbeat
from layer_atlas.sweep.tasks.base import Bundle, Committer, Drained, open_context
from layer_atlas.sweep.tasks.dataset_statistics import StatisticsBundle
from layer_atlas.sweep.tasks.examples import ExamplesBundle
from layer_atlas.sweep.tasks.optimize import OptimizationBundle

BUNDLES: dict[str, type[Bundle]] = {
    "optimize": OptimizationBundle,
    "statistics": StatisticsBundle,
    "examples": ExamplesBundle,
}
"""What a worker can be asked to do, by the `kind` of a bundle."""


def main(argv: Sequence[str]) -> int:
    """Do the bundle that the command line names; returns the exit code."""
    die_with_parent()
    _heed_signals()
    folder, path = OutputFolder(Path(argv[0])), Path(argv[1])
    heartbeat = Heartbeat(folder.heartbeat(path.stem))
    heartbeat.write()
    try:
        work(folder, path, heartbeat)
        return EXIT_OK
    except (Preempted, Drained):  # what was made is written, what was in the making is dropped
        return EXIT_PREEMPTED
    except StorageError as error:
        tell(error)
        return EXIT_IO
    except UserError as error:
        tell(error)
        return EXIT_USER_ERROR
    except Exception:  # noqa: BLE001 - the driver reads it in the log and tries again
        traceback.print_exc()
        return EXIT_FAILED_JOBS
    finally:
        heartbeat.write()


def work(folder: OutputFolder, path: Path, heartbeat: Heartbeat) -> None:
    """Do and commit every task of a bundle file that is not done yet."""
    values = json.loads(path.read_text())
    heartbeat.facts["kind"] = kind = values.pop("kind")
    bundle = build(BUNDLES[kind], values)
    with Committer(heartbeat) as committer:
        bundle.run(open_context(bundle, folder, committer, heartbeat))


def _heed_signals() -> None:
    stop_on_signal()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's business
    # A worker that hangs or crashes outside Python says at least where it was.
    faulthandler.enable()
    # Of this thread alone: others go on meanwhile, and looking at their stacks may crash.
    faulthandler.register(signal.SIGTERM, all_threads=False, chain=True)
