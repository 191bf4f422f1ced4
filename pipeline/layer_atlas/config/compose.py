"""Hydra at the door: compose the config from `conf/` and overrides, hand it to a command.

Composing runs nothing that a config names. Hydra's own flags (`--cfg`, `--help`, `--config-dir`,
`-m`, tab completion) keep working; its errors become messages that offer the nearest valid names.
"""

import argparse
import contextlib
import dataclasses
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any, NoReturn, get_type_hints

from layer_atlas.config.config import Config, config_folder, make_config
from layer_atlas.config.records import records_of
from layer_atlas.errors import EXIT_OK, UserError, unknown

_SHOWING = (
    *("--cfg", "-c", "--resolve", "--package", "-p", "--info", "-i"),
    *("--help", "-h", "--hydra-help", "--version", "--shell-completion", "-sc"),
)
"""Flags of Hydra that have it show something, and run nothing."""


def with_config(command: Callable[[Config], int], arguments: Sequence[str]) -> int:
    """Compose the config, check it, run the command; returns its exit code.

    Args:
        command: given the config; with `-m` each of several in turn.
        arguments: overrides, and flags of Hydra.
    Raises:
        UserError: overrides that cannot be parsed, unknown keys or choices, values out of range.
    """
    flags, rest = _parsed(arguments)
    with _explained(rest):
        rest += _further_files(flags.config_dir, rest)
        if any(argument.startswith("-") for argument in rest):
            _show(rest)
            return EXIT_OK
        # All are composed before the first is run.
        configs = [_composed(overrides) for overrides in _jobs(rest, flags.multirun)]
    return max(map(command, configs), default=EXIT_OK)


def _parsed(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """What is dealt with here, and the rest: overrides, and flags that have Hydra show something.

    Raises:
        UserError: another flag. Some would have Hydra run what a file names.
    """
    parser = argparse.ArgumentParser(prog="atlas COMMAND", add_help=False, allow_abbrev=False)
    parser.error = _refuse  # type: ignore[method-assign]
    parser.add_argument("--config-dir", "-cd", metavar="FOLDER")
    parser.add_argument("--multirun", "-m", action="store_true")
    known, rest = parser.parse_known_args(arguments)
    for argument in rest:
        flag = argument.partition("=")[0]
        if flag.startswith("-") and flag not in _SHOWING:
            raise unknown("flag", flag, ("--config-dir", "--multirun", "-m", *_SHOWING))
    return known, rest


def _further_files(folder: str | None, overrides: Sequence[str]) -> list[str]:
    from layer_atlas.config.config_source import address, refuse_hydra

    refuse_hydra(overrides)
    return [] if folder is None else [address(folder)]


def _show(arguments: Sequence[str]) -> None:
    import hydra
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    parser.parse_args(arguments)
    # Hydra reads the command line itself, and hands exceptions on only when asked to.
    sys.argv = [sys.argv[0], *arguments]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    _hide_command_from_completion()
    folder = str(config_folder())
    hydra.main(version_base="1.3", config_path=folder, config_name="config")(print)()


def _refuse(message: str) -> NoReturn:
    """What a parser of flags does instead of telling how it is used."""
    told = f"{message}. Settings are KEY=VALUE; `atlas run --help` lists the flags of Hydra."
    raise UserError(told)


def _jobs(overrides: Sequence[str], several: bool) -> Iterator[list[str]]:
    """The overrides of each job: with `-m`, of every combination of values (`seeds=[0],[1]`)."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not several:
        yield list(overrides)
        return
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_discrete_sweep()
        else [line]
        for line, override in zip(overrides, parsed, strict=True)
    ]
    yield from map(list, product(*choices))


def _composed(overrides: Sequence[str]) -> Config:
    # Not `hydra.main`, which runs what `hydra.callbacks` and `hydra.job_logging` name.
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return make_config(compose("config", overrides=list(overrides)))


@contextlib.contextmanager
def _explained(overrides: Sequence[str]) -> Iterator[None]:
    """Turn what Hydra raises into one message; keep what it warns of to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # of many kinds: Hydra trips over what it does not expect
            raise _explain(error, overrides) from error


def _explain(error: Exception, overrides: Sequence[str]) -> UserError:
    """Hydra's complaint in one message, with the nearest valid names."""
    from hydra.errors import OverrideParseException

    options = getattr(error, "options", None)
    missing = getattr(error, "missing_cfg_file", None)
    if missing and options is not None:
        group, _, choice = str(missing).removesuffix(".yaml").rpartition("/")
        return unknown(f"{group.strip('/')} choice", choice, options)
    key = re.search(r"Could not override '([^'@]+)(@[^']*)?'", str(error))
    if key and (key[1] not in config_keys() or "." in key[1]):
        return _no_such_key(key[1])
    told = f"{str(error) or type(error).__name__} {error.__cause__ or ''}".strip()
    if isinstance(error, OverrideParseException):
        remedy = "Put a value that holds special characters in quotes of its own: 'KEY=\"VALUE\"'."
        return UserError(f"{error.override!r} cannot be understood: {told}. {remedy}")
    return UserError(f"no config can be made of {' '.join(overrides)!r}: {told}")


def _no_such_key(key: str) -> UserError:
    """A key that is in no config, or not in this one."""
    if key not in config_keys():
        return unknown("config key", key, config_keys(), "`atlas run --cfg job` shows all.")
    group = key.partition(".")[0]
    return UserError(
        f"the chosen {group} has no {key!r}; choose one that has it as well: {group}=..., before "
        "or after it."
    )


def config_keys() -> list[str]:
    """Every dotted key of the config, of every choice of every group."""
    return sorted(set(_keys(Config, "")) | {"quality", "pace", "experiment", "montage"})


def _keys(cls: Any, prefix: str) -> list[str]:
    keys: list[str] = []
    hints = get_type_hints(cls)
    for name in (field.name for field in dataclasses.fields(cls)):
        keys.append(f"{prefix}{name}")
        for record in records_of(hints[name]):
            keys += _keys(record, f"{prefix}{name}.")
    return keys


def _hide_command_from_completion() -> None:
    """Completion is asked for lines such as `atlas run qual`; Hydra must see `atlas qual`."""
    line = os.environ.get("COMP_LINE")
    if line is not None:
        os.environ["COMP_LINE"] = re.sub(r"^(\S+)\s+[a-z]+(\s)", r"\1\2", line, count=1)
