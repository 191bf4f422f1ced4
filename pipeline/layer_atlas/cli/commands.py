"""The command line: `atlas COMMAND [file.yaml] [Hydra overrides]`, one short function per command.

Results go to standard output, everything else to the log, which the terminal shows.
"""

import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from layer_atlas import __version__
from layer_atlas.cli.help import command_help, overview
from layer_atlas.config.config import Config, ModelConfig
from layer_atlas.config.executors import LocalSettings
from layer_atlas.config.inputs import user_file, user_path
from layer_atlas.config.records import list_choices
from layer_atlas.errors import (
    EXIT_FAILED_JOBS,
    EXIT_INTERRUPTED,
    EXIT_IO,
    EXIT_OK,
    EXIT_PREEMPTED,
    EXIT_USER_ERROR,
    FULL,
    StorageError,
    UserError,
    sanitize,
    unknown,
)
from layer_atlas.logs import child_logging, level_name, step, terminal_logging
from layer_atlas.processes import Preempted, stop_on_signal
from layer_atlas.store.folder import OutputFolder, output_folder
from layer_atlas.store.lock import locked
from layer_atlas.store.manifest import read_manifest, runs_in
from layer_atlas.sweep.executors.warm import (
    declare_command,
    fork_warm_parent,
    import_for_workers,
)

logger = logging.getLogger(__name__)


def print_result(text: str) -> None:
    """Print what a command was asked for to standard output, control characters escaped."""
    print("\n".join(sanitize(line) for line in text.split("\n")))


def run(config: Config) -> int:
    """Optimize what is missing, then collate."""
    with step("loading PyTorch"):
        from layer_atlas.sweep import run as sweep

        import_for_workers()
    if isinstance(config.executor, LocalSettings):
        fork_warm_parent()  # after the step, which has a thread of its own
    stop_on_signal()
    result = sweep.run(config)
    from layer_atlas.cli.tables import summary, workers_left

    if result.workers_left:
        print_result(workers_left(result.folder, result.workers_left))
    elif result.is_collated:
        print_result(summary(result.folder))
    if result.exit_code == EXIT_FAILED_JOBS:
        from layer_atlas.cli.status import causes_of_failures

        if causes := causes_of_failures(result.folder):
            print_result(causes)
    elif result.exit_code == EXIT_INTERRUPTED:
        from layer_atlas.cli.status import progress

        print_result(f"{progress(result.folder)}; the same command again goes on from here")
    return result.exit_code


def plan(config: Config) -> int:
    """Print what a run would do."""
    begun = time.monotonic()
    with step("loading PyTorch"):
        from layer_atlas.cli.tables import plan_table
        from layer_atlas.sweep import run as sweep

    planned, devices = sweep.prepare_plan(config)
    print_result(plan_table(_folder(config), planned, devices, time.monotonic() - begun))
    return sweep.report_skipped_models(planned.skipped_models)


def layers(config: Config) -> int:
    """Print the layers of the models."""
    with step("loading PyTorch"):
        from layer_atlas.cli.tables import layer_table
        from layer_atlas.plan.plan import SkippedModel
        from layer_atlas.sweep import run as sweep
        from layer_atlas.sweep.planning import InspectedModel, inspect_models

    # Layers do not depend on weights, and published ones would be downloaded.
    without = tuple(map(_without_download, config.models))
    models = inspect_models(replace(config, models=without))
    inspected = [model for model in models if isinstance(model, InspectedModel)]
    print_result(layer_table(config, inspected))
    return sweep.report_skipped_models([m for m in models if isinstance(m, SkippedModel)])


def _without_download(model: ModelConfig) -> ModelConfig:
    is_published = model.weights == "default" and model.target is None and model.name != "demo"
    return replace(model, weights="none") if is_published else model


def objectives(config: Config) -> int:
    """Print the objectives and their settings."""
    print_result(list_choices("objective"))
    return EXIT_OK


def parameterizations(config: Config) -> int:
    """Print the parameterizations and their settings."""
    print_result(list_choices("parameterization"))
    return EXIT_OK


def status(config: Config, *words: str) -> int:
    """Print the progress of an output folder."""
    from layer_atlas.cli.status import status_table

    print_result(status_table(_folder(config), every_layer="all" in words))
    return EXIT_OK


def failures(config: Config, *words: str) -> int:
    """Print which tasks failed, or every attempt at some of them."""
    from layer_atlas.cli.status import failures_report

    print_result(failures_report(_folder(config), words))
    return EXIT_OK


def retry(config: Config, *words: str) -> int:
    """Take tasks out of quarantine, so that the next run tries them again."""
    from layer_atlas.cli.status import retry_report
    from layer_atlas.sweep.failed_tasks import retry

    folder = _folder(config)
    manifest = read_manifest(folder)
    with locked(folder):
        print_result(retry_report(folder, retry(folder, manifest, words)))
    return EXIT_OK


def collate(config: Config) -> int:
    """Rebuild montages, atlas and site from the store alone."""
    from layer_atlas.cli.tables import summary
    from layer_atlas.presentation.collate import make_atlas

    folder = _folder(config)
    read_manifest(folder)
    with locked(folder):
        make_atlas(folder, config.collate)
        print_result(summary(folder))
    return EXIT_OK


def figure(config: Config) -> int:
    """Draw a figure from the store alone."""
    try:
        from layer_atlas.presentation.figures.make import make_figure
    except ImportError as error:
        raise UserError(f"figures need `pip install 'layer-atlas[figures]'` ({error}).") from None
    from layer_atlas.presentation.collate import ensure_atlas

    folder = _folder(config)
    ensure_atlas(folder)
    with step("drawing the figure"):
        paths = make_figure(folder, config.figure)
    print_result("\n".join(paths))
    return EXIT_OK


def compare(config: Config, *words: str) -> int:
    """Compare the channels of two runs, or of two models of a run, from their stores alone."""
    from layer_atlas.cli.compare import compare_report

    print_result(compare_report(config, words))
    return EXIT_OK


def site(config: Config) -> int:
    """Make the site to browse the atlas with, from the store alone."""
    from layer_atlas.presentation.collate import ensure_atlas, site_settings
    from layer_atlas.presentation.site.make import make_site, take_notes

    folder = _folder(config)
    ensure_atlas(folder)
    with locked(folder):
        if config.notes is not None:
            take_notes(folder, user_file(config.notes, "the file of notes"))
        settings = site_settings(folder, config.collate)
        print_result(str(make_site(folder, settings.names, settings.map)))
    return EXIT_OK


def export(config: Config, *words: str) -> int:
    """Write the atlas as a table and image files for other tools."""
    from layer_atlas.presentation.collate import ensure_atlas, site_settings
    from layer_atlas.presentation.export import check_export, export_atlas, has_export

    folder = _folder(config)
    chosen = config.export.folder
    target = user_path(chosen, "export.folder") if chosen else folder.export
    asks = has_export(target) and "yes" not in words
    may_replace = not asks or _confirmed(f"replace the export in {str(target)!r}?")
    check_export(target, config.export, may_replace)
    ensure_atlas(folder)
    with locked(folder), step("exporting"):
        names = site_settings(folder, config.collate).names
        print_result(export_atlas(folder.atlas, target, config.export, names))
    return EXIT_OK


def label(config: Config) -> int:
    """Propose labels for channels by an encoder of images and texts, and search by words."""
    with step("loading PyTorch"):
        from layer_atlas.presentation.label import label_run

    print_result(label_run(_folder(config), config.labels))
    return EXIT_OK


def verify(config: Config, *words: str) -> int:
    """Check digests, the atlas, and a sample of activations."""
    with step("loading PyTorch"):
        from layer_atlas.cli.tables import verification_report
        from layer_atlas.sweep.verify import code_only_in_manifest, verify

    folder = _folder(config)
    manifest = read_manifest(folder)
    code = code_only_in_manifest(config, manifest)
    with locked(folder):
        found = verify(folder, () if _may_run(code, words) else code)
    print_result(verification_report(found.notes, found.problems))
    return EXIT_FAILED_JOBS if found.problems else EXIT_OK


def clean(config: Config, *words: str) -> int:
    """Remove files that the current plan does not need, after listing them."""
    from layer_atlas.cli.tables import cleaning_table
    from layer_atlas.sweep import cleaning

    folder = _folder(config)
    manifest = read_manifest(folder)
    with locked(folder):
        found = cleaning.look_through(folder, manifest)
        print_result(cleaning_table(folder, found))
        if found.removable and ("yes" in words or _confirmed("remove it?")):
            cleaning.remove(folder, found)
            print_result("removed")
        elif found.removable:
            print_result(f"nothing is removed; `atlas clean yes {folder.choice}` does it")
    return EXIT_OK


def _may_run(code: Sequence[str], words: Sequence[str]) -> bool:
    """Whether user code of a run may be executed; modules in memory of a program are gone."""
    if any(name.startswith("memory:") for name in code):
        return False
    return not code or "yes" in words or _confirmed(f"this runs {', '.join(code)}; do so?")


def _confirmed(question: str) -> bool:
    """Whether the user at the terminal, if there is one, confirms."""
    if not sys.stdin.isatty():
        return False
    return input(f"{sanitize(question)} [y/N] ").strip().lower() in ("y", "yes")


def _folder(config: Config) -> OutputFolder:
    return output_folder(config.output_root, config.name)


def _with_only_run(config: Config) -> Config:
    """Name the run of a command that reads one and was given no `name`.

    Raises:
        UserError: there are several, or none.
    """
    runs = runs_in(Path(config.output_root).expanduser())
    if len(runs) > 1:
        raise UserError(
            f"there are several runs in {config.output_root!r}; choose one with name=... (the "
            f"newest first: {', '.join(runs)})."
        )
    return replace(config, name=runs[0]) if runs else config


_COMMANDS: Sequence[Callable[..., int]] = (
    *(run, plan, layers, objectives, parameterizations, status, failures, retry, collate, figure),
    *(compare, site, export, label, verify, clean),
)
COMMANDS = {command.__name__: command for command in _COMMANDS}
"""The commands by their names."""

_MAKING = ("run", "plan")
"""Commands whose `name` may be that of a new run."""

_READING = ("status", "failures", "retry", "collate", "figure", "site", "export", "label", "verify")
"""Commands that take the only run where no name is given; `clean`, which removes files, does not.
"""

_SLOW = ("run", "plan", "layers", "compare", *_READING[3:])
"""Commands that begin with a line that names their subject."""

WORDS = {
    "status": ("all",),
    "failures": None,
    "retry": None,
    "compare": None,
    "export": ("yes",),
    "verify": ("yes",),
    "clean": ("yes",),
}
"""Words that commands take besides overrides; `None`: names that the command looks up."""

_HELP = ("--help", "-h")
_VERBOSITY = {"-v": "debug", "--verbose": "debug", "-q": "warning", "--quiet": "warning"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    if argv is None:  # as the command line calls it, not as a function of a program
        declare_command()
    argv = list(sys.argv[1:] if argv is None else argv)
    # A thread that spins while it waits takes cores from other processes: on a busy machine
    # planning took ten times as long. The variable is read once, when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if argv[:1] and argv[0] in _CHILDREN:
        return _CHILDREN[argv[0]](argv[1:])
    try:
        level, argv = _verbosity(argv)
    except UserError as error:
        with terminal_logging("info"):
            logger.error("%s", error)
        return EXIT_USER_ERROR
    with terminal_logging(level):
        return _exit_code(lambda: _dispatch(argv))


def _exit_code(command: Callable[[], int]) -> int:
    """Run a command; logs what went wrong, at debug level with a traceback."""
    try:
        return command()
    except (UserError, StorageError) as error:
        logger.error("%s", error)
        logger.debug("raised here", exc_info=True)
        return EXIT_USER_ERROR if isinstance(error, UserError) else EXIT_IO
    except OSError as error:  # anything may meet the full disk
        if error.errno not in FULL:
            raise
        logger.error("%s", error)
        return EXIT_IO
    except Preempted:
        return EXIT_PREEMPTED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _verbosity(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Split off `-v` and `-q`; returns the level that they name, and the other arguments.

    Raises:
        UserError: both are given, or the environment variable names no level.
    """
    levels = {_VERBOSITY[argument] for argument in argv if argument in _VERBOSITY}
    if len(levels) > 1:
        raise UserError("-v asks for more and -q for less; take one of them.")
    level = levels.pop() if levels else level_name()
    return level, [argument for argument in argv if argument not in _VERBOSITY]


def _dispatch(argv: list[str]) -> int:
    if "--version" in argv:
        print_result(f"layer-atlas {__version__}")
        return EXIT_OK
    if not argv or argv[0] in ("help", *_HELP):
        print_result(overview())
        return EXIT_OK
    command, rest = argv[0], argv[1:]
    if command.startswith("-"):  # Hydra's own flags, such as tab completion, need no command
        command, rest = "plan", argv
    if command not in COMMANDS:
        raise unknown("command", command, COMMANDS, "`atlas` alone explains them.")
    from layer_atlas.config.compose import with_config

    if any(flag in rest for flag in _HELP):
        print(command_help(command), flush=True)
        if "settings" not in rest:
            return EXIT_OK
        rest.remove("settings")  # Hydra continues with them
    words, overrides = split_words(command, rest)

    def begin(config: Config) -> int:
        if command in _SLOW:
            logger.info("atlas %s: %s", command, _subject(command, config, words))
        return COMMANDS[command](config, *words)

    unnamed = _with_only_run if command in _READING else None
    if command == "compare":
        unnamed = partial(_with_run_of_models, words)
    return with_config(begin, overrides, apart=command in _MAKING, unnamed=unnamed)


def _with_run_of_models(words: Sequence[str], config: Config) -> Config:
    """Name the run of a comparison whose words name no runs, and so models. Raises UserError."""
    from layer_atlas.cli.compare import find_run

    of_runs = any(find_run(config.output_root, word) for word in words)
    return config if of_runs or not words else _with_only_run(config)


def _subject(command: str, config: Config, words: Sequence[str]) -> str:
    """What a command is about: a run and its folder, models, or two of either."""
    if command == "compare":
        return " and ".join(words[:2])
    if command == "layers":
        return ", ".join(model.title for model in config.models)
    return f"{config.name}, in {Path(config.output_root) / config.name}"


def split_words(command: str, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split the arguments of a command into its own words and what is for Hydra.

    Raises:
        UserError: the command takes no such word.
    """
    from layer_atlas.config.compose import is_file

    words: list[str] = []
    rest: list[str] = []
    for before, argument in zip(("", *arguments), arguments, strict=False):
        # What follows a flag may be its value: `--config-dir more`.
        is_word = "=" not in argument and argument[:1] not in "-+~" and before[:1] != "-"
        (words if is_word and not is_file(argument) else rest).append(argument)
    if words and command not in WORDS:
        raise UserError(
            f"`atlas {command}` takes a YAML file and settings such as name=demo, not {words[0]!r}."
        )
    known = WORDS.get(command) or words
    for word in words:
        if word not in known:
            raise unknown(f"word of `atlas {command}`", word, known, "Settings are key=value.")
    return words, rest


# --- inner commands, which the package starts as processes of their own --------------------------


def _worker(argv: list[str]) -> int:
    from layer_atlas.sweep import worker

    return worker.main(argv)


def _collate_here(argv: list[str]) -> int:
    from layer_atlas.presentation import collate

    child_logging()
    return collate.main(argv)


def _compare_here(argv: list[str]) -> int:
    from layer_atlas.atlas import hdf5 as compare

    child_logging()
    return compare.main(argv)


_CHILDREN: dict[str, Callable[[list[str]], int]] = {
    "worker": _worker,
    "collate-here": _collate_here,
    "compare-here": _compare_here,
}


if __name__ == "__main__":
    sys.exit(main())
