"""How a site scrolls: on the frames that a real browser shows, tile by tile."""

import base64
import io
import time
from collections import defaultdict
from dataclasses import dataclass
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

_FIRST_VIEW = """() => new Promise((done) => {
  const look = () => {
    const shown = now.wall && [...document.querySelectorAll(".wall .picture")]
      .filter((each) => each.getBoundingClientRect().top < innerHeight)
      .map((each) => each.style.backgroundImage.slice(5, -2));
    if (shown && shown.length && shown.every((source) => sheets.want(source).complete)) {
      requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now())));
    } else requestAnimationFrame(look);
  };
  look();
})"""


@dataclass(frozen=True)
class Seen:
    """What a browser showed of a grid."""

    first_view: float
    """Seconds from the start of the navigation until all tiles in the window are shown."""
    seconds: float
    """That scrolling to the end took."""
    frames: int
    longest_blank: float
    """Seconds for which a tile in the window stayed blank, at most."""

    def __str__(self) -> str:
        return (
            f"first view: {self.first_view:.2f} s\n"
            f"scrolled to the end in {self.seconds:.1f} s, {self.frames} frames; "
            f"no tile was blank for more than {1000 * self.longest_blank:.0f} ms"
        )


def look(index: Path, address: str, size: tuple[int, int]) -> Seen:
    """Open a grid in a window of so many pixels, and turn the wheel to its end."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        page.goto(index.resolve().as_uri() + address)
        first_view = page.evaluate(_FIRST_VIEW) / 1000
        frames, seconds = _scrolled(page, size)
        blank = _longest_blank(frames, page.evaluate(_GEOMETRY), size)
        browser.close()
    return Seen(first_view, seconds, len(frames), blank)


def _scrolled(page: Page, size: tuple[int, int]) -> tuple[list[dict[str, Any]], float]:
    """The frames from the top to the end of a page, and how long that took."""
    session, frames = page.context.new_cdp_session(page), []

    def keep(frame: dict[str, Any]) -> None:
        frames.append(frame)
        session.send("Page.screencastFrameAck", {"sessionId": frame["sessionId"]})

    session.on("Page.screencastFrame", keep)
    session.send("Page.startScreencast", {"format": "jpeg", "quality": 60})
    page.mouse.move(size[0] / 2, size[1] / 2)
    begun, at_end = time.monotonic(), "scrollY + innerHeight >= document.body.scrollHeight - 2"
    while not page.evaluate(at_end):
        page.mouse.wheel(0, 500)
        page.wait_for_timeout(60)
    seconds = time.monotonic() - begun
    page.wait_for_timeout(1000)
    session.send("Page.stopScreencast")
    return frames, seconds


def _longest_blank(
    frames: list[dict[str, Any]], grid: dict[str, float], size: tuple[int, int]
) -> float:
    since: dict[int, float] = {}
    longest: dict[int, float] = defaultdict(float)
    for frame in frames:
        told = frame["metadata"]
        picture = Image.open(io.BytesIO(base64.b64decode(frame["data"]))).convert("L")
        pixels = np.asarray(picture.resize(size), np.float32)
        blank, shown = _blank_tiles(pixels, grid, told["scrollOffsetY"])
        since = {tile: when for tile, when in since.items() if tile in shown & blank}
        for tile in blank:
            longest[tile] = max(
                longest[tile], told["timestamp"] - since.setdefault(tile, told["timestamp"])
            )
    return max(longest.values(), default=0.0)


def _blank_tiles(
    pixels: NDArray[np.float32], grid: dict[str, float], scrolled: float
) -> tuple[set[int], set[int]]:
    """Which tiles are blank, and which are in the window at all."""
    blank, shown = set(), set()
    columns, inset = int(grid["columns"]), 6
    for tile in range(int(grid["count"])):
        x = grid["left"] + tile % columns * (grid["side"] + grid["gap"])
        y = grid["top"] + tile // columns * grid["step"] - scrolled
        if y < grid["bar"] or y + grid["height"] > len(pixels):
            continue
        shown.add(tile)
        rows = slice(int(y) + inset, int(y + grid["height"]) - inset)
        part = pixels[rows, int(x) + inset : int(x + grid["side"]) - inset]
        if part.std() < _BLANK:
            blank.add(tile)
    return blank, shown
