"""How soon a site is seen, and how it scrolls: on the frames that a real browser shows."""

import base64
import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page, sync_playwright

_BLANK = 4.0
"""Least standard deviation of the pixels of a tile that shows something."""

_GEOMETRY = """() => ({
  columns: now.wall.columns, side: now.wall.side, step: now.wall.step,
  height: now.wall.pictureHeight, count: now.wall.rows.length, gap: now.wall.gap,
  left: now.wall.list.getBoundingClientRect().left,
  top: now.wall.list.getBoundingClientRect().top + scrollY,
  bar: document.querySelector(".bar").offsetHeight,
})"""

_SHARP = 0.5
"""Most mean difference of a frame's pixels from what the view becomes in the end."""
_IS_VIEWED = """() => [...document.querySelectorAll(".wall .picture")]
  .some((each) => each.style.backgroundImage.includes("/tiles-"))"""


@dataclass(frozen=True)
class FirstView:
    """How soon a browser showed a grid, in seconds from the start of the navigation."""

    full: float
    """Until no tile in the window is blank; some may be shown in small first."""
    sharp: float
    """Until nothing changes any more."""


@dataclass(frozen=True)
class Scrolled:
    """What a browser showed of a grid on the way to its end."""

    seconds: float
    frames: int
    longest_blank: float
    """Seconds for which a tile in the window stayed blank, at most."""


@dataclass(frozen=True)
class _Frame:
    """What a browser showed."""

    at: float
    """Seconds since 1970."""
    top: float
    """Pixels that were scrolled away."""
    pixels: NDArray[np.float32]


class _Film:
    """The frames that a page shows from now on."""

    def __init__(self, page: Page) -> None:
        self._session = page.context.new_cdp_session(page)
        self._told: list[dict[str, Any]] = []
        self._session.on("Page.screencastFrame", self._keep)
        # Small frames take little of the time that is measured.
        asked = {"format": "jpeg", "quality": 60, "maxWidth": 1280, "maxHeight": 1280}
        self._session.send("Page.startScreencast", asked)

    def _keep(self, frame: dict[str, Any]) -> None:
        self._told.append(frame)
        self._session.send("Page.screencastFrameAck", {"sessionId": frame["sessionId"]})

    def end(self, size: tuple[int, int]) -> list[_Frame]:
        """All frames, in the size of the window."""
        self._session.send("Page.stopScreencast")
        return [self._frame(told, size) for told in self._told]

    @staticmethod
    def _frame(told: dict[str, Any], size: tuple[int, int]) -> _Frame:
        picture = Image.open(io.BytesIO(base64.b64decode(told["data"]))).convert("L").resize(size)
        about = told["metadata"]
        pixels = np.asarray(picture, np.float32)
        return _Frame(about["timestamp"], about["scrollOffsetY"], pixels)


@dataclass(frozen=True)
class MapView:
    """How a browser opened a map."""

    seconds: float
    """From the start of the navigation until all points were painted."""
    megabytes: float
    """Memory of the page's process; pages that it shares with others count in parts."""
    frame: float
    """Seconds of drawing all points once more."""


def map_view(index: Path, address: str, size: tuple[int, int]) -> MapView:
    """Open a similarity map in a browser that was just started."""
    painted = "now.wall?.small?.complete && now.wall.small.naturalWidth > 0"
    drawn = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    again = (
        "(() => { const t = performance.now(); now.wall.draw(); return performance.now() - t })()"
    )
    with _page(size) as page:
        begun = time.monotonic()
        page.goto(f"{index.as_uri()}{address}")
        page.wait_for_function(painted)
        page.evaluate(drawn)
        seconds = time.monotonic() - begun
        frame = page.evaluate(again) / 1000
        assert page.context.browser is not None
        session = page.context.browser.new_browser_cdp_session()
        processes = session.send("SystemInfo.getProcessInfo")["processInfo"]
        pages = [process["id"] for process in processes if process["type"] == "renderer"]
        return MapView(seconds, max(map(_megabytes, pages)), frame)


def _megabytes(pid: int) -> float:
    """Proportional set size of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


@contextmanager
def _page(size: tuple[int, int]) -> Iterator[Page]:
    """A page of a browser that was just started, in a window of so many pixels."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        yield browser.new_page(viewport={"width": size[0], "height": size[1]})
        browser.close()


def first_view(index: Path, address: str, size: tuple[int, int]) -> FirstView:
    """Open a grid in a window of so many pixels."""
    with _page(size) as page:
        animation = _Film(page)
        page.goto(index.resolve().as_uri() + address)
        page.wait_for_timeout(3000)
        frames = animation.end(size)
        begun, grid = page.evaluate("performance.timeOrigin") / 1000, page.evaluate(_GEOMETRY)
    full = (frame.at for frame in frames if not any(_blank_tiles(frame, grid)))
    last = frames[-1].pixels
    sharp = (frame.at for frame in frames if np.abs(frame.pixels - last).mean() < _SHARP)
    return FirstView(next(full) - begun, next(sharp) - begun)


def scroll(index: Path, address: str, size: tuple[int, int]) -> Scrolled:
    """Turn the wheel to the end of a grid as soon as its first tiles are there."""
    with _page(size) as page:
        page.goto(index.resolve().as_uri() + address)
        while not page.evaluate(_IS_VIEWED):
            page.wait_for_timeout(5)
        animation = _Film(page)
        page.mouse.move(size[0] / 2, size[1] / 2)
        begun = time.monotonic()
        while not page.evaluate("scrollY + innerHeight >= document.body.scrollHeight - 2"):
            page.mouse.wheel(0, 120)  # a notch; a tile is in the window for about half a second
            page.wait_for_timeout(25)
        seconds = time.monotonic() - begun
        page.wait_for_timeout(1000)
        frames = animation.end(size)
        return Scrolled(seconds, len(frames), _longest_blank(frames, page.evaluate(_GEOMETRY)))


def _longest_blank(frames: Sequence[_Frame], grid: dict[str, float]) -> float:
    """Seconds from the frame on which a tile is blank first to that on which it no longer is."""
    since: dict[int, float] = {}
    longest = 0.0
    for frame, after in pairwise(frames):
        since = {tile: since.get(tile, frame.at) for tile in _blank_tiles(frame, grid)}
        longest = max([longest, *(after.at - begun for begun in since.values())])
    return longest


def _blank_tiles(frame: _Frame, grid: dict[str, float]) -> Iterator[int]:
    """Which tiles in the window are blank."""
    columns, inset = int(grid["columns"]), 6
    for tile in range(int(grid["count"])):
        x = grid["left"] + tile % columns * (grid["side"] + grid["gap"])
        y = grid["top"] + tile // columns * grid["step"] - frame.top
        if y < grid["bar"] or y + grid["height"] > len(frame.pixels):
            continue
        rows = slice(int(y) + inset, int(y + grid["height"]) - inset)
        part = frame.pixels[rows, int(x) + inset : int(x + grid["side"]) - inset]
        if part.std() < _BLANK:
            yield tile
