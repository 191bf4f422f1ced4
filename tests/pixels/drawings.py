"""Read the files of a figure: pictures, words, lines and axes, each at its place on the page.

Places are in points from the left upper corner; of plots, numbers are read off the ticks, as people
do.
"""

import base64
import io
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Points = NDArray[np.float64]
"""(N, 2)."""

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


@dataclass(frozen=True)
class Picture:
    left: float
    top: float
    right: float
    bottom: float
    pixels: Pixels


@dataclass(frozen=True)
class Words:
    x: float
    y: float
    """Of the line that letters stand on."""
    text: str
    colour: str
    turned: bool


@dataclass(frozen=True)
class Path:
    points: Points
    style: str

    @property
    def stroke(self) -> str:
        found = re.search(r"stroke: (#\w+)", self.style)
        return found[1] if found else ""

    @property
    def width(self) -> float:
        found = re.search(r"stroke-width: ([\d.]+)", self.style)
        return float(found[1]) if found else 1.0


@dataclass(frozen=True)
class Axes:
    """A plot: what is drawn in it, and its ticks."""

    paths: list[Path]
    dots: Points
    ticks: dict[str, dict[str, float]]
    """By `x` and `y`: the place of each label."""
    words: list[Words]

    def numbers(self, axis: str, places: Any, straight: Any = float) -> NDArray[np.float64]:
        """What places along an axis stand for; `straight` makes numbers of labels equidistant."""
        labels = [straight(float(label.replace("−", "-"))) for label in self.ticks[axis]]
        slope, start = np.polyfit(list(self.ticks[axis].values()), labels, 1)
        return np.asarray(start + slope * np.asarray(places))


class Figure:
    """A page of a figure, from its SVG file."""

    def __init__(self, data: bytes) -> None:
        self.root = ElementTree.fromstring(data)
        everything = list(self.root.iter())
        self.pictures = [_picture(item) for item in everything if item.tag == f"{_SVG}image"]
        groups = [g for g in everything if g.get("id", "").startswith("axes_")]
        self.ground, *plots = groups
        self.words = list(_words(self.ground))
        self.lines = list(_paths(self.ground))
        self.plots = [_axes(group) for group in plots]


def _picture(item: ElementTree.Element) -> Picture:
    a, _, _, d, x, y = map(float, _NUMBER.findall(item.get("transform", "")))
    data = base64.b64decode(item.get(_LINK, "").partition("base64,")[2])
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    height, width = pixels.shape[:2]
    return Picture(x, y, x + a * width, y + d * height, pixels)


def _words(group: ElementTree.Element) -> Iterator[Words]:
    for item in group.iter(f"{_SVG}text"):
        x, y, *_ = map(float, _NUMBER.findall(item.get("transform", "").replace("rotate(-0", "")))
        colour = re.search(r"fill: (#\w+)", item.get("style", ""))
        turned = "rotate(-90)" in item.get("transform", "")
        yield Words(x, y, item.text or "", colour[1] if colour else "", turned)


def _paths(group: ElementTree.Element) -> Iterator[Path]:
    parents = {child: parent for parent in group.iter() for child in parent}
    for item in group.iter(f"{_SVG}path"):
        if parents[item].tag != f"{_SVG}defs":
            numbers = list(map(float, _NUMBER.findall(item.get("d", ""))))
            yield Path(np.reshape(numbers, (-1, 2)), item.get("style", ""))


def _axes(group: ElementTree.Element) -> Axes:
    ticks: dict[str, dict[str, float]] = {"x": {}, "y": {}}
    dots = []
    inside = {use for tick in group.iter() if "tick" in tick.get("id", "") for use in tick.iter()}
    for tick in group.iter():
        axis = tick.get("id", "")[:1]
        uses = list(tick.iter(f"{_SVG}use"))
        if "tick_" in tick.get("id", "") and uses:
            (label,) = [text.text or "" for text in tick.iter(f"{_SVG}text")] or [""]
            ticks[axis][label] = float(uses[0].get(axis, "nan"))
    for use in group.iter(f"{_SVG}use"):
        if use not in inside:
            dots.append((float(use.get("x", "nan")), float(use.get("y", "nan"))))
    paths = list(_paths(group))[1:]  # the first one is the ground
    return Axes(paths, np.reshape(dots, (-1, 2)), ticks, list(_words(group)))


# --- PDF -----------------------------------------------------------------------------------------


def pdf_pictures(data: bytes, high: float) -> list[Picture]:
    """The pictures on the only page of a PDF file of so many points, as they are put there."""
    objects = dict(re.findall(rb"\n(\d+) 0 obj\n(.*?)\nendobj", data, re.DOTALL))
    (page,) = [o for o in objects.values() if b"/Type /Page " in o]
    contents = objects[re.search(rb"/Contents (\d+) 0 R", page)[1]]  # type: ignore[index]
    names = dict(re.findall(rb"/(I\d+) (\d+) 0 R", data))
    placed = re.findall(
        rb"1 0 0 1 (\S+) (\S+) cm (\S+) 0 0 -(\S+) 0 \S+ cm /(I\d+) Do",
        zlib.decompress(_stream(contents)),
    )
    found = []
    for x, y, wide, tall, name in placed:
        left, bottom, width, height = map(float, (x, y, wide, tall))
        pixels = _embedded(objects[names[name]])[::-1]  # heights are negative: upside down
        found.append(Picture(left, high - bottom - height, left + width, high - bottom, pixels))
    return found


def _stream(item: bytes) -> bytes:
    return item.partition(b"stream\n")[2].rpartition(b"\nendstream")[0]


def _embedded(item: bytes) -> Pixels:
    """A picture of a PDF: packed as in a PNG file, which it becomes again."""
    width, height = map(int, re.findall(rb"/(?:Width|Height) (\d+)", item))
    assert b"/ColorSpace /DeviceRGB" in item
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", _stream(item)), (b"IEND", b""))
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in parts
    )
    return np.asarray(Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + chunks)).convert("RGB"))
