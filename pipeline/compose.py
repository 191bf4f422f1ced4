"""Hydra at the door: compose the config from `conf/` and overrides, hand it to a command.

Hydra's own flags (`--cfg`, `--help`, `--config-dir`, `-m`, tab completion) keep working; its errors
become messages that offer the nearest valid names.
"""

import dataclasses
import os
import re
import sys
import types
from collections.abc import Callable, Sequence
from typing import Any, Union, get_args, get_origin, get_type_hints

from pipeline.config import Config, config_folder, make_config
from pipeline.errors import EXIT_OK, UserError, unknown


def with_config(command: Callable[[Config], int], overrides: Sequence[str]) -> int:
    """Compose the config, check it, run the command; returns its exit code.

    Raises:
        UserError: overrides that cannot be parsed, unknown keys or choices, values out of range.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    results: list[int] = []
    raised: list[BaseException] = []

    def task(values: Any) -> None:
        try:
            results.append(command(make_config(values)))
        except BaseException as error:  # noqa: BLE001 - carried past Hydra, which would print it
            raised.append(error)

    # Hydra reads the command line itself, and hands exceptions on only when asked to.
    sys.argv = [sys.argv[0], *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    _hide_command_from_completion()
    folder = str(config_folder())
    try:
        hydra.main(version_base="1.3", config_path=folder, config_name="config")(task)()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise _explain(error) from error
    if raised:
        raise raised[0]
    return max(results, default=EXIT_OK)


def _explain(error: Exception) -> UserError:
    """Hydra's complaint in one message, with the nearest valid names."""
    options = getattr(error, "options", None)
    missing = getattr(error, "missing_cfg_file", None)
    if missing and options is not None:
        group, _, choice = str(missing).removesuffix(".yaml").rpartition("/")
        return unknown(f"{group} choice", choice, options)
    text = str(error)
    key = re.search(r"Could not override '([^'@]+)(@[^']*)?'", text)
    if key and key[1] in config_keys():
        group = key[1].partition(".")[0]
        return UserError(
            f"the chosen {group} has no {key[1]!r}; choose one that has it as well: {group}=..., "
            "before or after it."
        )
    if key:
        return unknown("config key", key[1], config_keys(), "`atlas run --cfg job` shows all.")
    causes = [text, str(error.__cause__ or "")]
    told = " ".join(line.strip() for cause in causes for line in cause.splitlines() if line.strip())
    return UserError(told[:400])


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
