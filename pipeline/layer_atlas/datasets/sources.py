"""Dataset images: folders of image files, torchvision datasets, their listings, and their views.

A dataset has two methods: one lists its images in an order that is the same on every machine, one
opens a single image. A view is an image cropped and resized to the network's input; of an
unreadable image it has no pixels but carries the reason, which never stops a run.

A listing has the images of a dataset in one file, a JSON line for each. Image k is line k, whatever
happens to the dataset's folder in the meantime. A listing of a million images is opened in a second
and read in blocks; it is never in memory as a whole.
"""

import contextlib
import hashlib
import inspect
import json
import math
import os
import stat
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.config.datasets import DatasetConfig, FolderDataset, TorchvisionDataset
from layer_atlas.config.inputs import user_path
from layer_atlas.datasets.image_files import as_rgb, check_pixels, is_on_its_side, open_image
from layer_atlas.errors import UserError, nearest, reason, unknown
from layer_atlas.store.files import written_atomically

_LINES_PER_MARK = 64
_READ_AT_ONCE = 2**20


class Entry(NamedTuple):
    """An image of a dataset: the properties that identify it."""

    path: str
    """Path of the file, relative to the dataset's folder; or a title: CIFAR10(train=False)[3]."""
    size: int
    """Size of the file in bytes; 0 where there is no file."""


def write_listing(entries: Iterable[Entry], path: Path) -> None:
    """Write a listing atomically.

    Args:
        entries: consumed once, in order, one at a time.
        path: path of the file.
    Raises:
        StorageError: the disk is full, read-only or otherwise fails.
    """
    with written_atomically(path) as file:
        for entry in entries:
            file.write(_line(entry))


def look_through(entries: Iterable[Entry]) -> tuple[str, int]:
    """Return the digest and length of the listing of these images, without writing it."""
    sha, count = hashlib.sha256(), 0
    for entry in entries:
        sha.update(_line(entry))
        count += 1
    return sha.hexdigest(), count


def _line(entry: Entry) -> bytes:
    # In ASCII: names with invalid text or line breaks are escaped, and survive the round trip.
    return json.dumps(entry).encode("ascii") + b"\n"


def _no_listing(path: Path, why: object) -> str:
    return f"{str(path)!r} is not a readable listing of images ({why}); delete it and run again."


class Listing:
    """A listing on disk, read in blocks.

    Raises:
        UserError: the file cannot be read, or is not a listing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._marks = np.zeros(0, np.int64)
        self.count = 0
        """Number of images."""
        self.digest = ""
        """SHA-256 (hex) of the file."""
        try:
            self._scan()
        except OSError as error:
            raise UserError(f"cannot read the listing {str(path)!r}: {error.strerror}.") from error

    def _scan(self) -> None:
        """Compute the digest, the number of lines, and the offset of every 64th line."""
        sha, starts, position = hashlib.sha256(), [np.zeros(1, np.int64)], 0
        with open(self.path, "rb") as file:
            while piece := file.read(_READ_AT_ONCE):
                sha.update(piece)
                ends = np.flatnonzero(np.frombuffer(piece, np.uint8) == ord("\n"))
                # Later reads are by line: a file without line breaks would exhaust the memory.
                if len(ends) == 0 and len(piece) == _READ_AT_ONCE:
                    raise UserError(_no_listing(self.path, "a line without end"))
                # Index of the first line end in this piece after which a marked line begins.
                first = -(self.count + 1) % _LINES_PER_MARK
                starts.append(position + ends[first::_LINES_PER_MARK] + 1)
                self.count += len(ends)
                position += len(piece)
        self._marks, self.digest = np.concatenate(starts), sha.hexdigest()

    def block(self, start: int, stop: int) -> list[Entry]:
        """Return the images from `start` up to, but excluding, `stop` or the end of the listing.

        Raises:
            UserError: the file cannot be read, or is not a listing.
        """
        stop = min(stop, self.count)
        if not 0 <= start < stop:
            return []
        mark, skipped = divmod(start, _LINES_PER_MARK)
        try:
            with open(self.path, "rb") as file:
                file.seek(self._marks[mark])
                lines = list(islice(file, skipped, skipped + stop - start))
            return [Entry(str(path), int(size)) for path, size in map(json.loads, lines)]
        except (OSError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise UserError(_no_listing(self.path, error)) from error

    def digest_of(self, start: int, stop: int) -> str:
        """Return the SHA-256 (hex) of the lines of some images. Raises UserError."""
        return look_through(self.block(start, stop))[0]


# --- datasets -------------------------------------------------------------------------------------


SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp"})
"""Files with these suffixes, in any case, are images of a folder."""

# These torchvision datasets hold videos, patches as tensors, or no data of their own; subclasses
# of `_PAIRS` hold pairs of images.
_WITHOUT_IMAGES = frozenset(
    {"DatasetFolder", "HMDB51", "Kinetics", "MovingMNIST", "PhotoTour", "UCF101", "VisionDataset"}
)
_PAIRS = frozenset({"FlowDataset", "StereoMatchingDataset"})


class DatasetImages(Protocol):
    """A dataset of images, safe to use from several threads."""

    def entries(self) -> Iterator[Entry]:
        """Yield all images, one at a time, in an order that is the same on every machine."""

    def image(self, index: int, entry: Entry) -> Image.Image:
        """Open image number `index`, possibly without decoding it; the caller closes it.

        Raises: any exception of the file's decoder.
        """


def open_dataset(settings: DatasetConfig) -> DatasetImages:
    """Open a dataset and check that it holds an image.

    Raises:
        UserError: no such folder or dataset, an empty one, wrong arguments, or not downloaded.
    """
    if isinstance(settings, FolderDataset):
        return _open_folder(settings)
    assert isinstance(settings, TorchvisionDataset), settings
    return _open_torchvision(settings)


# --- folders -------------------------------------------------------------------------------------


class FolderImages:
    """All image files of a folder and its subfolders."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entries(self) -> Iterator[Entry]:
        """Yield the files in the order of their names, folder by folder.

        Links to folders are followed, but every folder is entered only once, which breaks cycles.
        Inaccessible files, such as broken links, are listed with size 0.

        Raises:
            UserError: a folder cannot be read.
        """
        entered: set[tuple[int, int]] = set()
        waiting = [""]
        while waiting:
            path = waiting.pop()
            status = self._status(path)
            if status is not None and stat.S_ISDIR(status.st_mode):
                if (status.st_dev, status.st_ino) not in entered:
                    entered.add((status.st_dev, status.st_ino))
                    # Reversed, because the list is used as a stack.
                    waiting += reversed(self._children(path))
            # Not pipes or devices: opening one may block forever.
            elif _is_named_as_image(path) and (status is None or stat.S_ISREG(status.st_mode)):
                yield Entry(path, status.st_size if status else 0)

    def _status(self, path: str) -> os.stat_result | None:
        try:
            return (self.root / path).stat()
        except OSError:
            return None

    def _children(self, path: str) -> list[str]:
        try:
            names = sorted(os.listdir(self.root / path))
        except OSError as error:
            raise UserError(
                f"dataset.path: folder {str(self.root / path)!r} cannot be read "
                f"({error.strerror}); make it readable, or choose another folder."
            ) from error
        return [f"{path}/{name}" if path else name for name in names]

    def image(self, index: int, entry: Entry) -> Image.Image:
        """Open the file; raises any exception of Pillow, and OSError if the file has changed."""
        path = self.root / entry.path
        # The size is a cheap check: statistics must not mix two versions of a file.
        if path.stat().st_size != entry.size:
            raise OSError("the file has another size than when it was listed")
        return open_image(path)


def _is_named_as_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES  # noqa: PTH122 - a million times


def _open_folder(settings: FolderDataset) -> FolderImages:
    root = user_path(settings.path, "dataset.path")
    if not root.exists():
        folders = [path.name for path in root.parent.glob("*") if path.is_dir()]
        near = nearest(root.name, folders)
        raise UserError(
            f"dataset.path={settings.path!r} does not exist; give a folder of images."
            + (f" Folders beside it: {near}." if near else "")
        )
    if not root.is_dir():
        raise UserError(f"dataset.path={settings.path!r} is a file; give its folder.")
    dataset_images = FolderImages(root)
    if next(dataset_images.entries(), None) is None:
        raise UserError(
            f"dataset.path={settings.path!r} contains no images: no file in it or its subfolders "
            f"ends in {', '.join(sorted(SUFFIXES))}."
        )
    return dataset_images


# --- torchvision ---------------------------------------------------------------------------------


class TorchvisionImages:
    """The images of a torchvision dataset, in its own order; labels are ignored."""

    def __init__(self, title: str, dataset: Any) -> None:
        from torchvision.datasets import DatasetFolder

        self.title, self.dataset = title, dataset
        self.lock: contextlib.AbstractContextManager[Any] = threading.Lock()
        self.files: list[tuple[str, int]] | None = None
        # Class folders only read files. Other datasets may share an open file or draw random
        # numbers, so that their items need a lock.
        if isinstance(dataset, DatasetFolder):
            self.lock, self.files = contextlib.nullcontext(), dataset.samples

    def entries(self) -> Iterator[Entry]:
        """Yield one entry per image: its file if there is one, else CIFAR10(train=False)[3]."""
        for index in range(len(self.dataset)):
            yield self._entry(index)

    def _entry(self, index: int) -> Entry:
        if self.files is None:
            return Entry(f"{self.title}[{index}]", 0)
        path = self.files[index][0]
        try:
            size = os.stat(path).st_size  # noqa: PTH116 - a million times
        except OSError:
            size = 0
        return Entry(os.path.relpath(path, self.dataset.root).replace(os.sep, "/"), size)

    def image(self, index: int, entry: Entry) -> Image.Image:
        """Return the image; raises any exception of the dataset, OSError if a file changed."""
        if self.files is not None and self._entry(index) != entry:
            raise OSError("the file has changed since it was listed")
        with self.lock:
            image = self.dataset[index][0]
        if not isinstance(image, Image.Image):
            raise TypeError(f"{self.title} returns {type(image).__name__}, not images")
        return image


def _open_torchvision(settings: TorchvisionDataset) -> TorchvisionImages:
    dataset_images = TorchvisionImages(_title(settings), _build(settings))
    if len(dataset_images.dataset) == 0:
        raise UserError(f"dataset.dataset={settings.dataset!r} holds no images.")
    try:
        dataset_images.image(0, next(dataset_images.entries())).close()
    except Exception as error:
        raise UserError(
            f"the first image of dataset.dataset={settings.dataset!r} cannot be read: "
            f"{reason(error).rstrip('.')}."
        ) from error
    return dataset_images


def _title(settings: TorchvisionDataset) -> str:
    """Return the dataset's title, such as CIFAR10(train=False), without its location."""
    chosen = {k: v for k, v in (settings.args or {}).items() if k not in ("root", "download")}
    inside = ", ".join(f"{name}={chosen[name]!r}" for name in sorted(chosen))
    return f"{settings.dataset}({inside})" if inside else settings.dataset


def _build(settings: TorchvisionDataset) -> Any:
    """Build the dataset; raises UserError."""
    classes = _image_datasets()
    if settings.dataset not in classes:
        remedy = "For your own images: dataset=folder dataset.path=photos."
        raise unknown("dataset.dataset", settings.dataset, classes, remedy)
    make, args = classes[settings.dataset], settings.args or {}
    try:
        inspect.signature(make).bind(**args)
    except TypeError as error:
        raise UserError(
            f"dataset.args={args} do not match {settings.dataset}: {error}. Its signature is "
            f"{inspect.signature(make)}."
        ) from error
    try:
        return make(**args)
    except Exception as error:
        remedy = ""
        if "download" in inspect.signature(make).parameters and not args.get("download"):
            remedy = " To download it: 'dataset.args={..., download: true}'."
        raise UserError(
            f"dataset.dataset={settings.dataset!r} cannot be opened: "
            f"{reason(error).rstrip('.')}.{remedy}"
        ) from error


def _image_datasets() -> dict[str, Any]:
    """Return the torchvision classes whose items begin with an image, by name."""
    from torchvision import datasets

    classes = {name: getattr(datasets, name) for name in datasets.__all__}
    return {
        name: cls
        for name, cls in classes.items()
        if isinstance(cls, type)
        and issubclass(cls, datasets.VisionDataset)
        and name not in _WITHOUT_IMAGES
        and not _PAIRS & {base.__name__ for base in cls.__mro__}
    }


# --- views: images cropped and resized to the network's input, and the map back ------------------


_AHEAD = 64
"""Number of views prepared ahead of the consumer: two batches of the network."""

_DRAFT_MARGIN = 2
"""A JPEG is decoded at a reduced size if this many times the view's size remains."""

_FILTER = Image.Resampling.BILINEAR
"""The filter of training and evaluation (torchvision's presets), with Pillow's antialiasing."""


@dataclass(frozen=True, eq=False)
class View:
    """The centre square of an image, with its shorter side resized."""

    pixels: NDArray[np.uint8] | None
    """(size, size, 3); None if the image cannot be read."""
    width: int = 0
    """Width of the upright image in pixels."""
    height: int = 0
    """Height of the upright image in pixels."""
    reason: str | None = None
    """Reason why it cannot be read."""


def stream_views(
    dataset_images: DatasetImages, numbered: Iterable[tuple[int, Entry]], size: int, threads: int
) -> Iterator[View]:
    """Yield the views of some images in order, prepared ahead by threads.

    Args:
        dataset_images: the dataset.
        numbered: indices in the dataset and entries; consumed as views are taken.
        size: height and width of the views in pixels.
        threads: number of threads. They end when the iterator is closed.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="views")
    # A bounded queue instead of `pool.map`, which would submit a million images at once.
    waiting: deque[Future[View]] = deque()
    try:
        for index, entry in numbered:
            waiting.append(pool.submit(read_view, dataset_images, index, entry, size))
            if len(waiting) > _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def read_view(dataset_images: DatasetImages, index: int, entry: Entry, size: int) -> View:
    """Read image number `index` of a dataset as a view."""
    with ExitStack() as opened:
        try:
            image = opened.enter_context(closing(dataset_images.image(index, entry)))
            width, height = image.size
            fraction = _draft(image, size)
            rgb = as_rgb(image)
            if is_on_its_side(image):
                width, height = height, width
        except Exception as error:  # noqa: BLE001 - decoders raise anything on damaged files
            return View(None, reason=f"{type(error).__name__}: {error}"[:200])
        left, top, right, bottom = (side * fraction for side in _visible(size, width, height))
        # Only the centre of a long image is resized; all of it might not fit in memory.
        square = rgb.resize((size, size), _FILTER, (left, top, right, bottom))
        return View(np.array(square), width, height)


def _draft(image: Image.Image, size: int) -> float:
    """Set a JPEG to be decoded at a reduced size if that suffices; return the fraction."""
    width = image.width
    if min(image.size) < 1:
        raise ValueError("the image has no pixels")
    drafted = image.draft(None, (_DRAFT_MARGIN * size, _DRAFT_MARGIN * size))
    check_pixels(image)
    # Not the quotient of the widths: the decoder rounds the last pixel up.
    return drafted[1][2] / width if drafted else 1.0


def to_original(
    box: tuple[int, int, int, int], size: int, width: int, height: int
) -> tuple[int, int, int, int]:
    """Map a box of a view to the original image.

    Args:
        box: left, top, right, bottom in pixels of the view; right and bottom are exclusive.
        size: height and width of the view.
        width, height: size of the original image in pixels.
    Returns: the smallest enclosing box in pixels of the original image.
    """
    left, top, right, bottom = _visible(size, width, height)
    across, down = (right - left) / size, (bottom - top) / size
    # The tolerance keeps rounding from including a neighbour that the box only touches.
    return (
        max(0, math.floor(left + box[0] * across + 1e-6)),
        max(0, math.floor(top + box[1] * down + 1e-6)),
        min(width, math.ceil(left + box[2] * across - 1e-6)),
        min(height, math.ceil(top + box[3] * down - 1e-6)),
    )


def _visible(size: int, width: int, height: int) -> tuple[float, float, float, float]:
    """Return the part of an image that its view shows: left, top, right, bottom in its pixels.

    The image is resized to whole pixels and a centre square is cut at whole pixels.
    """
    scale = size / min(width, height)
    resized = (max(size, round(width * scale)), max(size, round(height * scale)))
    left, top = ((side - size) // 2 for side in resized)
    across, down = width / resized[0], height / resized[1]
    return (left * across, top * down, (left + size) * across, (top + size) * down)
