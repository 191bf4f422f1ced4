"""Hydra at the door: compose the config from `conf/`, files and overrides, hand it to a command.

Composing executes nothing that a config names. Hydra's own settings and flags (`--cfg`, `--help`,
`--config-dir`, `-m`, `hydra.verbose`, tab completion) keep working; its errors become messages that
offer the nearest valid names.
"""

import argparse
import contextlib
import dataclasses
import logging
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, get_type_hints

from layer_atlas.config.config import Config, config_folder, make_config
from layer_atlas.config.records import records_of
from layer_atlas.errors import EXIT_OK, UserError, unknown
from layer_atlas.logs import show_debug, step

if TYPE_CHECKING:
    from layer_atlas.config.config_source import OwnSettings

logger = logging.getLogger(__name__)

_SHOWING = (
    *("--cfg", "-c", "--resolve", "--package", "-p", "--info", "-i"),
    *("--help", "-h", "--hydra-help", "--shell-completion", "-sc"),
)
"""Flags with which Hydra prints something and runs nothing."""

_HONOURED = ("verbose", "mode", "searchpath", "sweeper", "help", "hydra_help", "callbacks")
"""Settings of Hydra that have an effect, or are refused."""

_HARMLESS = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra._internal.core_plugins.basic_sweeper.BasicSweeper",
    *("logging.StreamHandler", "colorlog.ColoredFormatter"),
)
"""Callables that Hydra's own choices of launcher, sweeper and logging name; none writes a file."""


def with_config(
    command: Callable[[Config], int],
    arguments: Sequence[str],
    *,
    apart: bool = False,
    unnamed: Callable[[Config], Config] | None = None,
) -> int:
    """Compose the config, check it, run the command; returns its exit code.

    Args:
        command: takes the config; with `-m` it runs for each of several in turn.
        arguments: overrides, flags of Hydra, and at most one YAML file of the user's own.
        apart: whether configs of one `name` are given names of their own, as Hydra's jobs have
            folders of their own.
        unnamed: completes a config whose `name` nobody has chosen.
    Raises:
        UserError: overrides that cannot be parsed, unknown keys or choices, values out of range.
    """
    flags, rest = _parsed(arguments)
    shows = any(argument.startswith("-") for argument in rest)
    # Hydra takes seconds on a slow machine. What it prints itself needs no word before it.
    busy: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
    if not shows:
        busy = step("reading the settings")
    with busy, _explained(rest, str(flags.file) if flags.file else ""):
        from layer_atlas.config.config_source import extended_search_path, settings_of_file

        own = settings_of_file(flags.file) if flags.file else None
        request = _request(flags, rest, own)
        with extended_search_path(request.folders, own):
            if shows:
                _show(request)
                return EXIT_OK
            # All are composed before the first is run.
            jobs = list(_jobs(request))
            configs = [_composed(request, overrides, flags.file) for overrides in jobs]
    _warn_of_idle(request.hydra)
    if apart:
        configs = _with_own_names(configs, jobs)
    if unnamed is not None:
        configs = [config if _is_named(config, request) else unnamed(config) for config in configs]
    return max(map(command, configs), default=EXIT_OK)


def _is_named(config: Config, request: "_Request") -> bool:
    """Whether the command line, a file or an experiment chose the name."""
    by_override = any(re.match(r"[+~]*name=", line) for line in request.overrides)
    # An experiment may choose one too.
    return by_override or "name" in request.own_keys or config.name != _DEFAULT_NAME


def _with_own_names(configs: Sequence[Config], jobs: Sequence[Sequence[str]]) -> list[Config]:
    """Add to names that several configs share what they differ in: `demo_draft`, `demo_paper`.

    A sweep of the same name would replace the atlas of the one before.

    Args:
        configs: of all jobs.
        jobs: the overrides of each, with the same keys.
    Raises:
        UserError: that makes no names that differ.
    """
    if len({(config.output_root, config.name) for config in configs}) == len(configs):
        return list(configs)
    columns = [lines for lines in zip(*jobs, strict=True) if len(set(lines)) > 1]
    columns = [lines for lines in columns if not lines[0].startswith("name=")]
    values = [[line.partition("=")[2] for line in lines] for lines in columns]
    names = [
        "_".join([config.name, *(re.sub(r"[^\w.]+", "-", value).strip("-") for value in own)])
        for config, *own in zip(configs, *values, strict=True)
    ]
    alike = [name for name, count in Counter(names).items() if count > 1 or len(name) > _LONGEST]
    if alike:
        raise UserError(
            f"the {len(configs)} sweeps of -m need names of their own, and their settings give "
            f"{alike[0][:_LONGEST]!r}: run them one by one, each with name=..."
        )
    return [
        dataclasses.replace(config, name=name) for config, name in zip(configs, names, strict=True)
    ]


_DEFAULT_NAME = "demo"
_LONGEST = 80
"""Characters of a name."""


def compose(settings: Mapping[str, Any], file: str | Path | None = None) -> Config:
    """Compose the config of settings that are given in Python, and check it.

    Args:
        settings: as a YAML file has them: plain data, a choice of a group by its name, or as a
            mapping with the name. A key may be dotted: `optimizer.steps`.
        file: a YAML file that the settings override.
    Raises:
        UserError: unknown keys or choices, values out of range, or no such file.
    """
    with _explained([], str(file or "")):
        from layer_atlas.config.config_source import (
            OWN,
            OwnSettings,
            extended_search_path,
            settings_of_file,
        )

        if file is not None and not Path(file).is_file():
            raise UserError(f"config file {str(file)!r} does not exist.")
        base = OwnSettings("the settings", {}) if file is None else settings_of_file(Path(file))
        values = _merged(base.values, _nested(settings))
        _check_keys("" if file is None else f"It is in {base.where}.", values)
        own = dataclasses.replace(base, values=values)
        with extended_search_path([str(base.folder)] if base.folder else [], own):
            keys = frozenset(base.values) - _nested(settings).keys()
            request = _Request(OWN, [], [], False, [], keys)
            return _composed(request, [], None if file is None else Path(file))


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Write dotted keys as mappings within mappings."""
    nested: dict[str, Any] = {}
    for key, value in settings.items():
        value = _nested(value) if isinstance(value, Mapping) else value
        for part in reversed(str(key).split(".")[1:]):
            value = {part: value}
        nested = _merged(nested, {str(key).split(".")[0]: value})
    return nested


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings within mappings; other values of `over` replace those of `base`."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


@dataclasses.dataclass(frozen=True)
class _Request:
    """What is to be composed."""

    primary: str
    """Name of the primary config."""
    overrides: list[str]
    """Overrides, and flags with which Hydra prints something."""
    folders: list[str]
    """Where else config files are looked for."""
    several: bool
    """Whether values such as `seeds=[0],[1]` are several jobs."""
    hydra: list[str]
    """Keys of Hydra's own settings that are set."""
    own_keys: frozenset[str]
    """Keys that a file of the user's own sets."""


# --- the command line ----------------------------------------------------------------------------


def _parsed(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split off what is handled here; the rest are overrides and flags of `_SHOWING`.

    Raises:
        UserError: another flag, some of which would execute what a file names; or two files.
    """
    parser = argparse.ArgumentParser(prog="atlas COMMAND", add_help=False, allow_abbrev=False)
    parser.error = _refuse  # type: ignore[method-assign]
    parser.add_argument("--config-dir", "-cd", metavar="FOLDER")
    parser.add_argument("--config-path", "-cp", metavar="FOLDER")
    parser.add_argument("--config-name", "-cn", metavar="NAME")
    parser.add_argument("--multirun", "-m", action="store_true")
    known, rest = parser.parse_known_args(arguments)
    for argument in rest:
        flag = argument.partition("=")[0]
        if flag.startswith("-") and flag not in _SHOWING:
            handled = ("--config-dir", "--config-path", "--config-name", "--multirun", "-m")
            raise unknown("flag", flag, (*handled, *_SHOWING))
    files = [argument for argument in rest if is_file(argument)]
    if len(files) > 1:
        raise UserError(
            f"one config file at a time, not {', '.join(files)}; a file can extend others by its "
            "defaults list."
        )
    known.file = _own_file(known, files)
    return known, [argument for argument in rest if argument not in files]


def is_file(argument: str) -> bool:
    """Whether an argument names a YAML file, as in `atlas run my.yaml`."""
    return argument.endswith((".yaml", ".yml")) and "=" not in argument and argument[0] not in "-+~"


def _own_file(flags: argparse.Namespace, files: Sequence[str]) -> Path | None:
    """Find the file that is named by itself or by `--config-name`. Raises UserError."""
    if files:
        path = Path(files[0])
        if not path.is_file():
            raise UserError(f"config file {files[0]!r} does not exist.")
        return path
    name = flags.config_name
    folders = [Path(folder) for folder in (flags.config_path, flags.config_dir) if folder]
    if name is None or (name == "config" and not folders):
        return None
    folders = folders or [Path()]
    for path in (folder / file for folder in folders for file in (name, f"{name}.yaml")):
        if path.is_file():
            return path
    there = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    raise unknown("--config-name", name, there, "It names a YAML file in --config-path.")


def _refuse(message: str) -> NoReturn:
    """Raise what the parser of flags complains about as an error of the user."""
    raise UserError(
        f"{message}. Settings are KEY=VALUE; `atlas run --help settings` lists the flags of Hydra."
    )


def _request(
    flags: argparse.Namespace, arguments: Sequence[str], own: "OwnSettings | None"
) -> _Request:
    """Gather primary config, search path and mode from flags, file and overrides."""
    from layer_atlas.config.config_source import OWN

    settings = own.values if own else {}
    if own:
        _check_keys(f"It is in {own.where}.", settings)
    of_file = settings.get("hydra")
    of_file = of_file if isinstance(of_file, Mapping) else {}
    hydra = {f"hydra.{key}": value for key, value in of_file.items()} | _hydra_overrides(arguments)
    folders = [folder for folder in (flags.config_path, flags.config_dir) if folder]
    folders += [str(own.folder)] if own and own.folder else []
    folders += _plain_folders(hydra.get("hydra.searchpath") or [])
    # Hydra would read the files of its own search path as more than data.
    overrides = [line for line in arguments if not re.match(r"[+~]*hydra\.searchpath=", line)]
    several = flags.multirun or str(hydra.get("hydra.mode")).upper().endswith("MULTIRUN")
    primary = OWN if own else "config"
    return _Request(primary, overrides, folders, several, list(hydra), frozenset(settings))


def _hydra_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """Values of the overrides of Hydra's own settings, by their keys."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    lines = [line for line in arguments if re.match(r"[+~]*hydra\b", line)]
    parsed = OverridesParser.create().parse_overrides(lines) if lines else []
    return {line.key_or_group: line.value() for line in parsed if not line.is_sweep_override()}


def _warn_of_idle(hydra: Iterable[str]) -> None:
    """Warn of settings of Hydra that do nothing here."""
    for key in hydra:
        name = re.split(r"[./]", f"{key}.")[1]
        if name in ("run", "sweep", "output_subdir"):
            logger.warning("%s has no effect: output_root and name decide where results go", key)
        elif name not in (*_HONOURED, "launcher", "job_logging", "hydra_logging"):
            logger.warning("%s has no effect on a sweep", key)


def _plain_folders(entries: Any) -> list[str]:
    """Check the entries of `hydra.searchpath`; raises UserError."""
    folders = [str(entry) for entry in (entries if isinstance(entries, list) else [entries])]
    for folder in folders:
        # `pkg://` would import the package, which is code.
        if "://" in folder and not folder.startswith("file://"):
            raise UserError(f"hydra.searchpath takes folders and file:// paths, not {folder!r}.")
    return folders


def _check_keys(remedy: str, settings: Mapping[str, Any]) -> None:
    """Refuse unknown keys of settings. Raises UserError with the remedy."""
    known = set(config_keys())
    sections = {key.rpartition(".")[0] for key in known}

    def check(values: Mapping[Any, Any], prefix: str) -> None:
        for name, value in values.items():
            if (key := f"{prefix}{name}") not in known:
                raise unknown("config key", key, known, remedy)
            if isinstance(value, Mapping) and key in sections:
                check(value, f"{key}.")

    check({k: v for k, v in settings.items() if k not in ("defaults", "hydra")}, "")


# --- composing -----------------------------------------------------------------------------------


def _show(request: _Request) -> None:
    """Have Hydra print what its flags ask for, such as `--cfg job`."""
    import hydra
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.error = _refuse  # type: ignore[method-assign]
    flags = parser.parse_args(request.overrides)
    if not flags.shell_completion:  # what is being typed may not compose yet
        _loaded(request.primary, flags.overrides, several=True)
    # Hydra reads the command line itself, and hands exceptions on only when asked to.
    sys.argv = [sys.argv[0], *request.overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    _hide_command_from_completion()
    folder = str(config_folder())
    hydra.main(version_base="1.3", config_path=folder, config_name=request.primary)(print)()


def _jobs(request: _Request) -> Iterator[list[str]]:
    """List the overrides of each job: with `-m`, of every combination of values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not request.several:
        yield request.overrides
        return
    hydra = _loaded(request.primary, request.overrides, several=True).hydra
    params = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
    lines = [*params, *request.overrides]
    choices = [
        [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
        if override.is_discrete_sweep()
        else [line]
        for line, override in zip(
            lines, OverridesParser.create().parse_overrides(lines), strict=True
        )
    ]
    yield from map(list, product(*choices))


def _composed(request: _Request, overrides: Sequence[str], file: Path | None) -> Config:
    from omegaconf import open_dict

    values = _loaded(request.primary, overrides)
    verbose = values.hydra.verbose
    if verbose is True:  # as in Hydra: every logger
        show_debug("")
    elif verbose:
        show_debug(*([verbose] if isinstance(verbose, str) else map(str, verbose)))
    with open_dict(values):
        del values["hydra"]
    try:
        return make_config(values)
    except UserError as error:
        key = re.split(r"\W", str(error), maxsplit=1)[0]
        given = any(re.match(rf"[+~]*{key}\b", line) for line in overrides)
        if file is None or key not in request.own_keys or given:
            raise
        raise UserError(f"config file {str(file)!r}: {error}") from error


def _loaded(primary: str, overrides: Sequence[str], several: bool = False) -> Any:
    """Compose with Hydra's settings under `hydra`; raises UserError if these would execute code."""
    # Not `hydra.main`, which executes what `hydra.callbacks` and `hydra.job_logging` name.
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    mode = RunMode.MULTIRUN if several else RunMode.RUN
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        values = loader.load_configuration(primary, list(overrides), mode, from_shell=False)
    _refuse_code(OmegaConf.to_container(values.hydra, resolve=False), "hydra")
    return values


def _refuse_code(settings: Any, key: str) -> None:
    """Refuse settings of Hydra that name something to call. Raises UserError."""
    if isinstance(settings, Mapping):
        for name, value in settings.items():
            inner = f"{key}.{name}"
            calls = name in ("_target_", "()", "class", "factory") and value not in _HARMLESS
            if calls or (inner == "hydra.callbacks" and value):
                raise UserError(
                    f"{inner!r} names code for Hydra to execute, which a config may not; leave it "
                    "out. Executors are set by executor=..., logging by -v, -q or hydra.verbose."
                )
            _refuse_code(value, inner)
    elif isinstance(settings, list):
        for position, value in enumerate(settings):
            _refuse_code(value, f"{key}[{position}]")


# --- messages ------------------------------------------------------------------------------------


@contextlib.contextmanager
def _explained(overrides: Sequence[str], file: str) -> Iterator[None]:
    """Turn what Hydra raises into one message, and hide its warnings."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # of many kinds: Hydra trips over what it does not expect
            raise _explain(error, overrides, file) from error


def _explain(error: Exception, overrides: Sequence[str], file: str) -> UserError:
    """Put Hydra's complaint into one message, with the nearest valid names."""
    from hydra.errors import OverrideParseException

    options = getattr(error, "options", None)
    missing = getattr(error, "missing_cfg_file", None)
    if missing and options is not None:
        group, _, choice = str(missing).removesuffix(".yaml").rpartition("/")
        from_file = file and not any(line.endswith(f"={choice}") for line in overrides)
        remedy = f"It is in config file {file!r}." if from_file else ""
        return unknown(f"{group.strip('/')} choice", choice, options, remedy)
    key = re.search(r"Could not override '([^'@]+)(@[^']*)?'", str(error))
    if key and (key[1] not in config_keys() or "." in key[1]):
        return _no_such_key(key[1])
    complaint = f"{str(error) or type(error).__name__} {error.__cause__ or ''}".strip()
    if isinstance(error, OverrideParseException):
        remedy = "Put a value that holds special characters in quotes of its own: 'KEY=\"VALUE\"'."
        return UserError(f"{error.override!r} cannot be understood: {complaint}. {remedy}")
    given = " ".join([*([file] if file else []), *overrides])
    made_of = repr(given) if given else "these settings"
    return UserError(f"no config can be made of {made_of}: {complaint}")


def _no_such_key(key: str) -> UserError:
    """Build the error for a key that is in no config, or not in this one."""
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
