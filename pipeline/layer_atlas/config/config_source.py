"""Settings of a user's own, from YAML files or Python, as data.

YAML from elsewhere may refer to its own parts again and again, so that ten lines fill any memory;
and Hydra would import the packages that `pkg://` addresses name.
"""

import contextlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from layer_atlas.config.config import Config, config_folder
from layer_atlas.config.records import FAMILIES
from layer_atlas.errors import UserError

OWN = "own"
"""Name of the primary config that a user's own settings become."""


@dataclass(frozen=True)
class OwnSettings:
    """Settings of a user's own: those of a YAML file, or values given in Python."""

    where: str
    """Their place, for messages."""
    values: Mapping[str, Any]
    folder: Path | None = None
    """Folder of the file, where groups of the user's own are looked for."""


def settings_of_file(path: Path) -> OwnSettings:
    """Read the settings of a YAML file; raises UserError as `read_settings` does."""
    return OwnSettings(f"config file {str(path)!r}", read_settings(path), path.parent)


_NODES_PER_CHARACTER = 2
"""Nodes of a file at most; a file without repetition has no more than one per character."""


class DataFiles(FileConfigSource):
    """Groups of config files in a folder of a user's own."""

    @staticmethod
    def scheme() -> str:
        """What addresses of such folders begin with."""
        return "data"

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file; raises UserError if it is not plain settings."""
        path = Path(self.path) / self._normalize_file_name(config_path)
        read_settings(path)
        return super().load_config(config_path)


class OwnSource(ConfigSource):
    """Settings of a user's own as the primary config, on top of the package's defaults."""

    settings = OwnSettings("", {})

    @staticmethod
    def scheme() -> str:
        """What the address of such settings begins with."""
        return OWN

    def load_config(self, config_path: str) -> ConfigResult:
        """Make the primary config; raises UserError if its defaults are no list of choices."""
        config = OmegaConf.create(as_primary(self.settings))
        return ConfigResult(self.provider, self.full_path(), config, {"package": None})

    def available(self) -> bool:
        """Always: they are in memory."""
        return True

    def is_group(self, config_path: str) -> bool:
        """Never: it is one config."""
        return False

    def is_config(self, config_path: str) -> bool:
        """Whether the primary config is meant."""
        return config_path in (OWN, f"{OWN}.yaml")

    def list(self, config_path: str, results_filter: ObjectType | None) -> list[str]:
        """Nothing: it has no groups."""
        return []


class OwnSearchPath(SearchPathPlugin):
    """Adds to Hydra's search path what the current command line names."""

    addresses: tuple[str, ...] = ()

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the addresses, after the package's own folder."""
        for address in self.addresses:
            search_path.append("command line", address)


def read_settings(path: Path) -> dict[str, Any]:
    """Read a YAML file of settings, interpolations unresolved.

    Raises:
        UserError: it cannot be read, is no mapping, or repeats itself without end.
    """
    name = f"config file {str(path)!r}"
    try:
        text = path.read_text(encoding="utf-8")
        root = yaml.compose(text, yaml.SafeLoader)
        if _size(root, {}) > _NODES_PER_CHARACTER * len(text):
            raise UserError(f"{name} repeats parts of itself without end.")
        # YAML 1.1 reads `1:10` as 70, minutes and seconds; a sweep would compute another channel.
        if ambiguous := next(_sexagesimal(root), None):
            raise UserError(
                f"{name}: YAML reads {ambiguous} as a number of base 60. Quote ranges: "
                f"'{ambiguous}'."
            )
        settings = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{name} cannot be read: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{name} cannot be read: it must hold settings as KEY: VALUE.")
    return {str(key): value for key, value in settings.items()}


def _size(node: yaml.Node | None, known: dict[yaml.Node, float]) -> float:
    """Count the nodes from here on as if each were written out where it is referred to."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if node not in known:
        known[node] = math.inf  # should it hold itself
        pairs = isinstance(node, yaml.MappingNode)
        inner = [part for pair in node.value for part in pair] if pairs else node.value
        known[node] = 1 + sum(_size(part, known) for part in inner)
    return known[node]


def _sexagesimal(node: yaml.Node | None) -> Iterator[str]:
    """Yield the numbers of base 60 from here on, as written."""
    if isinstance(node, yaml.ScalarNode):
        if ":" in node.value and node.tag.endswith((":int", ":float")):
            yield node.value
    elif isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from (number for part in pair for number in _sexagesimal(part))
    elif node is not None:
        yield from (number for part in node.value for number in _sexagesimal(part))


def as_primary(settings: OwnSettings) -> dict[str, Any]:
    """Turn settings of a user into a primary config that extends the defaults.

    `quality: draft` becomes a choice in the defaults list, which the command line can override and
    which the settings' own values override; so do entries of a `defaults` list, with or without
    `override`. `objective: {name: logit, sign: both}` is a choice and values at once.

    Raises:
        UserError: `defaults` is no list of names and choices.
    """
    values = dict(settings.values)
    bases: list[Any] = []
    choices: dict[str, Any] = {}
    if isinstance(hydra := values.get("hydra"), dict):  # `extended_search_path` has these
        values["hydra"] = {key: value for key, value in hydra.items() if key != "searchpath"}
    for key, choice in _defaults(settings.where, values.pop("defaults", None) or []):
        group = key.split()[-1].removeprefix("/")
        if choice is None and group == key:
            bases.append(key.removeprefix("/"))
        elif "override" in key.split() or group in groups():
            choices[group] = choice
        else:
            bases.append({key: choice})
    own_keys = {field.name for field in fields(Config)}
    for group in groups() & values.keys():
        value = values[group]
        # `mask: null` is a value of the setting `mask`; `experiment` is nothing but a choice.
        if isinstance(value, str) or group not in own_keys:
            choices[group] = values.pop(group)
        elif isinstance(value, dict) and value.get("name") in _choices(group):
            choices[group] = value["name"]
    bases = [*([] if "config" in bases else ["config"]), *bases]
    bases += [] if "_self_" in bases else ["_self_"]
    overrides = [{f"override /{group}": choice} for group, choice in choices.items()]
    return {"defaults": [*bases, *overrides], **values}


def _choices(group: str) -> Collection[str]:
    """Names of the choices of a group that are records; none of a group of plain values."""
    return FAMILIES[group].choices if group in FAMILIES else ()


def _defaults(where: str, entries: Any) -> list[tuple[str, Any]]:
    """List the entries of a defaults list as pairs; a plain name is paired with None."""
    pairs = []
    for entry in entries if isinstance(entries, list) else [None]:
        if isinstance(entry, str):
            pairs.append((entry, None))
        elif isinstance(entry, dict) and len(entry) == 1:
            pairs += [(str(key), choice) for key, choice in entry.items()]
        else:
            raise UserError(
                f"defaults in {where} must be a list such as "
                f"[quality: draft, objective: logit], not {entries!r}."
            )
    return pairs


def groups() -> set[str]:
    """Names of the config groups of the package."""
    return {path.name for path in config_folder().iterdir() if path.is_dir()}


@contextlib.contextmanager
def extended_search_path(folders: Sequence[str], own: OwnSettings | None) -> Iterator[None]:
    """Have Hydra look for config files in folders too, and take settings of the user's own.

    Raises:
        UserError: an entry is no folder.
    """
    addresses = [f"{OWN}://settings"] if own else []
    for folder in dict.fromkeys(folders):
        path = Path(folder.removeprefix("file://")).resolve()
        if not path.is_dir():
            raise UserError(f"config folder {folder!r} is not a folder.")
        addresses.append(f"{DataFiles.scheme()}://{path}")
    for plugin in (DataFiles, OwnSource, OwnSearchPath):
        Plugins.instance().register(plugin)
    OwnSearchPath.addresses = tuple(addresses)
    OwnSource.settings = own or OwnSource.settings
    try:
        yield
    finally:
        OwnSearchPath.addresses = ()
