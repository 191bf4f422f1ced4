"""Photographs: datasets that channels are looked up in, as folders of files or from torchvision.

A dataset is asked for two things: the list of its photographs, in an order that is the same on
every machine, and one photograph at a time. How a network sees it is said in `views`.
"""

import contextlib
import inspect
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from layer_atlas.config.datasets import DatasetConfig, FolderDataset, TorchvisionDataset
from layer_atlas.config.inputs import user_path
from layer_atlas.datasets.image_files import open_image
from layer_atlas.datasets.listing import Entry
from layer_atlas.errors import UserError, nearest_first, unknown

SUFFIXES = frozenset({".jpeg", ".jpg", ".png", ".webp"})
"""Files with these endings, in any case, are photographs of a folder."""

# Of torchvision's datasets these hold videos, patches as tensors, or nothing of their own, and
# those of these kinds hold pairs of images.
_NO_PHOTOGRAPHS = frozenset(
    {"DatasetFolder", "HMDB51", "Kinetics", "MovingMNIST", "PhotoTour", "UCF101", "VisionDataset"}
)
_PAIRS = frozenset({"FlowDataset", "StereoMatchingDataset"})


class DatasetImages(Protocol):
    """A dataset of photographs, safe to use from several threads."""

    def entries(self) -> Iterator[Entry]:
        """All photographs, one at a time, in an order that is the same on every machine."""

    def image(self, index: int, entry: Entry) -> Image.Image:
        """Photograph number `index`, opened but perhaps not yet decoded; close it after use.

        Raises: whatever a file from outside can raise.
        """


def open_dataset(settings: DatasetConfig) -> DatasetImages:
    """Open a dataset and make sure that it holds a photograph.

    Raises:
        UserError: no such folder or dataset, nothing in it, wrong arguments, not downloaded.
    """
    if isinstance(settings, FolderDataset):
        return _open_folder(settings)
    assert isinstance(settings, TorchvisionDataset), settings
    return _open_torchvision(settings)


# --- folders -------------------------------------------------------------------------------------


class FolderImages:
    """Every image file of a folder, at any nesting."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def entries(self) -> Iterator[Entry]:
        """The files in order of their names, folder by folder.

        Links to folders are followed, but every folder is entered once, so that none leads in
        circles. Files that cannot be looked at, such as broken links, are listed with size 0.

        Raises:
            UserError: a folder that cannot be read.
        """
        entered: set[tuple[int, int]] = set()
        waiting = [""]
        while waiting:
            path = waiting.pop()
            status = self._status(path)
            if status is not None and stat.S_ISDIR(status.st_mode):
                if (status.st_dev, status.st_ino) not in entered:
                    entered.add((status.st_dev, status.st_ino))
                    waiting += reversed(self._children(path))
            # Neither pipes nor devices: opening one may take for ever.
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
        """The file; raises whatever Pillow does, and OSError if it has changed meanwhile."""
        path = self.root / entry.path
        if path.stat().st_size != entry.size:
            raise OSError("the file is not as long as it was when it was listed")
        return open_image(path)


def _is_named_as_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in SUFFIXES  # noqa: PTH122 - a million times


def _open_folder(settings: FolderDataset) -> FolderImages:
    root = user_path(settings.path, "dataset.path")
    if not root.exists():
        folders = [path.name for path in root.parent.glob("*") if path.is_dir()]
        near = ", ".join(nearest_first(root.name, folders)[:8])
        raise UserError(
            f"dataset.path={settings.path!r} does not exist; give a folder of photographs."
            + (f" Folders beside it: {near}." if near else "")
        )
    if not root.is_dir():
        raise UserError(f"dataset.path={settings.path!r} is a file; name the folder it is in.")
    dataset_images = FolderImages(root)
    if next(dataset_images.entries(), None) is None:
        raise UserError(
            f"dataset.path={settings.path!r} holds no photographs: no file in it, at any nesting, "
            f"ends in {', '.join(sorted(SUFFIXES))}."
        )
    return dataset_images


# --- torchvision ---------------------------------------------------------------------------------


class TorchvisionImages:
    """The images of a torchvision dataset, in its own order; labels are not looked at."""

    def __init__(self, title: str, dataset: Any) -> None:
        from torchvision.datasets import DatasetFolder

        self.title, self.dataset = title, dataset
        self.turn: contextlib.AbstractContextManager[Any] = threading.Lock()
        self.files: list[tuple[str, int]] | None = None
        # Folders of classes only read files; others may keep one open, or draw random numbers.
        if isinstance(dataset, DatasetFolder):
            self.turn, self.files = contextlib.nullcontext(), dataset.samples

    def entries(self) -> Iterator[Entry]:
        """One entry per image, like CIFAR10(train=False)[3]; a file where the dataset has them."""
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
        """The image; raises whatever the dataset does, and OSError if a file has changed."""
        if self.files is not None and self._entry(index) != entry:
            raise OSError("the file is not the one that was listed")
        with self.turn:
            image = self.dataset[index][0]
        if not isinstance(image, Image.Image):
            raise TypeError(f"{self.title} gives {type(image).__name__}, not images")
        return image


def _open_torchvision(settings: TorchvisionDataset) -> TorchvisionImages:
    dataset_images = TorchvisionImages(_title(settings), _made(settings))
    if len(dataset_images.dataset) == 0:
        raise UserError(f"dataset.dataset={settings.dataset!r} holds no images.")
    try:
        dataset_images.image(0, next(dataset_images.entries())).close()
    except Exception as error:
        raise UserError(
            f"the first image of dataset.dataset={settings.dataset!r} cannot be read: "
            f"{_reason(error)}."
        ) from error
    return dataset_images


def _title(settings: TorchvisionDataset) -> str:
    """The dataset and what chooses its images: CIFAR10(train=False); not where it lies."""
    chosen = {k: v for k, v in (settings.args or {}).items() if k not in ("root", "download")}
    inside = ", ".join(f"{name}={chosen[name]!r}" for name in sorted(chosen))
    return f"{settings.dataset}({inside})" if inside else settings.dataset


def _made(settings: TorchvisionDataset) -> Any:
    """The dataset itself; raises UserError."""
    classes = _image_datasets()
    if settings.dataset not in classes:
        remedy = "Photographs of your own: dataset=folder dataset.path=photos."
        raise unknown("dataset.dataset", settings.dataset, classes, remedy)
    make, args = classes[settings.dataset], settings.args or {}
    try:
        inspect.signature(make).bind(**args)
    except TypeError as error:
        raise UserError(
            f"dataset.args={args} do not suit {settings.dataset}: {error}. It takes "
            f"{inspect.signature(make)}."
        ) from error
    try:
        return make(**args)
    except Exception as error:
        remedy = ""
        if "download" in inspect.signature(make).parameters and not args.get("download"):
            remedy = " If it is not there yet: 'dataset.args={..., download: true}'."
        raise UserError(
            f"dataset.dataset={settings.dataset!r} cannot be opened: {_reason(error)}.{remedy}"
        ) from error


def _image_datasets() -> dict[str, Any]:
    """The classes of torchvision whose items begin with an image, by name."""
    from torchvision import datasets

    found = {name: getattr(datasets, name) for name in datasets.__all__}
    return {
        name: cls
        for name, cls in found.items()
        if isinstance(cls, type)
        and issubclass(cls, datasets.VisionDataset)
        and name not in _NO_PHOTOGRAPHS
        and not _PAIRS & {base.__name__ for base in cls.__mro__}
    }


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (text[0] if text else type(error).__name__)[:200].rstrip(".")
