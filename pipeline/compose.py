"""Hydra at the door: compose the config from `conf/` and overrides, hand it to a command.

Hydra's own flags (`--cfg`, `--help`, `--config-dir`, `-m`, tab completion) keep working; its errors
become messages that offer the nearest valid names.
"""

import dataclasses
import os
import re
import sys
import types
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from pipeline.config import Config, config_folder, make_config
from pipeline.errors import EXIT_OK, UserError, unknown


def with_config(command: Callable[[Config], int], overrides: Sequence[str]) -> int:
    """Compose the config, check it, run the command; returns its exit code.

    Raises:
        UserError: overrides that cannot be parsed, unknown keys or choices, values out of range.
    """
    return max((command(config) for config in _composed(overrides)), default=EXIT_OK)


def _composed(overrides: Sequence[str]) -> list[Config]:
    """What Hydra makes of a command line: mostly one config, none if it was asked for help."""
    import hydra

    configs: list[Config] = []
    raised: list[BaseException] = []

    def task(values: Any) -> None:
        try:
            configs.append(make_config(values))
        except BaseException as error:  # noqa: BLE001 - carried past Hydra, which would print it
            raised.append(error)

    _check_flags(overrides)
    # Hydra reads the command line itself, and hands exceptions on only when asked to.
    sys.argv = [sys.argv[0], *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    _hide_command_from_completion()
    folder = str(config_folder())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            hydra.main(version_base="1.3", config_path=folder, config_name="config")(task)()
        except Exception as error:  # of many kinds: Hydra trips over what it does not expect
            raise _explain(error, overrides) from error
    if raised:
        raise raised[0]
    return configs


def _check_flags(words: Sequence[str]) -> None:
    """Make sure that Hydra knows all flags; it would answer with how it is used."""
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise UserError(
            f"{message}. Settings are KEY=VALUE; `atlas run --help` lists the flags of Hydra."
        )

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    if parser.parse_args(words).experimental_rerun is not None:
        refuse("--experimental-rerun would run code that a file holds")


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
        hint = hints[name]
        keys.append(f"{prefix}{name}")
        union = get_origin(hint) in (Union, types.UnionType)
        for option in get_args(hint) if union else (hint,):
            if dataclasses.is_dataclass(option):
                keys += _keys(option, f"{prefix}{name}.")
    return keys


def _hide_command_from_completion() -> None:
    """Completion is asked for lines such as `atlas run qual`; Hydra must see `atlas qual`."""
    line = os.environ.get("COMP_LINE")
    if line is not None:
        os.environ["COMP_LINE"] = re.sub(r"^(\S+)\s+[a-z]+(\s)", r"\1\2", line, count=1)
