"""The command line: `atlas COMMAND [Hydra overrides]`, one short function per command."""

import os
import sys
from collections.abc import Callable, Sequence

from layer_atlas import __version__
from layer_atlas.cli.manual import overview, page
from layer_atlas.config.config import Config
from layer_atlas.errors import (
    EXIT_INTERRUPTED,
    EXIT_IO,
    EXIT_OK,
    EXIT_PREEMPTED,
    EXIT_USER_ERROR,
    FULL,
    StorageError,
    UserError,
    tell,
    unknown,
)
from layer_atlas.processes import Preempted, stop_on_signal
from layer_atlas.store.folder import OutputFolder, output_folder
from layer_atlas.store.lock import locked


def run(config: Config) -> int:
    """Optimise what is missing, then collate."""
    from layer_atlas.sweep import run as sweep

    stop_on_signal()
    return sweep.run(config)


def plan(config: Config) -> int:
    """Print what a run would do."""
    from layer_atlas.sweep import run as sweep
    from layer_atlas.sweep.report.plan import plan_table
    from layer_atlas.sweep.report.tables import say

    planned, devices = sweep.prepare_plan(config)
    say(plan_table(_folder(config), planned, devices))
    return sweep.report_skipped_models(planned.skipped_models)


def layers(config: Config) -> int:
    """Print the layers of the models."""
    from layer_atlas.plan.plan import SkippedModel
    from layer_atlas.sweep import run as sweep
    from layer_atlas.sweep.planning import InspectedModel, inspect_models
    from layer_atlas.sweep.report.layers import layer_table
    from layer_atlas.sweep.report.tables import say

    found = inspect_models(config)
    say(layer_table(config, [each for each in found if isinstance(each, InspectedModel)]))
    return sweep.report_skipped_models([each for each in found if isinstance(each, SkippedModel)])


def status(config: Config, *words: str) -> int:
    """Print how far an output folder is."""
    from layer_atlas.sweep.report.status import status_table
    from layer_atlas.sweep.report.tables import say

    say(status_table(_folder(config), every_layer="all" in words))
    return EXIT_OK


def failures(config: Config, *words: str) -> int:
    """Print which tasks failed, or the full story of some."""
    from layer_atlas.sweep.report.failures import failures_report
    from layer_atlas.sweep.report.tables import say

    say(failures_report(_folder(config), words))
    return EXIT_OK


def retry(config: Config, *words: str) -> int:
    """Have the next run try again what was given up."""
    from layer_atlas.store.manifest import read_manifest
    from layer_atlas.sweep.inspection.failed_tasks import retry
    from layer_atlas.sweep.report.failures import put_back_report
    from layer_atlas.sweep.report.tables import say

    folder = _folder(config)
    manifest = read_manifest(folder)
    with locked(folder):
        say(put_back_report(folder, retry(folder, manifest, words)))
    return EXIT_OK


def collate(config: Config) -> int:
    """Rebuild montages, atlas and site from the store alone."""
    from layer_atlas.presentation.collate import make_atlas
    from layer_atlas.store.manifest import read_manifest
    from layer_atlas.sweep.report.summary import summary
    from layer_atlas.sweep.report.tables import say

    folder = _folder(config)
    read_manifest(folder)
    with locked(folder):
        make_atlas(folder, config.collate)
        say(summary(folder))
    return EXIT_OK


def figure(config: Config) -> int:
    """Draw a figure from the store alone."""
    try:
        from layer_atlas.presentation.figures.make import make_figure
    except ImportError as error:
        raise UserError(f"figures need `pip install 'layer-atlas[figures]'` ({error}).") from None
    from layer_atlas.presentation.collate import ensure_atlas
    from layer_atlas.sweep.report.tables import say

    folder = _folder(config)
    ensure_atlas(folder)
    say("\n".join(make_figure(folder, config.figure)))
    return EXIT_OK


def site(config: Config) -> int:
    """Make the site to browse the atlas with, from the store alone."""
    from layer_atlas.presentation.collate import ensure_atlas
    from layer_atlas.presentation.site.make import make_site

    folder = _folder(config)
    ensure_atlas(folder)
    with locked(folder):
        print(make_site(folder))
    return EXIT_OK


def verify(config: Config) -> int:
    """Check digests, the atlas, and a sample of activations."""
    from layer_atlas.store.manifest import read_manifest
    from layer_atlas.sweep.inspection.verify import verify

    folder = _folder(config)
    read_manifest(folder)
    with locked(folder):
        return verify(config, folder)


def clean(config: Config, *words: str) -> int:
    """Remove what no current plan wants, after showing it."""
    from layer_atlas.store.manifest import read_manifest
    from layer_atlas.sweep.inspection import cleaning
    from layer_atlas.sweep.report.cleaning import cleaning_table
    from layer_atlas.sweep.report.tables import say

    folder = _folder(config)
    manifest = read_manifest(folder)
    with locked(folder):
        found = cleaning.look_through(folder, manifest)
        say(cleaning_table(folder, found))
        if found.removable and ("yes" in words or _agrees()):
            cleaning.remove(folder, found)
            print("removed")
        elif found.removable:
            print(f"nothing is removed; `atlas clean yes {folder.choice}` does it")
    return EXIT_OK


def _agrees() -> bool:
    """Whether somebody at a terminal says so."""
    return sys.stdin.isatty() and input("remove it? [y/N] ").strip().lower() in ("y", "yes")


def _folder(config: Config) -> OutputFolder:
    return output_folder(config.output_root, config.name)


COMMANDS: dict[str, Callable[..., int]] = {
    "run": run,
    "plan": plan,
    "layers": layers,
    "status": status,
    "failures": failures,
    "retry": retry,
    "collate": collate,
    "figure": figure,
    "site": site,
    "verify": verify,
    "clean": clean,
}
WORDS = {"status": ("all",), "failures": None, "retry": None, "clean": ("yes",)}
"""Which words commands take besides overrides; `None`: names that only they know."""

_HELP = ("--help", "-h")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    # A thread that spins while it waits costs those of other processes their cores: on a busy
    # machine planning took ten times as long. Read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        return _dispatch(argv)
    except UserError as error:
        tell(f"error: {error}")
        return EXIT_USER_ERROR
    except StorageError as error:
        tell(f"error: {error}")
        return EXIT_IO
    except OSError as error:  # whatever it was that met the full disk
        if error.errno not in FULL:
            raise
        tell(f"error: {error}")
        return EXIT_IO
    except Preempted:
        return EXIT_PREEMPTED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("help", *_HELP):
        print(overview(), end="")
        return EXIT_OK
    if argv[0] == "--version":
        print(f"layer-atlas {__version__}")
        return EXIT_OK
    command, rest = argv[0], argv[1:]
    if command == "worker":
        from layer_atlas.sweep import worker

        return worker.main(rest)
    if command == "collate-here":
        from layer_atlas.presentation import collate as collation

        return collation.main(rest)
    if command == "compare-here":
        from layer_atlas.atlas import compare

        return compare.main(rest)
    if command.startswith("-"):  # Hydra's own flags, such as tab completion, need no command
        command, rest = "plan", argv
    if command not in COMMANDS:
        raise unknown("command", command, COMMANDS, "`atlas` alone explains them.")
    from layer_atlas.config.compose import with_config

    if any(flag in rest for flag in _HELP):
        print(page(command), flush=True)  # Hydra goes on with the settings
    words, overrides = split_words(command, rest)
    return with_config(lambda config: COMMANDS[command](config, *words), overrides)


def split_words(command: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words among the arguments of a command, and all else, which is for Hydra.

    Raises:
        UserError: the command takes no such word.
    """
    words: list[str] = []
    rest: list[str] = []
    for before, argument in zip(("", *arguments), arguments, strict=False):
        # What follows a flag may be its value: `--config-dir more`.
        is_word = "=" not in argument and argument[:1] not in "-+~" and before[:1] != "-"
        (words if is_word else rest).append(argument)
    if words and command not in WORDS:
        raise UserError(f"`atlas {command}` takes settings such as name=demo, not {words[0]!r}.")
    known = WORDS.get(command) or words
    for word in words:
        if word not in known:
            raise unknown(f"word of `atlas {command}`", word, known, "Settings are key=value.")
    return words, rest


if __name__ == "__main__":
    sys.exit(main())
