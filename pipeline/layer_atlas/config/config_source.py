"""Config files of a user's own (`--config-dir`), read as data.

Hydra would take from them what to run before and after a job and how to log, which is code by name,
and would copy what YAML merely refers to again, so that ten lines fill any memory.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult

from layer_atlas.errors import UserError

_NODES_PER_LETTER = 2
"""Of a file at most; without repetition there is no more than one."""


class DataFiles(FileConfigSource):
    """Config files that hold settings of this program and nothing else."""

    @staticmethod
    def scheme() -> str:
        """What addresses of such folders begin with."""
        return "data"

    def load_config(self, config_path: str) -> ConfigResult:
        """Read a file; raises UserError if it is more than settings."""
        path = Path(self.path) / self._normalize_file_name(config_path)
        told = f"config file {str(path)!r}"
        try:
            text = path.read_text(encoding="utf-8")
            if _size(yaml.compose(text, yaml.SafeLoader), {}) > _NODES_PER_LETTER * len(text):
                raise UserError(f"{told} repeats parts of itself without end.")
            result = super().load_config(config_path)
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UserError(f"{told} cannot be read: {error}") from error
        where = (config_path, result.header.get("package") or "", *result.config)
        if any(re.match(r"hydra\b", str(place)) for place in where):
            raise UserError(f"{told} sets 'hydra', which is no config key; leave it out.")
        return result


def _size(node: yaml.Node | None, known: dict[yaml.Node, float]) -> float:
    """How many nodes there are from here on, if each were written where it is referred to."""
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if node not in known:
        known[node] = math.inf  # should it hold itself
        pairs = isinstance(node, yaml.MappingNode)
        inner = [part for pair in node.value for part in pair] if pairs else node.value
        known[node] = 1 + sum(_size(part, known) for part in inner)
    return known[node]


def address(folder: str) -> str:
    """The override that has Hydra look for config files in a folder too; raises UserError."""
    Plugins.instance().register(DataFiles)
    path = Path(folder).resolve()
    if not path.is_dir():
        raise UserError(f"--config-dir: {folder!r} is not a folder.")
    quoted = f"{DataFiles.scheme()}://{path}".replace("\\", "\\\\").replace("'", "\\'")
    return f"hydra.searchpath=['{quoted}']"


def refuse_hydra(overrides: Sequence[str]) -> None:
    """What Hydra does with a config is decided here; raises UserError."""
    for override in overrides:
        if re.match(r"[+~]*hydra\b", override):
            raise UserError(
                f"{override.partition('=')[0]!r} is a setting of Hydra, none of a sweep; leave it "
                "out. Config files of your own: --config-dir=FOLDER."
            )
