"""Figures of images as they lie on disk: every picture is the image that is written at it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from runs import opened

from layer_atlas.config.outputs import Group, ImagesFigure
from layer_atlas.presentation.figures.make import make_figure
from layer_atlas.store.folder import OutputFolder
from tests.pixels.drawings import Figure, Picture, Pixels, Words, pdf_pictures
from tests.pixels.noisy import add_photographs, fill, plan_of, recipe_of
from tests.pixels.reading import in_colour, most_like

CHANNELS = {"conv": (3, 4, 9, 17, 38, 39), "last": (0, 8, 30)}
FATES = {(4, 7): "dead", (9, 0): "missing", (17, 0): "diverged", (38, 7): "failed"}
FATES |= {(17, 7): "diverged", (17, 5): "diverged", (4, 0): "dead", (4, 5): "dead"}
SEEDS = (7, 0, 5)
Image_ = tuple[str, int, int, str, int]
"""Layer, channel, seed, variant (empty: but one) and step (-1: finished)."""


@dataclass(frozen=True)
class World:
    """A sweep with all its images by what they are called."""

    folder: OutputFolder
    images: dict[Image_, Pixels]
    dataset_images: dict[tuple[str, int, int], Pixels]
    numbers: dict[str, dict[str, Any]]
    """Datasets of each layer."""

    def draw(self, **settings: Any) -> list[Figure]:
        """The pages of a figure."""
        figure = ImagesFigure(**{"formats": ("svg", "png", "pdf"), "dpi": 100, **settings})
        for path in self.folder.figures.glob("*.svg"):
            path.unlink()
        make_figure(self.folder, figure)
        paths = sorted(self.folder.figures.glob("images*.svg"), key=lambda p: (len(p.name), p.name))
        return [Figure(path.read_bytes()) for path in paths]

    def order(self, layer: str, values: Any) -> list[int]:
        """The channels of a layer by a number of each, largest first; those without one last."""
        known = zip(np.nan_to_num(values, nan=-np.inf), CHANNELS[layer], strict=True)
        return [channel for _, channel in sorted(known, key=lambda pair: -pair[0])]

    def shown_seed(self, layer: str) -> list[int]:
        """The place of the seed that agrees most, of each channel."""
        return [max(0, int(best)) for best in self.numbers[layer]["best_seed_index"]]


def world_in(root: Path, size: tuple[int, int], colours: int, sign: str = "positive") -> World:
    folder, recipe = OutputFolder(root), recipe_of(size, sign, snapshots=6)
    fill(folder, plan_of(CHANNELS, seeds=SEEDS, recipe=recipe, colours=colours), FATES)
    if size[0] == size[1] and colours == 3:
        add_photographs(folder.atlas)
    images, dataset_images, numbers = {}, {}, {}
    with h5py.File(folder.atlas) as file:
        for layer, group in file["toy"].items():
            numbers[layer] = {n: d[()] for n, d in group.items() if isinstance(d, h5py.Dataset)}
            variants = group["variant"].asstr()[:].tolist() if "variant" in group else [""]
            stored = group["snapshot"][:].reshape(-1, 3, len(variants), 3, *size, colours)
            finished = group["image"][:].reshape(-1, 3, len(variants), *size, colours)
            for row, seed, variant in np.ndindex(stored.shape[:3]):
                name = layer, CHANNELS[layer][row], SEEDS[seed], variants[variant]
                images[*name, -1] = in_colour(finished[row, seed, variant])
                for step, pixels in zip((0, 6), stored[row, seed, variant, :2], strict=True):
                    images[*name, step] = in_colour(pixels)
            if "dataset" in group:
                jpegs = opened(group["dataset/top_jpeg"][:])
                for row, rank in np.ndindex(jpegs.shape[:2]):
                    dataset_images[layer, CHANNELS[layer][row], rank] = jpegs[row, rank]
    return World(folder, images, dataset_images, numbers)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Squares in colour, with photographs."""
    return world_in(tmp_path_factory.mktemp("squares"), (40, 40), 3)


@pytest.fixture(scope="module")
def tall(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Tall images of five bands, two of each job."""
    return world_in(tmp_path_factory.mktemp("tall"), (48, 32), 5, "both")


def below(picture: Picture, words: list[Words]) -> list[str]:
    """What is written right under a picture, line by line."""
    middle = (picture.left + picture.right) / 2
    near = [w for w in words if abs(w.x - middle) < 1 and 0 < w.y - picture.bottom < 22]
    return [w.text for w in sorted(near, key=lambda w: w.y)]


def images_of(world: World, page: Figure) -> list[tuple[Image_ | None, Picture]]:
    """The pictures of a page in reading order, with the image that each is most like."""
    found = [(most_like(picture.pixels, world.images), picture) for picture in page.pictures]
    return sorted(found, key=lambda pair: (round(pair[1].top), pair[1].left))


def made(layer: str, channel: int, seed: int) -> bool:
    fates = FATES if channel in CHANNELS[layer] else {}
    return fates.get((channel, seed)) not in ("missing", "failed")


# --- which image ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_wrapped_channels_are_those_that_are_written_below_them(world: World) -> None:
    check_wrapped(world)


def check_wrapped(world: World) -> None:
    """Of each channel its image by the seed that agrees most, its photographs beside it."""
    (page,) = world.draw(order="index", dataset_images=2)
    titles = [w.y for w in page.words if w.text in CHANNELS]
    shown = []
    for image, picture in images_of(world, page):
        if image is None:
            continue
        (label,) = below(picture, page.words)
        layer = list(CHANNELS)[sum(y < picture.top for y in titles) - 1]
        channel = int(label.rstrip("†*"))
        seed = SEEDS[world.shown_seed(layer)[CHANNELS[layer].index(channel)]]
        assert image == (layer, channel, seed, "", -1)
        marks = {"dead": "†", "diverged": "*"}
        assert label.lstrip("0123456789") == marks.get(FATES.get((channel, seed), ""), "")
        beside = [
            most_like(other.pixels, world.dataset_images)
            for other in page.pictures
            if picture.top - 1 < other.top < picture.bottom
            and 0 <= other.left - picture.right < (picture.right - picture.left) * 0.6
        ]
        assert beside == [(layer, channel, 0), (layer, channel, 1)]
        shown.append((layer, channel))
    expected = [
        (layer, channel)
        for layer, channels in CHANNELS.items()
        for channel, seed in zip(channels, world.shown_seed(layer), strict=True)
        if made(layer, channel, SEEDS[seed])
    ]
    assert shown == expected
    labels = [w.text.rstrip("†*") for w in page.words if w.text[0].isdigit()]
    assert labels == [str(channel) for channels in CHANNELS.values() for channel in channels]


AXES: dict[str, dict[str, Any]] = {
    "seeds across": {"rows": "channels", "columns": "seeds"},
    "seeds down": {"rows": "seeds", "columns": "channels"},
    "steps across": {"rows": "channels", "columns": "steps", "seeds": (5,)},
    "steps of seeds": {"rows": "seeds", "columns": "steps", "channels": [39]},
    "variants across": {"rows": "channels", "columns": "variants", "seeds": (5,)},
    "seeds of variants": {"rows": "variants", "columns": "seeds", "channels": [3]},
}


@pytest.mark.slow
@pytest.mark.parametrize("axes", AXES.values(), ids=AXES)
def test_rows_and_columns_show_what_they_are_called(axes: dict[str, Any], tall: World) -> None:
    check_axes(tall, axes)


def check_axes(tall: World, axes: dict[str, Any]) -> None:
    """Every image is what its heading above and its label beside say, and the rest is crossed."""
    settings = {"layers": ("conv",), "across": 1, **axes}
    (page,) = tall.draw(**settings)
    steps = {"step 0": 0, "step 6": 6, "step 12": -1}
    shown = set()
    for image, picture in images_of(tall, page):
        middle = (picture.left + picture.right) / 2
        high = (picture.top + picture.bottom) / 2
        above = [w.text for w in page.words if abs(w.x - middle) < 1 and w.y < picture.top]
        beside = [w.text for w in page.words if abs(w.y - high) < 6 and w.x < picture.left]
        words = [*above, *beside, *below(picture, page.words)]
        seed = next((int(w[5:]) for w in words if w.startswith("seed")), settings.get("seeds"))
        seed = seed[0] if isinstance(seed, tuple) else SEEDS[0] if seed is None else seed
        step = next((steps[w] for w in words if w in steps), -1)
        variant = next((w for w in words if w in ("positive", "negative")), "positive")
        number = next((int(re.sub(r"\D", "", w)) for w in words if w[0].isdigit()), None)
        channel = settings["channels"][0] if number is None else number
        assert image == ("conv", channel, seed, variant, step), words
        shown.add((channel, seed, variant, step))
    channels = settings.get("channels", CHANNELS["conv"])
    seeds = SEEDS if "seeds" in (axes["rows"], axes["columns"]) else settings.get("seeds", (7,))
    expected = {
        (channel, seed, variant, step)
        for channel in channels
        for seed in seeds
        for variant in ("positive", "negative")
        for step in (0, 6, -1)
        if made("conv", channel, seed)
        and (variant == "positive" or "variants" in axes.values())
        and (step == -1 or "steps" in axes.values())
    }
    assert shown == expected
    assert len(page.pictures) == len(expected)
    for picture in page.pictures:
        width, height = picture.right - picture.left, picture.bottom - picture.top
        assert width / height == pytest.approx(32 / 48, rel=0.02)


@pytest.mark.slow
def test_pages_go_on_where_the_last_one_ended(world: World) -> None:
    check_pages(world)


def check_pages(world: World) -> None:
    settings = {"layers": ("conv",), "rows": "channels", "columns": "seeds", "dataset_images": 0}
    pages = world.draw(**settings, tile=0.6, height=1.8, width="column", across=1)
    assert len(pages) >= 3
    shown = [image[1:3] for page in pages for image, _ in images_of(world, page) if image]
    expected = [(c, s) for c in CHANNELS["conv"] for s in SEEDS if made("conv", c, s)]
    assert shown == expected


# --- orders and groups ---------------------------------------------------------------------------

STATISTICS = ("activation", "activation_max", "clipped", "agreement", "percentile", "selectivity")


def labels_in(pages: list[Figure]) -> list[int]:
    """The numbers under images, in reading order."""
    numbers = [
        (number, round(w.y), w.x, int(w.text.rstrip("†*")))
        for number, page in enumerate(pages)
        for w in page.words
        if w.text.rstrip("†*").isdigit()
    ]
    return [label for *_, label in sorted(numbers)]


@pytest.mark.parametrize("statistic", STATISTICS)
def test_orders_are_those_of_the_numbers_in_the_atlas(statistic: str, world: World) -> None:
    check_order(world, statistic)


def check_order(world: World, statistic: str) -> None:
    """Channels by a statistic of the seeds shown: all of them, the first, the last, told."""
    stored = world.numbers["conv"][statistic]
    values = stored[np.arange(len(stored)), world.shown_seed("conv")]
    ordered = world.order("conv", values)
    common = {"layers": ("conv",), "dataset_images": 0, "formats": ("svg",)}
    assert labels_in(world.draw(order=statistic, **common)) == ordered
    top = {"top": 2, "by": statistic}
    assert labels_in(world.draw(channels=top, **common)) == ordered[:2]
    lowest = world.order("conv", -values)
    bottom = {"bottom": 3, "by": statistic}
    (page,) = world.draw(channels=bottom, tell=statistic, **common)
    for image, picture in images_of(world, page):
        if image is not None:
            label, told = below(picture, page.words)
            value = values[CHANNELS["conv"].index(int(label.rstrip("†*")))]
            assert float(told) == pytest.approx(value, rel=6e-3, abs=1e-3)
    assert [n for n in labels_in([page]) if n in CHANNELS["conv"]][:3] == lowest[:3]


GROUPS = {"curves": (17, 3), "eyes": (39,), "fur": (4, 9, 38)}


@pytest.mark.slow
def test_brackets_hold_the_channels_of_their_groups(world: World) -> None:
    check_groups(world)


def check_groups(world: World) -> None:
    groups = tuple(Group(name=name, channels=list(c)) for name, c in GROUPS.items())
    (page,) = world.draw(layers=("conv",), groups=groups, dataset_images=0, width=9.0, seeds=(5,))
    names = {w.text: w for w in page.words if w.text in GROUPS}
    assert list(names) == list(GROUPS)
    for name, channels in GROUPS.items():
        word = names[name]
        (line,) = [
            path.points
            for path in page.lines
            if abs(path.points[0, 0] - word.x) < 1
            and len(path.points) == 2
            and path.points[0, 1] == path.points[1, 1]
            and 0 < path.points[0, 1] - word.y < 8
        ]
        (left, y), (right, _) = sorted(line.tolist())
        held = [
            image[1]
            for image, picture in images_of(world, page)
            if image
            and 0 < picture.top - y < 12
            and left - 1 <= picture.left < picture.right <= right + 1
        ]
        assert tuple(held) == channels


# --- files ---------------------------------------------------------------------------------------


def test_all_formats_show_the_same_pixels_in_the_same_places(world: World) -> None:
    check_formats(world)


def check_formats(world: World) -> None:
    (page,) = world.draw(columns="seeds", tile=0.5)
    folder = world.folder.figures
    with Image.open(folder / "images.png") as picture:
        pixels = np.asarray(picture)
    for item in page.pictures:
        left, top = round(item.left / 0.72), round(item.top / 0.72)
        height, width = item.pixels.shape[:2]
        assert np.array_equal(pixels[top : top + height, left : left + width], item.pixels)
    found = pdf_pictures((folder / "images.pdf").read_bytes(), len(pixels) * 0.72)
    assert len(found) == len(page.pictures)
    for a, b in zip(found, page.pictures, strict=True):
        assert (a.left, a.top, a.right, a.bottom) == pytest.approx(
            (b.left, b.top, b.right, b.bottom), abs=0.02
        )
        assert np.array_equal(a.pixels, b.pixels)


def test_images_of_their_own_size_are_shown_pixel_by_pixel(world: World) -> None:
    (page,) = world.draw(layers=("last",), columns="seeds", tile=0.4, dataset_images=0)
    shown: Mapping[Any, Pixels] = {image: p.pixels for image, p in images_of(world, page)}
    assert len(shown) == 9
    assert all(np.array_equal(pixels, world.images[image]) for image, pixels in shown.items())
