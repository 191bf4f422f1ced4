"""Montages as they lie on disk: which image stands where, and what is written at it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from layer_atlas.config.config import CollateSettings
from layer_atlas.presentation.montages.montage import write_montage
from layer_atlas.store.folder import OutputFolder
from tests.pixels.noisy import fill, plan_of, recipe_of
from tests.pixels.reading import Box, Pixels, cut, in_colour, most_like, texts, tiles

CHANNELS = (3, 4, 9, 17, 38)
"""Of 40: their numbers are not their places."""
FATES = {(4, 7): "dead", (9, 0): "missing", (17, 0): "diverged", (38, 7): "failed"}
Key = tuple[int, ...]
"""Places along the atlas's axes: channel, seed and variant, if there are several."""


@dataclass(frozen=True)
class World:
    """A sweep, and how its montage looks."""

    seeds: tuple[int, ...] = (0,)
    size: tuple[int, int] = (96, 96)
    colours: int = 3
    sign: str = "positive"
    fates: Mapping[tuple[int, int], str] = field(default_factory=dict)
    look: Mapping[str, Any] = field(default_factory=dict)


WORLDS = {
    "seeds": World((0, 7), fates=FATES),
    "grids of seeds": World((7, 0), fates=FATES, look={"seeds": "grid"}),
    "variants": World(sign="both", fates={(4, 0): "dead", (17, 0): "missing"}),
    "seeds and variants": World((0, 7, 2), sign="both", fates=FATES, look={"columns": 2}),
    "grids of variants": World((0, 7), sign="both", fates=FATES, look={"seeds": "grid"}),
    "tall and grey": World((0, 7), (126, 84), 1, fates={(4, 7): "dead", (38, 7): "failed"}),
    "wide, of two bands": World(size=(40, 80), colours=2, look={"columns": 3, "gap": 11}),
    "smaller, of five bands": World((0, 7), (96, 144), 5, look={"tile": 108}),
}


@dataclass(frozen=True)
class Made:
    """A montage and its atlas."""

    world: World
    picture: Pixels
    channels: list[int]
    seeds: list[int]
    images: dict[Key, Pixels]
    """What is to be seen of every image of the atlas, made or not."""
    variants: list[str]

    def fate(self, key: Key) -> str:
        return self.world.fates.get((self.channels[key[0]], self.seeds[key[1]]), "")

    def shown(self, key: Key) -> Key | None:
        return None if self.fate(key) in ("missing", "failed") else key


def made_in(root: Path, world: World) -> Made:
    """Draw the montage of a world, and read it and the atlas again."""
    folder, recipe = OutputFolder(root), recipe_of(world.size, world.sign)
    plan = plan_of({"conv": CHANNELS}, seeds=world.seeds, recipe=recipe, colours=world.colours)
    write_montage(folder, fill(folder, plan, world.fates), CollateSettings(**world.look))
    with h5py.File(folder.atlas) as file:
        group = file["toy/conv"]
        stored = group["image"][:]
        images = {key: in_colour(stored[key]) for key in np.ndindex(stored.shape[:-3])}
        channels, seeds = group["channel"][:].tolist(), group["seed"][:].tolist()
        variants = group["variant"].asstr()[:].tolist() if "variant" in group else []
    with Image.open(folder.montage("toy", "conv")) as picture:
        return Made(world, np.asarray(picture), channels, seeds, images, variants)


@pytest.fixture(params=WORLDS)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    return made_in(tmp_path, WORLDS[request.param])


def grids(made: Made) -> bool:
    return made.world.look.get("seeds") == "grid"


def check_images(made: Made) -> None:
    """Tiles in reading order are those of the atlas: channels, or seeds if each has its grid."""
    expected = [made.shown(key) for key in in_order(made)]
    boxes = tiles(made.picture)
    shown = [cut(made.picture, box) for box in boxes]
    found = [most_like(tile, made.images) for tile in shown]
    assert found == expected
    for tile, key in zip(shown, expected, strict=True):
        if key is None:  # pale and crossed out
            assert (tile[1, tile.shape[1] // 2] == (233, 233, 238)).all()
            assert (tile[0, 0] == tile[-1, -1]).all()
            assert len(np.unique(tile.reshape(-1, 3), axis=0)) == 2
        elif tile.shape == made.images[key].shape:
            assert np.array_equal(tile, made.images[key])
    sides = {(right - left, bottom - top) for left, top, right, bottom in boxes}
    (side,) = sides
    height, width = made.world.size
    assert side[0] * height == side[1] * width


def in_order(made: Made) -> list[Key]:
    keys = sorted(made.images)
    return sorted(keys, key=lambda key: key[1]) if grids(made) else keys


def check_words(made: Made) -> None:
    """Below each cell: names of its variants, its seeds with their fates, its number."""
    known = {*map(str, range(41)), *made.variants, *(f"seed {seed}" for seed in range(10))}
    known |= {"dead", "missing", "diverged", "failed", "silent", "toy"}
    boxes = dict(zip(in_order(made), tiles(made.picture), strict=True))
    every = list(range(len(made.seeds)))
    for channel, number in enumerate(made.channels):
        for seeds in [[s] for s in every] if grids(made) else [every]:
            cell = [key for key in boxes if key[0] == channel and key[1] in seeds]
            found = list(texts(made.picture, below([boxes[key] for key in cell], boxes), known))
            if grids(made):  # the title of the next one
                found = [word for word in found if not str(word.words).startswith("seed")]
            words = [word.words for word in sorted(found, key=lambda w: (w.top // 8, w.left))]
            assert words == expected_words(made, number, cell, seeds)
            red = {word.words for word in found if word.red}
            assert red == {made.fate(key) for key in cell} - {""}


def below(cell: list[Box], boxes: Mapping[Key, Box]) -> Box:
    """The part of the picture below a cell's tiles, as far as the next ones."""
    left, bottom = cell[0][0], cell[0][3]
    rest = [b for b in boxes.values() if b not in cell]
    right = min((b[0] for b in rest if b[1] == cell[0][1] and b[0] > left), default=10**4)
    end = min((b[1] for b in rest if b[1] >= bottom), default=10**4)
    return left - 2, bottom, right - 2, min(end, bottom + 70)


def expected_words(made: Made, number: int, cell: list[Key], seeds: list[int]) -> list[str]:
    fates = [made.fate((cell[0][0], seed)) for seed in seeds]
    words = made.variants * len(seeds)
    if len(seeds) > 1:
        for seed, fate in zip(seeds, fates, strict=True):
            words = [*words, f"seed {made.seeds[seed]}", *filter(None, [fate])]
        return [*words, str(number)]
    return [*words, str(number), *filter(None, fates)]


def test_every_image_stands_in_its_place(made: Made) -> None:
    check_images(made)


def test_every_image_has_its_words(made: Made) -> None:
    check_words(made)


def test_grids_of_seeds_are_named(tmp_path: Path) -> None:
    made = made_in(tmp_path, WORLDS["grids of seeds"])
    check_titles(made)


def check_titles(made: Made) -> None:
    """Above the first tile of each grid its seed is written."""
    boxes = dict(zip(in_order(made), tiles(made.picture), strict=True))
    for seed, number in enumerate(made.seeds):
        left, top, _, _ = boxes[0, seed]
        above = (left - 2, top - 26, left + 100, top - 1)
        found = [word.words for word in texts(made.picture, above, ["seed 0", "seed 7"])]
        assert found == [f"seed {number}"]


def test_the_title_counts_what_there_is(tmp_path: Path) -> None:
    made = made_in(tmp_path, WORLDS["seeds"])
    title = "5 of 40 channels  ·  1 dead, 1 diverged, 1 failed, 1 missing  ·  "
    head = (0, 0, made.picture.shape[1], tiles(made.picture)[0][1])
    recipe = "channel, fourier, adam 12 steps, 96 px, fp32"
    facts = f"{title}{recipe}"
    names = ["toy  ·  conv", *parts(facts), *parts(facts.replace("1 dead", "2 dead"))]
    first, *lines = [word.words for word in texts(made.picture, head, names)]
    assert first == names[0]
    # A line may end at a separator, which is not drawn there.
    assert re.sub(r"\W+", " ", " ".join(map(str, lines))) == re.sub(r"\W+", " ", facts)


def parts(facts: str) -> list[str]:
    """What a line of a heading may have of its facts: all of them, or up to or from some word."""
    breaks = [found.span() for found in re.finditer(r" +", facts)]
    lines = {facts, *(facts[:a] for a, _ in breaks), *(facts[b:] for _, b in breaks)}
    return sorted({line.strip(" ·") for line in lines})
