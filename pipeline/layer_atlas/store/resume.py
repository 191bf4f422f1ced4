"""Resume: which jobs are done, in which file, and what is left to compute."""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from layer_atlas.config.records import digest
from layer_atlas.plan.environment import Environment, environment_in
from layer_atlas.plan.jobs import Series, Shard
from layer_atlas.store.files import CorruptFile
from layer_atlas.store.folder import SUFFIX, OutputFolder
from layer_atlas.store.shards import read_environment, read_header


class DoneIndex:
    """Which jobs are done, and in which file.

    A shard under its own name is found without opening any file. Headers of the layer's other files
    are read only where targets are left over, because an earlier run cut its shards differently.
    Where jobs must have been made with one environment, all headers of the layer are read, and
    files from other environments do not count.
    """

    def __init__(
        self, folder: OutputFolder, environments: Mapping[str, Environment] | None = None
    ) -> None:
        """Index a folder.

        Args:
            folder: the output folder.
            environments: the environment that must have made the jobs of a model, by label;
                default: any.
        """
        self.folder, self.environments = folder, environments or {}
        self._layers: dict[tuple[str, str], _LayerFiles] = {}

    def has(self, shard: Shard) -> bool:
        """Whether the file of a shard exists under its own name."""
        return shard.key in self._files(shard.series).keys

    def locate(self, shard: Shard) -> dict[Path, tuple[int, ...]]:
        """Find the files that hold targets of a shard, each with those to take from it."""
        files = self._files(shard.series)
        if shard.key in files.keys:
            return {files.path(shard.key): shard.targets}
        # The sweep was widened, or its shard size changed: the same jobs lie in other files.
        others = files.by_series.get(shard.series.key, {})
        located: dict[Path, list[int]] = {}
        for target in shard.targets:
            if target in others:
                located.setdefault(others[target], []).append(target)
        return {path: tuple(targets) for path, targets in located.items()}

    def missing(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """Yield what is left to compute: shards that are not done, without targets that are."""
        for shard in shards:
            rest = None if self.has(shard) else without(shard, self.locate(shard))
            if rest is not None:
                yield rest

    def has_other(self, shard: Shard) -> bool:
        """Whether a file that does not count occupies the name of a shard."""
        return shard.key in self._files(shard.series).others

    def make_way(self, shard: Shard) -> None:
        """Rename such a file, so that the shard can be computed under its name.

        The new name depends on the environment too, so nothing is overwritten. An index without
        environments still finds the file by its header, until its jobs are computed again.
        """
        path = self.folder.shard(shard)
        environment = read_environment(path)
        identity = {"shard": shard.key, "environment": environment and environment.text}
        # In the same folder, where an index that accepts any environment still looks.
        path.replace(path.with_name(digest(identity) + SUFFIX))

    def _files(self, series: Series) -> "_LayerFiles":
        names = series.model, series.layer
        if names not in self._layers:
            wanted = self.environments.get(series.model)
            self._layers[names] = _LayerFiles(self.folder.layer(*names), wanted)
        return self._layers[names]


class _LayerFiles:
    """The committed files in the folder of a layer, as it was when this was made."""

    def __init__(self, folder: Path, environment: Environment | None = None) -> None:
        self.folder = folder
        names = os.listdir(folder) if folder.is_dir() else []
        # A leading dot marks the temporary file of a writer.
        shards = (name for name in names if name.endswith(SUFFIX) and name[0] != ".")
        keys = {name.removesuffix(SUFFIX) for name in shards}
        self.others = {key for key in keys if environment and self._is_other(key, environment)}
        """Keys of files that do not count."""
        self.keys = keys - self.others

    def path(self, key: str) -> Path:
        """Path of the file of a key."""
        return self.folder / (key + SUFFIX)

    def _is_other(self, key: str, wanted: Environment) -> bool:
        try:
            return not wanted.accepts(environment_in(read_header(self.path(key)).facts))
        except (CorruptFile, OSError):
            return False  # it counts, and whoever reads it sets it aside

    @cached_property
    def by_series(self) -> dict[str, dict[int, Path]]:
        """The file of each target, by the key of the series, from the headers of all files."""
        index: dict[str, dict[int, Path]] = {}
        # Sorted, so that of two files with one job the same file counts every time.
        for path in map(self.path, sorted(self.keys)):
            with contextlib.suppress(CorruptFile, OSError):
                header = read_header(path)
                done = dict.fromkeys(header.targets, path)
                index.setdefault(header.series, {}).update(done)
        return index


def without(shard: Shard, located: Mapping[Path, tuple[int, ...]]) -> Shard | None:
    """Return a shard without the targets that are done; `None` if nothing is left."""
    done = set[int]().union(*located.values())
    rest = tuple(target for target in shard.targets if target not in done)
    if len(rest) == len(shard.targets):
        return shard
    return Shard(shard.series, rest) if rest else None
