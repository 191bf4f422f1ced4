"""The command line: `atlas COMMAND [Hydra overrides]`, one short function per command."""

import sys
from collections.abc import Callable, Sequence

from pipeline.config import Config
from pipeline.errors import (
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
from pipeline.family import Preempted, leave_when_told
from pipeline.lock import locked
from pipeline.store import OutputFolder, output_folder

OVERVIEW = """\
Layer Atlas: for every channel of every layer, the image that excites it most.

  atlas run        optimise what is missing, then collate; running it again resumes
  atlas plan       what a run would do: models, layers, channels, time, disk
  atlas layers     the layers of the models: name, type, channels, shape, FLOPs
  atlas status     how far an output folder is
  atlas collate    rebuild montages and atlas.h5 from the store alone
  atlas verify     check digests, the atlas, and a sample of activations

Everything else is Hydra overrides, e.g.
  atlas run                                          the demo network, all conv layers
  atlas run models=[resnet50] 'layers=[layer3.0.conv1]' name=resnet50
  atlas plan experiment=squeezenet_local weights=squeezenet1_1.safetensors
  atlas run --cfg job                                the config, without running it
"""


def run(config: Config) -> int:
    """Optimise what is missing, then collate."""
    from pipeline import sweep

    leave_when_told()
    return sweep.run(config)


def plan(config: Config) -> int:
    """Print what a run would do."""
    from pipeline import sweep
    from pipeline.report import plan_table

    print(plan_table(_folder(config), *sweep.prepare_plan(config)))
    return EXIT_OK


def layers(config: Config) -> int:
    """Print the layers of the models."""
    from pipeline.report import layer_table
    from pipeline.survey import survey

    print(layer_table(config, survey(config)))
    return EXIT_OK


def status(config: Config) -> int:
    """Print how far an output folder is."""
    from pipeline.report import status_table

    print(status_table(_folder(config)))
    return EXIT_OK


def collate(config: Config) -> int:
    """Rebuild montages and atlas from the store alone."""
    from pipeline.collate.run import collate
    from pipeline.manifest import read_manifest
    from pipeline.report import summary

    folder = _folder(config)
    read_manifest(folder)
    with locked(folder):
        collate(folder, config.collate, anew=True)
        print(summary(folder))
    return EXIT_OK


def verify(config: Config) -> int:
    """Check digests, the atlas, and a sample of activations."""
    from pipeline.manifest import read_manifest
    from pipeline.verify import verify

    folder = _folder(config)
    manifest = read_manifest(folder)
    with locked(folder):
        return verify(manifest, folder)


def _folder(config: Config) -> OutputFolder:
    return output_folder(config.output_root, config.name)


COMMANDS: dict[str, Callable[[Config], int]] = {
    "run": run,
    "plan": plan,
    "layers": layers,
    "status": status,
    "collate": collate,
    "verify": verify,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
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
    if not argv or argv[0] in ("-h", "help"):
        print(OVERVIEW, end="")
        return EXIT_OK
    command, rest = argv[0], argv[1:]
    if command == "worker":
        from pipeline import worker

        return worker.main(rest)
    if command == "collate-here":
        from pipeline.collate import run as collation

        return collation.main(rest)
    if command.startswith("-"):  # Hydra's own flags, such as tab completion, need no command
        command, rest = "plan", argv
    if command not in COMMANDS:
        raise unknown("command", command, COMMANDS, "`atlas` alone explains them.")
    from pipeline.compose import with_config

    return with_config(COMMANDS[command], rest)


if __name__ == "__main__":
    sys.exit(main())
