"""The output folder: its paths, its safety, its disk space."""

import contextlib
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from layer_atlas.config.inputs import user_path
from layer_atlas.errors import FULL, StorageError, UserError
from layer_atlas.plan.jobs import Product, Shard, Task
from layer_atlas.store.files import write_atomically

SUFFIX = ".safetensors"
"""Suffix of all files in the store."""


def safe_name(name: str) -> str:
    """Make a file name of any text: no separators, no leading dot, at most 80 characters.

    Names that had to be changed end in digits of their hash, so that no two become one.
    """
    # ASCII alone: other letters have several encodings, which file systems confuse.
    cleaned = re.sub(r"[^\w.+@=-]", "_", name, flags=re.ASCII).lstrip(".")[:80]
    if cleaned == name != "":
        return name
    return f"{cleaned[:70]}~{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:8]}"


class OutputFolder:
    """Paths of an output folder; creates none of them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.atlas = root / "atlas.h5"
        self.summary = root / "atlas.json"
        self.montages = root / "montages"
        self.figures = root / "figures"
        self.site = root / "site"
        self.notes = root / "notes.json"
        """Notes on channels that `atlas site notes=FILE` took in."""
        self.export = root / "export"
        self.labels = root / "labels.csv"
        self.store = root / "store"
        self.failures = root / "failures"
        self.retried = self.failures / "retried"
        """Records of attempts that no longer count, because `atlas retry` put their task back."""
        self.logs = root / "logs"
        self.manifest = root / "manifest.json"
        self.lock = root / "lock"
        self.drain = self.logs / "drain"
        """While this file exists, workers finish their shard and exit."""

    @property
    def choice(self) -> str:
        """Overrides that choose this folder on a command line."""
        parent = str(self.root.parent)
        return f"name={self.root.name}" + ("" if parent == "outputs" else f" output_root={parent}")

    def relative(self, path: Path) -> str:
        """Path relative to the folder, with `/`."""
        return path.relative_to(self.root).as_posix()

    def product(self, product: Product) -> Path:
        """Path of a committed file."""
        return self.layer(product.model, product.layer) / product.shelf / (product.key + SUFFIX)

    def shard(self, shard: Shard) -> Path:
        """Path of a committed shard."""
        return self.product(shard.product)

    def exists(self, product: Product) -> bool:
        """Whether a product is committed."""
        return self.product(product).exists()

    def is_done(self, task: Task) -> bool:
        """Whether all products of a task are committed."""
        return all(self.exists(product) for product in task.products)

    def look_again(self, tasks: Iterable[Task]) -> None:
        """List the folders of some tasks, which makes a network file system refresh its cache."""
        for folder in {self.product(p).parent for task in tasks for p in task.products}:
            with contextlib.suppress(OSError):
                os.listdir(folder)

    def layer(self, model: str, layer: str) -> Path:
        """Folder of a layer's shards."""
        return self.store / safe_name(model) / safe_name(layer)

    def input(self, reference: str) -> Path:
        """Copy of a file that a recipe refers to."""
        return self.root / "inputs" / safe_name(reference)

    def listing(self, digest: str) -> Path:
        """List of a dataset's images."""
        return self.root / "photographs" / safe_name(f"{digest}.jsonl")

    def montage(self, model: str, layer: str) -> Path:
        """Montage of a layer."""
        return self.montages / safe_name(model) / f"{safe_name(layer)}.png"

    def words(self, model: str, layer: str) -> Path:
        """Words that an encoder proposes for the channels of a layer."""
        return self.root / "words" / safe_name(model) / f"{safe_name(layer)}{SUFFIX}"

    def map(self, model: str, layer: str, side: int) -> Path:
        """Map of a layer, in a grid of so many cells per side."""
        return self.montages / safe_name(model) / f"{safe_name(layer)}.map{side}.png"

    def maps(self, model: str, layer: str) -> list[Path]:
        """Maps of a layer that exist."""
        folder, name = self.montages / safe_name(model), safe_name(layer)
        found = re.compile(re.escape(name) + r"\.map\d+\.png")
        paths = folder.iterdir() if folder.is_dir() else ()
        return sorted(path for path in paths if found.fullmatch(path.name))

    def sheet(self, model: str, layer: str, number: int) -> Path:
        """Page of evidence of a layer."""
        return self.montages / safe_name(model) / f"{safe_name(layer)}.evidence-{number:03}.png"

    def sheets(self, model: str, layer: str) -> list[Path]:
        """Pages of evidence of a layer that exist."""
        folder, name = self.montages / safe_name(model), safe_name(layer)
        paths = folder.iterdir() if folder.is_dir() else ()
        return sorted(path for path in paths if path.name.startswith(f"{name}.evidence-"))

    def animation(self, model: str, layer: str, file: str) -> Path:
        """Animation of an image; `file` names target, seed and variant."""
        return self.root / "animations" / safe_name(model) / safe_name(layer) / safe_name(file)

    def animations(self, model: str, layer: str) -> list[Path]:
        """Animations of a layer that exist."""
        folder = self.root / "animations" / safe_name(model) / safe_name(layer)
        return sorted(path for path in folder.glob("*.*") if path.name[0] != ".")

    def failure(self, task_key: str, attempt: int) -> Path:
        """Record of a failed attempt."""
        return self.failures / f"{task_key}.{attempt}.json"

    def bundle(self, tag: str) -> Path:
        """Tasks of a worker."""
        return self.logs / f"{tag}.json"

    def submission(self, tag: str) -> Path:
        """Record of a worker that an executor runs without its driver."""
        return self.logs / f"{tag}.submitted"

    def ending(self, tag: str) -> Path:
        """Exit status of such a worker."""
        return self.logs / f"{tag}.exit"

    def heartbeat(self, tag: str) -> Path:
        """Heartbeat of a worker."""
        return self.logs / f"{tag}.heartbeat"

    def log(self, tag: str) -> Path:
        """Log of a worker."""
        return self.logs / f"{tag}.log"


def output_folder(root: str, name: str) -> OutputFolder:
    """Find the output folder of a run.

    Raises:
        UserError: its name or root cannot be one, or something in it is a link to elsewhere.
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
    """Refuse links out of an output folder, and pipes, which block whoever opens them.

    The folder may be somebody else's, and its files are overwritten and deleted. It may itself be a
    link: that is the user's own doing.
    """
    inside = os.path.realpath(root) + os.sep
    folders = [inside]
    while folders:
        try:
            entries = list(os.scandir(folders.pop()))
        except OSError:  # it does not exist, or whoever needs it raises
            continue
        for entry in entries:
            if entry.is_symlink() and not os.path.realpath(entry.path).startswith(inside):
                raise UserError(_leads_out(entry.path))
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            # Opening a pipe without a writer blocks for ever.
            elif not (entry.is_symlink() or entry.is_file(follow_symlinks=False)):
                raise UserError(f"{entry.path!r} is a pipe or a device; remove it.")


def _leads_out(path: str) -> str:
    return (
        f"{path!r} is a link to {os.path.realpath(path)!r}. What lies in an output folder is "
        "overwritten and deleted, so nothing in it may be a link to elsewhere. The folder itself "
        "may: or set output_root."
    )


def sweep_temporary(folder: OutputFolder) -> None:
    """Delete the temporary files of killed writers; call it under the lock only."""
    for parent, _, names in os.walk(folder.root):
        for name in names:
            if name[0] == "." and name.endswith(".tmp"):
                with contextlib.suppress(OSError):
                    Path(parent, name).unlink()


def prepare(folder: OutputFolder, needed_bytes: float) -> None:
    """Create the output folder.

    Raises:
        StorageError: the disk has less space than is needed.
        UserError: the folder cannot be written.
    """
    # A trial write: permissions alone do not reveal a read-only or full disk.
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
    """Format a number of bytes.

    >>> disk_size(2_500_000)
    '2.5 MB'
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n:.0f} B"


def not_writable(folder: OutputFolder, error: OSError) -> StorageError | UserError:
    """The error to raise if nothing can be written: the disk is full, or the folder is wrong."""
    kind = StorageError if error.errno in FULL else UserError
    return kind(
        f"the output folder {str(folder.root)!r} cannot be written ({error.strerror}). "
        "Choose another with output_root=/some/folder."
    )


def keep_inputs(folder: OutputFolder, sources: Mapping[str, str]) -> None:
    """Copy the files that recipes refer to, unless a copy exists.

    Args:
        folder: the output folder.
        sources: path of the file of each reference.
    Raises:
        StorageError: the disk is full or fails.
        UserError: a file is gone, or has changed since the sweep was planned.
    """
    for reference, source in sources.items():
        if folder.input(reference).exists():
            continue
        try:
            data = Path(source).expanduser().read_bytes()
        except OSError as error:
            raise UserError(f"{source!r} cannot be read ({error.strerror}).") from error
        # The reference begins with the digest at planning; keys of jobs depend on it.
        if not reference.startswith(hashlib.sha256(data).hexdigest()):
            raise UserError(f"{source!r} changed during planning; run the sweep again.")
        write_atomically(folder.input(reference), data)
