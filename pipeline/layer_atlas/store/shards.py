"""Shards in an output folder: committed, read, and looked for.

A shard that is present under its name is done; anything else is not. The folder is the only state:
a sweep resumes by reading it.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from layer_atlas.config.records import digest
from layer_atlas.plan.environment import Environment, environment_in
from layer_atlas.plan.jobs import Series, Shard, ShardResult
from layer_atlas.plan.plan import LayerPlan, ModelPlan
from layer_atlas.store import shard_file
from layer_atlas.store.checksummed_file import HEADER_BYTES, CorruptFile
from layer_atlas.store.files import read_at_most, write_atomically
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.shard_file import ShardFile, most_shard_bytes


def commit(folder: OutputFolder, shard: Shard, result: ShardResult) -> None:
    """Make a shard done. Raises StorageError."""
    write_atomically(folder.shard(shard), shard_file.encode(shard, result))


def read_shard(path: Path, model: ModelPlan, layer: LayerPlan) -> ShardFile:
    """Read a committed shard, but for its pictures.

    Args:
        path: of the file.
        model, layer: whose jobs it must hold.
    Raises:
        CorruptFile: it is damaged, or not of such jobs.
        OSError: it is not there or cannot be read.
    """
    n = len(read_header(path).channels)
    return shard_file.decode(read_at_most(path, most_shard_bytes(model, layer, n)), model, layer)


def read_header(path: Path) -> shard_file.Header:
    """Read whose jobs a shard holds, and how they were made, from its first bytes.

    Raises:
        CorruptFile: they say nothing of that.
        OSError: the file is not there or cannot be read.
    """
    with open(path, "rb") as file:
        return shard_file.read_header(file.read(HEADER_BYTES))


def read_environment(path: Path) -> Environment | None:
    """What the jobs of a shard were made with; `None` if that is not known."""
    try:
        return environment_in(read_header(path).facts)
    except (CorruptFile, OSError):
        return None


class DoneIndex:
    """Which jobs are done, and in which file.

    A shard whose file is there under its own name is found without opening anything. Only where
    channels are left over, because an earlier run cut its shards differently, are the headers of
    the layer's other files read. Where jobs must have been made with one environment, all headers
    of the layer are read, and files of others count as not there.
    """

    def __init__(
        self, folder: OutputFolder, environments: Mapping[str, Environment] | None = None
    ) -> None:
        """Look into a folder.

        Args:
            folder: which one.
            environments: what jobs must have been made with, by the labels of models; default:
                anything.
        """
        self.folder, self.environments = folder, environments or {}
        self._layers: dict[tuple[str, str], _LayerFiles] = {}

    def has(self, shard: Shard) -> bool:
        """Whether the file of a shard is there under its own name."""
        return shard.key in self._files(shard.series).keys

    def locate(self, shard: Shard) -> dict[Path, tuple[int, ...]]:
        """The files that hold channels of a shard, each with those that are taken from it."""
        files = self._files(shard.series)
        if shard.key in files.keys:
            return {files.path(shard.key): shard.targets}
        others = files.by_series.get(shard.series.key, {})
        found: dict[Path, list[int]] = {}
        for channel in shard.targets:
            if channel in others:
                found.setdefault(others[channel], []).append(channel)
        return {path: tuple(channels) for path, channels in found.items()}

    def missing(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """What is left to compute: shards that are not done, without the channels that are."""
        for shard in shards:
            rest = None if self.has(shard) else without(shard, self.locate(shard))
            if rest is not None:
                yield rest

    def has_other(self, shard: Shard) -> bool:
        """Whether the name of a shard is taken by a file that does not count."""
        return shard.key in self._files(shard.series).others

    def make_way(self, shard: Shard) -> None:
        """Rename such a file, so that the shard can be made again under its name.

        The new name is of the environment too. Nothing is overwritten or lost: where anything
        counts, the file is found by its header until its jobs are made again.
        """
        path = self.folder.shard(shard)
        environment = read_environment(path)
        whose = {"shard": shard.key, "environment": environment and environment.text}
        path.replace(path.with_name(f"{digest(whose)}.h5"))

    def _files(self, series: Series) -> "_LayerFiles":
        where = series.model, series.layer
        if where not in self._layers:
            wanted = self.environments.get(series.model)
            self._layers[where] = _LayerFiles(self.folder.layer(*where), wanted)
        return self._layers[where]


class _LayerFiles:
    """The committed files in the folder of a layer, as it was when this was made."""

    def __init__(self, folder: Path, environment: Environment | None = None) -> None:
        self.folder = folder
        names = os.listdir(folder) if folder.is_dir() else []
        keys = {name[:-3] for name in names if name.endswith(".h5") and name[0] != "."}
        self.others = {key for key in keys if environment and self._is_other(key, environment)}
        """Keys of files that do not count."""
        self.keys = keys - self.others

    def path(self, key: str) -> Path:
        """Where the file of a key lies."""
        return self.folder / f"{key}.h5"

    def _is_other(self, key: str, wanted: Environment) -> bool:
        try:
            return not wanted.accepts(environment_in(read_header(self.path(key)).facts))
        except (CorruptFile, OSError):
            return False  # whoever reads it will set it aside

    @cached_property
    def by_series(self) -> dict[str, dict[int, Path]]:
        """The file of each channel, by the key of the series, from the headers of all files."""
        index: dict[str, dict[int, Path]] = {}
        for path in map(self.path, sorted(self.keys)):
            with contextlib.suppress(CorruptFile, OSError):
                header = read_header(path)
                done = dict.fromkeys(header.channels, path)
                index.setdefault(header.series, {}).update(done)
        return index


def without(shard: Shard, located: Mapping[Path, tuple[int, ...]]) -> Shard | None:
    """What is left of a shard: itself without the channels that are done; None if nothing is."""
    done = set[int]().union(*located.values())
    rest = tuple(channel for channel in shard.targets if channel not in done)
    if len(rest) == len(shard.targets):
        return shard
    return Shard(shard.series, rest) if rest else None
