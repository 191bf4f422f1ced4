"""What a reader sees of pages: crops of screenshots, and which picture each of them shows."""

import io
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pages import Visit
from PIL import Image

Pixels = NDArray[np.uint8]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom in pixels."""

SIDE = 12


def distinct(count: int, size: tuple[int, int], seed: int) -> Pixels:
    """Pictures (count, H, W, 3) of 6 x 6 fields of random colours: no two are alike."""
    fields = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), np.uint8)
    height, width = size
    scale = Image.Resampling.NEAREST
    return np.stack([np.asarray(Image.fromarray(f).resize((width, height), scale)) for f in fields])


def vector(picture: Pixels) -> NDArray[np.float64]:
    """A picture (H, W, 3) in small, centred and of length 1: products are correlations."""
    small = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BOX)
    values = np.asarray(small, float).ravel()
    values -= values.mean()
    return np.asarray(values / max(float(np.linalg.norm(values)), 1e-9))


T = TypeVar("T", bound=Hashable)


class Gallery(Generic[T]):
    """Pictures by name, to find out which of them is on a screen."""

    def __init__(self, pictures: Mapping[T, Pixels]) -> None:
        self.names = list(pictures)
        self.vectors = np.stack([vector(picture) for picture in pictures.values()])

    def seen(self, crop: Pixels, least: float = 0.85) -> T | None:
        """The name of the picture that a crop shows; None if it is like none of them."""
        alike = self.vectors @ vector(crop)
        best = int(np.argmax(alike))
        return self.names[best] if alike[best] >= least else None


def crop(shot: Pixels, box: Box) -> Pixels:
    """What lies within a box of a screenshot (H, W, 3), without its outermost pixels."""
    left, top, right, bottom = (round(side) for side in box)
    return np.ascontiguousarray(shot[top + 1 : bottom - 1, left + 1 : right - 1])


def screenshot(visit: Visit, whole: bool = False) -> Pixels:
    """The window, or the whole page, when all of its pictures are there."""
    visit.page.evaluate(PAINTED)
    png = visit.page.screenshot(full_page=whole)
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


PAINTED = """async () => {
  const styled = [...document.querySelectorAll("main *")].map((each) => each.style.backgroundImage);
  const behind = [...styled.join().matchAll(/url\\("([^"]+)"\\)/g)].map((url) => url[1]);
  const sources = new Set([...behind, ...[...document.images].map((each) => each.src)]);
  for (const each of document.images) each.loading = "eager";
  const decoded = (source) => Object.assign(new Image(), { src: source }).decode().catch(() => {});
  await Promise.all([...sources].map(decoded));
  const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
  await frame();
  await frame();
}"""

SHEETS_LAID = """[...document.querySelectorAll(".picture:not(.empty)")]
  .every((each) => each.style.backgroundImage.includes("tiles-"))"""


def boxes(visit: Visit, selector: str) -> list[Box]:
    """Where elements are in the window."""
    script = """(selector) => [...document.querySelectorAll(selector)].map((each) => {
      const { left, top, right, bottom } = each.getBoundingClientRect();
      return [left, top, right, bottom];
    })"""
    return [tuple(box) for box in visit.page.evaluate(script, selector)]


def scrolled(visit: Visit) -> Iterator[tuple[float, float]]:
    """Scroll through a page; gives which part of the window, top and bottom, shows it."""
    visit.page.evaluate("scrollTo(0, 0)")
    height = visit.page.evaluate("innerHeight")
    while True:
        bar = visit.page.evaluate("document.querySelector('.bar').getBoundingClientRect().bottom")
        yield max(0.0, bar), height
        before = visit.page.evaluate("scrollY")
        after = visit.page.evaluate(f"scrollBy(0, {(height - bar) * 0.75}), scrollY")
        if after == before:
            return


def tiles(
    visit: Visit, seen: Callable[[Pixels], Any], ready: str = SHEETS_LAID
) -> dict[str, tuple[str, Any]]:
    """All tiles of a grid: by their captions in order of place, what else is said and seen.

    Args:
        visit: where a grid is shown.
        seen: what a crop is of.
        ready: what is true when all pictures in the window are laid out.
    """
    found: dict[str, tuple[float, float, str, Any]] = {}
    for top, bottom in scrolled(visit):
        visit.until(ready)
        shot = screenshot(visit)
        for label, value, down, box in visit.page.evaluate(TILES):
            if label not in found and box[1] >= top and box[3] <= bottom:
                place = (round(box[1] + down), round(box[0]))
                found[label] = (*place, value, seen(crop(shot, box)))
    return {label: found[label][2:] for label in sorted(found, key=lambda name: found[name][:2])}


TILES = """() => [...document.querySelectorAll(".wall li")].map((each) => {
  const text = (part) => each.querySelector(part)?.textContent ?? "";
  const { left, top, right, bottom } = each.querySelector(".picture").getBoundingClientRect();
  return [text(".label"), text(".caption .quiet"), scrollY, [left, top, right, bottom]];
})"""


def crops(shot: Pixels, places: Iterable[Box]) -> list[Pixels]:
    """What lies within boxes of a screenshot of a whole page that is not scrolled."""
    return [crop(shot, box) for box in places]
