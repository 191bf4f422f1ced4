"""The output folder: every path in one class."""

import contextlib
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path

from layer_atlas.config.paths import user_path
from layer_atlas.errors import FULL, StorageError, UserError
from layer_atlas.plan.jobs import Product, Shard, Task
from layer_atlas.store.files import write_atomically

SUFFIX = ".safetensors"
"""Suffix of all files in the store."""


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
        self.summary = root / "atlas.json"
        self.montages = root / "montages"
        self.figures = root / "figures"
        self.site = root / "site"
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
        return self.layer(product.model, product.layer) / product.shelf / (product.key + SUFFIX)

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

    def animation(self, model: str, layer: str, file: str) -> Path:
        """An image on its way; the file is called by target, seed and variant."""
        return self.root / "animations" / safe_name(model) / safe_name(layer) / safe_name(file)

    def animations(self, model: str, layer: str) -> list[Path]:
        """The animations of a layer that are there."""
        folder = self.root / "animations" / safe_name(model) / safe_name(layer)
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

    def heartbeat(self, tag: str) -> Path:
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
