"""The output folder: every path in one class, atomic commits, what is done.

A shard that is present under its name is done; anything else is not. The folder is the only state:
a sweep resumes by reading it.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from pipeline import shard_file
from pipeline.errors import FULL, StorageError, UserError
from pipeline.jobs import Product, Series, Shard, ShardResult, Task
from pipeline.paths import user_path
from pipeline.plan import LayerPlan, ModelPlan
from pipeline.records import parse_object
from pipeline.sealed_file import HEADER_BYTES, CorruptFile
from pipeline.shard_file import ShardFile, most_shard_bytes


def safe_name(name: str) -> str:
    """A file name for any text: no separators, no leading dot, at most 80 characters.

    Names that had to be changed end in a few digits of their hash, so that no two become one.
    """
    cleaned = re.sub(r"[^\w.+@=-]", "_", name, flags=re.ASCII).lstrip(".")[:80]
    if cleaned == name != "":
        return name
    return f"{cleaned[:70]}~{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}"


class OutputFolder:
    """Names every path of an output folder; makes none of them by itself."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.atlas = root / "atlas.h5"
        self.brief = root / "atlas.json"
        self.montages = root / "montages"
        self.store = root / "store"
        self.failures = root / "failures"
        self.retried = self.failures / "retried"
        """Records of attempts from before their task was put back."""
        self.logs = root / "logs"
        self.manifest = root / "manifest.json"
        self.lock = root / "lock"
        self.drain = self.logs / "drain"
        """While this file is there, workers finish the shard they are at and leave."""

    @property
    def choice(self) -> str:
        """What on a command line chooses this folder."""
        parent = str(self.root.parent)
        return f"name={self.root.name}" + ("" if parent == "outputs" else f" output_root={parent}")

    def relative(self, path: Path) -> str:
        """A path as it is from here, wherever the folder lies."""
        return path.relative_to(self.root).as_posix()

    def product(self, product: Product) -> Path:
        """Where a committed file lies."""
        return self.layer(product.model, product.layer) / product.shelf / f"{product.key}.h5"

    def shard(self, shard: Shard) -> Path:
        """Where a committed shard lies."""
        return self.product(shard.product)

    def exists(self, product: Product) -> bool:
        """Whether a file is committed."""
        return self.product(product).exists()

    def is_done(self, task: Task) -> bool:
        """Whether all files of a task are there."""
        return all(self.exists(product) for product in task.products)

    def look_again(self, tasks: Iterable[Task]) -> None:
        """Have a network file system forget what it remembers of the folders of some tasks."""
        for folder in {self.product(p).parent for task in tasks for p in task.products}:
            with contextlib.suppress(OSError):
                os.listdir(folder)

    def layer(self, model: str, layer: str) -> Path:
        """The folder of a layer's shards."""
        return self.store / safe_name(model) / safe_name(layer)

    def input(self, reference: str) -> Path:
        """The copy of a file that a recipe refers to."""
        return self.root / "inputs" / safe_name(reference)

    def listing(self, digest: str) -> Path:
        """The list of a dataset's photographs."""
        return self.root / "photographs" / safe_name(f"{digest}.jsonl")

    def montage(self, model: str, layer: str) -> Path:
        """The picture of a layer."""
        return self.montages / safe_name(model) / f"{safe_name(layer)}.png"

    def sheet(self, model: str, layer: str, number: int) -> Path:
        """A page of evidence of a layer."""
        return self.montages / safe_name(model) / f"{safe_name(layer)}.evidence-{number:03}.png"

    def sheets(self, model: str, layer: str) -> list[Path]:
        """The pages of evidence of a layer that are there."""
        folder, name = self.montages / safe_name(model), safe_name(layer)
        found = folder.iterdir() if folder.is_dir() else ()
        return sorted(path for path in found if path.name.startswith(f"{name}.evidence-"))

    def film(self, model: str, layer: str, file: str) -> Path:
        """An image on its way; the file is called by target, seed and variant."""
        return self.root / "films" / safe_name(model) / safe_name(layer) / safe_name(file)

    def films(self, model: str, layer: str) -> list[Path]:
        """The films of a layer that are there."""
        folder = self.root / "films" / safe_name(model) / safe_name(layer)
        return sorted(path for path in folder.glob("*.*") if path.name[0] != ".")

    def failure(self, task_key: str, attempt: int) -> Path:
        """The record of a failed attempt."""
        return self.failures / f"{task_key}.{attempt}.json"

    def bundle(self, tag: str) -> Path:
        """What a worker is asked to do."""
        return self.logs / f"{tag}.json"

    def submission(self, tag: str) -> Path:
        """Where a worker was handed over to that goes on without its driver."""
        return self.logs / f"{tag}.submitted"

    def ending(self, tag: str) -> Path:
        """How such a worker ended."""
        return self.logs / f"{tag}.exit"

    def pulse(self, tag: str) -> Path:
        """What a worker is doing."""
        return self.logs / f"{tag}.pulse"

    def log(self, tag: str) -> Path:
        """What a worker says."""
        return self.logs / f"{tag}.log"


def output_folder(root: str, name: str) -> OutputFolder:
    """The folder of a run.

    Raises:
        UserError: its name or its root is none, or something in it leads elsewhere.
    """
    if safe_name(name) != name:
        suggestion = safe_name(name).split("~")[0].strip("_") or "demo"
        raise UserError(
            f"name={name!r} cannot be a folder name; use letters, digits, - and _ "
            f"(for instance name={suggestion}). The folder around it is set by output_root."
        )
    folder = OutputFolder(user_path(root, "output_root") / name)
    _check_contents(folder.root)
    return folder


def _check_contents(root: Path) -> None:
    """Nothing in an output folder leads out of it, or keeps waiting whoever opens it.

    The folder may be somebody else's, and what lies in it is overwritten and deleted. It may itself
    be a link: that is the user's own doing.
    """
    inside = os.path.realpath(root) + os.sep
    waiting = [inside]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:  # not there, or told by whoever needs it
            continue
        for entry in entries:
            if entry.is_symlink() and not os.path.realpath(entry.path).startswith(inside):
                raise UserError(_leads_out(entry.path))
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif not (entry.is_symlink() or entry.is_file(follow_symlinks=False)):
                raise UserError(f"{entry.path!r} is a pipe or a device; remove it.")


def _leads_out(path: str) -> str:
    return (
        f"{path!r} is a link to {os.path.realpath(path)!r}. What lies in an output folder is "
        "overwritten and deleted, so nothing in it may be a link to elsewhere. The folder itself "
        "may: or set output_root."
    )


# --- writing -------------------------------------------------------------------------------------


def write_atomically(path: Path, data: bytes) -> None:
    """Put a file in place whole or not at all, and on the disk before this returns.

    Raises:
        StorageError: the disk is full, read-only or otherwise fails.
    """
    with written_atomically(path) as file:
        file.write(data)


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to, piece by piece; it is put in place when the block ends without an error.

    Raises:
        StorageError: the disk is full, read-only or otherwise fails.
    """
    temporary = path.parent / f".{path.name[:40]}.{uuid.uuid4().hex}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def keep_inputs(folder: OutputFolder, sources: Mapping[str, str]) -> None:
    """Copy the files that recipes refer to, where they are not there yet.

    Args:
        folder: where to.
        sources: the file of each reference.
    Raises:
        StorageError: the disk is full or fails.
        UserError: a file is gone, or is not what it was when the sweep was planned.
    """
    for reference, source in sources.items():
        if folder.input(reference).exists():
            continue
        try:
            data = Path(source).expanduser().read_bytes()
        except OSError as error:
            raise UserError(f"{source!r} cannot be read ({error.strerror}).") from error
        if not reference.startswith(hashlib.sha256(data).hexdigest()):
            raise UserError(f"{source!r} changed just now; start again.")
        write_atomically(folder.input(reference), data)


def write_json(path: Path, value: Any) -> None:
    """Put a JSON file in place whole or not at all."""
    write_atomically(path, (json.dumps(value, indent=1) + "\n").encode())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def commit(folder: OutputFolder, shard: Shard, result: ShardResult) -> None:
    """Make a shard done. Raises StorageError."""
    write_atomically(folder.shard(shard), shard_file.encode(shard, result))


def set_aside(path: Path) -> Path:
    """Move a corrupt shard out of the way, so that it counts as not done; nothing is deleted."""
    target = path.with_name(f"{path.name}.corrupt-{uuid.uuid4().hex[:8]}")
    with contextlib.suppress(FileNotFoundError):  # another process was faster
        path.rename(target)
    return target


def sweep_temporary(folder: OutputFolder) -> None:
    """Delete what killed writers left behind; call it under the lock only."""
    for place, _, names in os.walk(folder.root):
        for name in names:
            if name[0] == "." and name.endswith(".tmp"):
                with contextlib.suppress(OSError):
                    Path(place, name).unlink()


def prepare(folder: OutputFolder, needed_bytes: float) -> None:
    """Create the output folder.

    Raises:
        StorageError: the disk has less space than is needed.
        UserError: the folder cannot be written.
    """
    probe = folder.root / f".probe.{uuid.uuid4().hex}.tmp"
    try:
        folder.logs.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"layer atlas")
        free = shutil.disk_usage(folder.root).free
    except OSError as error:
        raise not_writable(folder, error) from error
    finally:
        with contextlib.suppress(OSError):
            probe.unlink()
    if free < needed_bytes:
        raise StorageError(
            f"the disk of {str(folder.root)!r} has {disk_size(free)} free and the sweep needs "
            f"about {disk_size(needed_bytes)}. Free some, or choose output_root=/some/folder."
        )


def disk_size(n: float) -> str:
    """Bytes for people.

    >>> disk_size(2_500_000)
    '2.5 MB'
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n:.0f} B"


def not_writable(folder: OutputFolder, error: OSError) -> StorageError | UserError:
    """What to raise where nothing can be written: the disk may be full, or the folder be wrong."""
    kind = StorageError if error.errno in FULL else UserError
    return kind(
        f"the output folder {str(folder.root)!r} cannot be written ({error.strerror}). "
        "Choose another with output_root=/some/folder."
    )


# --- reading -------------------------------------------------------------------------------------


def read_at_most(path: Path, most: int) -> bytes:
    """Read a file that is no longer than it can be.

    Raises:
        CorruptFile: it is longer; then it is not read.
        OSError: it is not there or cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise CorruptFile(f"the file is longer than the {most} bytes that it can have")
        return file.read(size)


def read_object(path: Path, most: int = 2**24) -> dict[str, Any]:
    """The values of a JSON object in a file, whoever wrote it.

    Args:
        path: of the file.
        most: bytes; what is longer is not read.
    Raises:
        ValueError: it is longer, or no JSON object.
        OSError: it is not there or cannot be read.
    """
    try:
        return parse_object(read_at_most(path, most))
    except CorruptFile as error:
        raise ValueError(str(error)) from error


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


class DoneIndex:
    """Which jobs are done, and in which file.

    A shard whose file is there under its own name is found without opening anything. Only where
    channels are left over, because an earlier run cut its shards differently, are the headers of
    the layer's other files read.
    """

    def __init__(self, folder: OutputFolder) -> None:
        self.folder = folder
        self._layers: dict[tuple[str, str], _LayerFiles] = {}

    def locate(self, shard: Shard) -> dict[int, Path]:
        """The file of each done channel of a shard."""
        files = self._files(shard.series)
        if shard.key in files.keys:
            return dict.fromkeys(shard.channels, files.path(shard.key))
        others = files.by_series.get(shard.series.key, {})
        return {channel: others[channel] for channel in shard.channels if channel in others}

    def missing(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        """What is left to compute: shards that are not done, without the channels that are."""
        for shard in shards:
            if shard.key in self._files(shard.series).keys:
                continue
            rest = _without(shard, self.locate(shard))
            if rest is not None:
                yield rest

    def _files(self, series: Series) -> "_LayerFiles":
        where = series.model, series.layer
        if where not in self._layers:
            self._layers[where] = _LayerFiles(self.folder.layer(*where))
        return self._layers[where]


class _LayerFiles:
    """The committed files in the folder of a layer, as it was when this was made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        names = os.listdir(folder) if folder.is_dir() else []
        self.keys = {name[:-3] for name in names if name.endswith(".h5") and name[0] != "."}

    def path(self, key: str) -> Path:
        """Where the file of a key lies."""
        return self.folder / f"{key}.h5"

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


def _without(shard: Shard, done: dict[int, Path]) -> Shard | None:
    """What is left of a shard: itself without the channels that are done; None if nothing is."""
    rest = tuple(channel for channel in shard.channels if channel not in done)
    if len(rest) == len(shard.channels):
        return shard
    return Shard(shard.series, rest) if rest else None
