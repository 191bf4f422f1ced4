"""The files of a site, and its pictures: tiles on sheets, so that thousands are a few dozen files.

A site is `index.html` and the folder that it names. The folder is written first and `index.html`
last, atomically: until then the site is the previous one.

Pages opened from disk may load scripts and nothing else, so data are scripts that call
`layerAtlas.take(name, JSON.parse(text))`. The text is JSON in ASCII without `<`, `>` and `&`: no
text from a network or a file name can end the script or begin a tag.

Images that readers enlarge and save are files of their own, named after what they show. Dataset
images are the files of the atlas, each once for all layers; the saliency of a target's strongest
is a sheet of tiles.
"""

import hashlib
import io
import json
import math
import os
import re
import shutil
import zlib
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from layer_atlas.atlas.reader import Layer
from layer_atlas.config.objectives import MOST_STRONGEST
from layer_atlas.errors import StorageError
from layer_atlas.plan.jobs import WITHOUT_IMAGE
from layer_atlas.presentation.layout.grid import Cells
from layer_atlas.presentation.layout.page import Tile, fitted_size, resampled
from layer_atlas.presentation.layout.pillow import PillowCanvas
from layer_atlas.presentation.montages.evidence_pages import overlay
from layer_atlas.processes import usable_cores
from layer_atlas.store.files import (
    CorruptFile,
    read_at_most,
    read_object,
    write_atomically,
    write_json,
)
from layer_atlas.store.folder import safe_name

_LISTING = "files.json"
_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}
_MOST_BYTES = 2**20
"""Largest size of a first page."""
_MOST_LISTED = 2**28
"""Bytes of a listing: some millions of files."""
_MOST_TAKEN = 2**25
"""Bytes of all montages that a site has too: to be sent, it must stay small."""
_WAITING = 4
"""Most tasks that wait for a thread; some hold a picture in memory."""


class SiteFiles:
    """Writes the files of one folder; pictures are drawn and encoded by threads."""

    def __init__(self, root: Path, pool: ThreadPoolExecutor) -> None:
        self.root, self._pool = root, pool
        self._sizes: dict[str, int] = {}
        self._room = _MOST_TAKEN
        self._waiting: deque[Future[None]] = deque()
        self._once: set[str] = set()

    def write(self, name: str, data: bytes) -> None:
        """Write a file, and wait until it is on the disk. Raises StorageError."""
        path = self.root / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"cannot write {path}: {error.strerror or error}") from error
        self._sizes[name] = len(data)

    def write_picture(self, name: str, picture: Image.Image, quality: int = 82) -> None:
        """Write a picture as a JPEG or PNG file, by its name. Raises StorageError."""
        buffer = io.BytesIO()
        if name.endswith(".png"):
            picture.save(buffer, "PNG", compress_type=zlib.Z_RLE)  # as small, twice as fast
        else:
            picture.save(buffer, "JPEG", quality=quality)
        self.write(name, buffer.getvalue())

    def take(self, name: str, path: Path) -> bool:
        """Have a file of the output folder in the site too, if it exists and there is room for it.

        Returns: whether it is in the site. Raises StorageError.
        """
        try:
            data = read_at_most(path, self._room)
        except (OSError, CorruptFile):
            return False
        self._room -= len(data)
        self.write(name, data)
        return True

    def write_once(self, name: str, data: bytes) -> None:
        """Have a thread write a file that several layers have, unless it is written."""
        if name not in self._once:
            self._once.add(name)
            self.submit(partial(self.write, name, data))

    def submit(self, task: Callable[[], None]) -> None:
        """Have a thread write some pictures before `finish` returns. Raises StorageError."""
        while len(self._waiting) >= _WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._pool.submit(task))

    def finish(self) -> None:
        """Wait for all pictures and write down what there is. Raises StorageError."""
        self.wait()
        write_json(self.root / _LISTING, self._sizes)

    def wait(self) -> None:
        """Wait for what was submitted. Raises StorageError."""
        while self._waiting:
            self._waiting.popleft().result()


@contextmanager
def site_files(root: Path) -> Iterator[SiteFiles]:
    """Open a folder for a site's files; it is complete when the block ends without an error."""
    with ThreadPoolExecutor(usable_cores()) as pool:
        files = SiteFiles(root, pool)
        yield files
        files.finish()


def is_complete(root: Path) -> bool:
    """Whether all files of a folder exist with the sizes that were written."""
    try:
        sizes = read_object(root / _LISTING, _MOST_LISTED)
        return all((root / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return False


def folder_of(site: Path) -> str | None:
    """The folder that a site's first page names; None without such a page."""
    try:
        page = read_at_most(site / "index.html", _MOST_BYTES).decode()
    except (OSError, ValueError, CorruptFile):
        return None
    found = re.search(r'name="layer-atlas-site" content="([0-9a-f]+)"', page)
    return found[1] if found else None


def put_up(site: Path, folder: str, page: str) -> None:
    """Switch the site to a folder, and remove the folders of earlier sites.

    Args:
        site: folder of the whole site.
        folder: name of the folder within it.
        page: text of `index.html`, which names the folder.
    Raises:
        StorageError: the disk is full or fails.
    """
    write_atomically(site / "index.html", page.encode())
    for path in site.iterdir():
        if path.is_dir() and path.name != folder and len(path.name) == len(folder):
            shutil.rmtree(path, ignore_errors=True)


# --- data ----------------------------------------------------------------------------------------


def script(name: str, value: Any) -> bytes:
    """A script that hands a value to the page under a name.

    Raises:
        ValueError: a number in it is not finite.
    """
    # Browsers read a long JSON text in half the time that they read the same value as a script.
    return f"layerAtlas.take({_json(name)}, JSON.parse({_json(_json(value))}));\n".encode("ascii")


def _json(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.translate(_ESCAPES)


def numbers(array: NDArray[Any], digits: int | None = None) -> list[Any]:
    """An array of any shape as lists; values that are not finite become `None`.

    Args:
        array: of numbers.
        digits: significant digits; by default as many as distinguish floats of this width, so that
            values sort as they do in the array.
    """
    if array.ndim > 1:
        return [numbers(row, digits) for row in array]
    if array.dtype.kind != "f":
        return list(array.tolist())
    if digits is not None:
        return [float(f"{x:.{digits}g}") if np.isfinite(x) else None for x in array.tolist()]
    finite = np.isfinite(array)
    texts = array.astype(str).tolist()
    return [float(text) if ok else None for text, ok in zip(texts, finite.tolist(), strict=True)]


COLUMNS = 8
PER_SHEET = COLUMNS * COLUMNS
TILE = 160
"""Longer side of a tile in pixels; smaller images are kept as they are."""

_PREVIEW_TILE = 32
_PREVIEW_QUALITY = 60
_PREVIEW_PIXELS = 4_000_000
"""Pixels of a preview, which is loaded first and shown until the sheets are there."""

STRIP = 24
"""Images that represent a layer in the overview."""
_STRIP_TILE = 96
_DATASET_TILE = 128
_MOST_DATASET_IMAGES = 9
"""Dataset images in a row."""
_LARGEST = 1024
"""Longer side in pixels of an image on its own, but for PNG files."""
_LOSSLESS_BYTES = 2**25
"""Bytes of all images of a layer up to which its files are PNG: about 200 images of 224 pixels."""
_ALWAYS_ALONE = 96
"""Longer side in pixels from which images have files of their own in layers of any size."""
_GROUND = "#808080"


def fitted(size: tuple[int, int], most: int) -> tuple[int, int]:
    """Width and height of an image of a height and width that shrinks to fit a square."""
    side = min(most, max(size))
    return fitted_size(size, (side, side))


def image_size(layer: Layer) -> tuple[int, int]:
    """Height and width of a layer's images."""
    height, width = layer.dataset("image").shape[-3:-1]
    return int(height), int(width)


def image_files(layer: Layer) -> dict[str, Any] | None:
    """Name the files of a layer's images: the browser's scripts make the same names of it.

    Returns: `stem`, `suffix` (`png` as stored, or `jpg`), the `variants` in names; None if images
        have no files of their own, as the tiny ones of large layers.
    """
    lossless = layer.dataset("image").size <= _LOSSLESS_BYTES
    if not lossless and max(image_size(layer)) < _ALWAYS_ALONE:
        return None
    return {
        "stem": safe_name(f"{layer.model.name}-{layer.name}"),
        "suffix": "png" if lossless else "jpg",
        "variants": list(map(safe_name, layer.variants)),
    }


def sheet_name(seed: int, variant: int, number: int) -> str:
    """Name of the file of a sheet of tiles; the browser's scripts know it too."""
    return f"tiles-{seed}-{variant}-{number}.jpg"


def preview_name(seed: int, variant: int) -> str:
    """Name of the file of all images in small; the browser's scripts know it too."""
    return f"preview-{seed}-{variant}.jpg"


def image_name(layer: Layer, named: dict[str, Any], row: int, which: tuple[int, int]) -> str:
    """Name of the file of an image on its own: `resnet50-layer3-17-seed0.png`.

    Args:
        layer: the layer.
        named: its names, as `image_files` has them.
        row: the target's place in the layer.
        which: places of seed and variant.
    """
    seed, variant = which
    parts = [named["stem"], str(layer.channels[row]), f"seed{layer.seeds[seed]}"]
    return "-".join([*parts, *named["variants"][variant : variant + 1]]) + f".{named['suffix']}"


def preview_columns(layer: Layer) -> int:
    """Number of images side by side on a preview."""
    return math.isqrt(max(len(layer.channels), 1) - 1) + 1


class _Mosaic:
    """Tiles of one size side by side, in rows."""

    def __init__(self, count: int, columns: int, tile: tuple[int, int]) -> None:
        self._cells = Cells((0, 0), tile, columns)
        self._canvas = PillowCanvas(self._cells.size(count), _GROUND)
        self.picture = self._canvas.picture

    def put(self, position: int, pixels: NDArray[np.uint8]) -> None:
        """Show an image at a position, counted along the rows."""
        self._canvas.tile(Tile(self._cells.box(position), pixels))


def write_images(files: SiteFiles, folder: str, layer: Layer) -> None:
    """Write all images of a layer: on sheets, in small on a preview, and most of them alone, too.

    Threads draw a sheet each, with one image of it in memory at a time.
    """
    for seed in range(len(layer.seeds)):
        for variant in range(max(1, len(layer.variants))):
            _Series(files, folder, layer, (seed, variant)).write()


class _Series:
    """The images of one seed and variant."""

    def __init__(self, files: SiteFiles, folder: str, layer: Layer, which: tuple[int, int]) -> None:
        self.files, self.folder, self.layer, self.which = files, folder, layer, which
        # Asked of the file once: threads would wait for each other in the HDF5 library.
        self.tile, self.named = tile_size(layer), image_files(layer)
        lossless = self.named is not None and self.named["suffix"] == "png"
        height, width = image_size(layer)
        self.large = (width, height) if lossless else fitted((height, width), _LARGEST)
        self.preview = _Mosaic(len(layer.channels), preview_columns(layer), _preview_tile(layer))

    def write(self) -> None:
        """Write the files; the preview is the last, as all sheets paint on it."""
        count = len(self.layer.channels)
        for first in range(0, count, PER_SHEET):
            rows = range(first, min(first + PER_SHEET, count))
            self.files.submit(partial(self._write_sheet, rows))
        self.files.wait()
        name = f"{self.folder}/{preview_name(*self.which)}"
        self.files.write_picture(name, self.preview.picture, _PREVIEW_QUALITY)

    def _write_sheet(self, rows: range) -> None:
        sheet = _Mosaic(len(rows), COLUMNS, self.tile)
        for row, pixels in _images(self.layer, self.which, rows):
            # Previews are made of tiles: of large images, that is much faster.
            tile = np.asarray(resampled(pixels, self.tile))
            sheet.put(row - rows.start, tile)
            self.preview.put(row, tile)
            if self.named is not None:
                name = image_name(self.layer, self.named, row, self.which)
                picture = resampled(pixels, self.large)
                self.files.write_picture(f"{self.folder}/{name}", picture)
        number = rows.start // PER_SHEET
        self.files.write_picture(f"{self.folder}/{sheet_name(*self.which, number)}", sheet.picture)


def tile_size(layer: Layer) -> tuple[int, int]:
    """Width and height of a layer's tiles."""
    return fitted(image_size(layer), TILE)


def _preview_tile(layer: Layer) -> tuple[int, int]:
    """Width and height of an image among thousands."""
    side = math.isqrt(_PREVIEW_PIXELS // max(len(layer.channels), 1))
    return fitted(image_size(layer), max(1, min(side, _PREVIEW_TILE)))


def _images(
    layer: Layer, which: tuple[int, int], rows: Iterable[int]
) -> Iterator[tuple[int, NDArray[np.uint8]]]:
    """Yield the rows that have an image, and the image; one is in memory at a time."""
    images, (seed, variant) = layer.dataset("image"), which
    for row in rows:
        if layer.status[row, seed] not in WITHOUT_IMAGE:
            index = (row, seed, variant) if layer.variants else (row, seed)
            yield row, np.asarray(images[index])


def write_strip(
    files: SiteFiles, folder: str, layer: Layer, images: list[tuple[int, int]]
) -> tuple[int, int]:
    """Write some of a layer's images side by side; returns the size of a tile.

    Args:
        files: to write to.
        folder: of the layer.
        layer: whose images.
        images: row and seed of each.
    """
    tile = fitted(image_size(layer), _STRIP_TILE)
    strip = _Mosaic(max(1, len(images)), max(1, len(images)), tile)
    for position, (row, seed) in enumerate(images):
        for _, pixels in _images(layer, (seed, 0), [row]):
            strip.put(position, pixels)
    files.write_picture(f"{folder}/strip.jpg", strip.picture)
    return tile


# --- dataset images ------------------------------------------------------------------------------


def saliency_name(row: int) -> str:
    """Name of the sheet of a target's saliency; the browser's scripts know it too."""
    return f"saliency-{row}.jpg"


@dataclass(frozen=True)
class DatasetImages:
    """The dataset images of a layer that the atlas holds."""

    layer: Layer

    @cached_property
    def ends(self) -> list[Literal["top", "bottom"]]:
        """`top`, `bottom`, as far as the atlas has them."""
        return [end for end in ("top", "bottom") if f"dataset/{end}_jpeg" in self.layer]

    @cached_property
    def across(self) -> int:
        """Largest number of images of an end."""
        shapes = [self.layer.dataset(f"dataset/{end}_jpeg").shape for end in self.ends]
        most = MOST_STRONGEST if "facet" in self.layer else _MOST_DATASET_IMAGES
        return min(most, max((int(shape[1]) for shape in shapes), default=0))

    @cached_property
    def salient(self) -> int:
        """Number of the strongest that have saliency."""
        if "dataset/top_saliency" not in self.layer or "top" not in self.ends:
            return 0
        return min(self.across, int(self.layer.dataset("dataset/top_saliency").shape[1]))

    @cached_property
    def map_size(self) -> list[int]:
        """Height and width of activation maps; empty if there are none."""
        names = ("dataset/top_activation", "dataset/top_activation_bounds")
        if not all(name in self.layer for name in names):
            return []
        return [int(side) for side in self.layer.dataset(names[0]).shape[2:]]

    def facts(self) -> dict[str, Any] | None:
        """The number of maps and their size for the scripts; None if there are no images."""
        return {"salient": self.salient, "map": self.map_size} if self.across else None

    def records(self, row: int) -> dict[str, Any]:
        """Describe the dataset images of a target, by their slots in a row.

        Returns: `top` and `bottom`, lists of `slot`, `path`, `file`, `score`, `salient` (whether
            there is saliency), `box`, the receptive field of the largest response in the file, and
            `facet`, by which images are ordered if they have one; and `constant`, the response to
            all images of the data set if it is the same.
        """
        slots: dict[str, Any] = {end: self._slots(end, row) for end in self.ends}
        return {**slots, "constant": self._constant(row)}

    def _slots(self, end: str, row: int) -> list[dict[str, Any]]:
        scores, boxes = (self._row(f"{end}_{name}", row) for name in ("score", "view_box"))
        facets = self._facets(row) if end == "top" else {}
        images = sorted(self._images(end, row), key=lambda image: facets.get(image[0], 0))
        return [
            {
                "slot": slot,
                "path": path,
                "file": photograph_name(path, data),
                "score": numbers(scores)[slot] if slot < len(scores) else None,
                "salient": end == "top" and slot < self.salient,
                "box": boxes[slot].tolist() if slot < len(boxes) else None,
                **({"facet": facets[slot]} if slot in facets else {}),
            }
            for slot, path, data in images
        ]

    def _facets(self, row: int) -> dict[int, int]:
        """The facet of each slot; those of all seeds are the same, where an image was made."""
        if "facet" not in self.layer:
            return {}
        facets = np.asarray(self.layer.dataset("facet")[row]).max(axis=0)
        return {slot: int(facet) for slot, facet in enumerate(facets) if facet}

    def _images(self, end: str, row: int) -> Iterator[tuple[int, str, bytes]]:
        """Yield slot, path (empty if unknown) and file; an unreadable image leaves its slot out."""
        paths = self._row(f"{end}_path", row)
        for slot, data in enumerate(self._row(f"{end}_jpeg", row)[: self.across]):
            if len(data):
                known = str(paths[slot], "utf-8", "replace") if slot < len(paths) else ""
                yield slot, known, data.tobytes()

    def _row(self, name: str, row: int) -> NDArray[Any]:
        """The values of a channel in an HDF5 dataset, one per image; empty without it."""
        known = f"dataset/{name}" in self.layer
        return np.asarray(self.layer.dataset(f"dataset/{name}")[row]) if known else np.empty(0)

    def _constant(self, row: int) -> float | None:
        if not {"min", "max"} <= self._extremes.keys():
            return None
        least, most = self._extremes["min"][row], self._extremes["max"][row]
        return float(least) if np.isfinite(least) and least == most else None

    @cached_property
    def _extremes(self) -> dict[str, NDArray[Any]]:
        """Smallest and largest responses (C,) of all channels over the data set."""
        names = (name for name in ("min", "max") if f"dataset/{name}" in self.layer)
        return {name: self.layer[f"dataset/{name}"] for name in names}

    def write(self, files: SiteFiles, folder: str, row: int) -> None:
        """Write the images of a target that no other has, and its saliency. Raises StorageError."""
        channel = self.layer.channels[row]
        for end in self.ends:
            # Decoded for its own sake: what is no JPEG file does not get into the site.
            pictures = self.layer.dataset_images(channel, end)[: self.across]
            images = list(self._images(end, row))
            for _, path, data in images:
                files.write_once(photograph_name(path, data), data)
            if end == "top" and self.salient:
                slots = {slot: pixels for (slot, *_), pixels in zip(images, pictures, strict=False)}
                self._write_saliency(files, folder, row, slots)

    def _write_saliency(
        self, files: SiteFiles, folder: str, row: int, pictures: dict[int, NDArray[np.uint8]]
    ) -> None:
        cells = Cells((0, 0), (_DATASET_TILE, _DATASET_TILE), self.salient)
        canvas = PillowCanvas(cells.size(self.salient), _GROUND)
        maps = self.layer.dataset("dataset/top_saliency")[row]
        for slot, pixels in pictures.items():
            if slot < self.salient:
                canvas.tile(Tile(cells.box(slot), overlay(pixels, maps[slot])))
        name = f"{folder}/{saliency_name(row)}"
        files.submit(partial(files.write_picture, name, canvas.picture, 80))

    def maps(self, rows: range) -> dict[str, Any]:
        """The activation maps of some targets' strongest images, for the scripts.

        Returns: `first`, the row of the first target; and for every target and slot `bounds`, the
            activations of 0 and 255, and `maps` in base64, row by row from the top.
        """
        inside = slice(rows.start, rows.stop)
        levels = np.asarray(self.layer.dataset("dataset/top_activation")[inside])
        bounds = np.asarray(self.layer.dataset("dataset/top_activation_bounds")[inside])
        return {
            "first": rows.start,
            "bounds": numbers(bounds, 4),
            "maps": [[b64encode(level.tobytes()).decode() for level in row] for row in levels],
        }


def photograph_name(path: str, data: bytes) -> str:
    """Name of the file of a dataset image in the site: its own, and digits of its content."""
    stem = safe_name(PurePosixPath(path).stem or "image")[:48]
    return f"photographs/{stem}-{hashlib.sha256(data).hexdigest()[:12]}.jpg"
