"""Sheets of evidence as they lie on disk: images, photographs and saliency of the right channel."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image
from runs import opened, run_here
from scipy.ndimage import gaussian_filter1d

from layer_atlas.presentation.montages.evidence_pages import write_pages
from layer_atlas.store.folder import OutputFolder
from tests.pixels.noisy import Pixels, add_photographs, fill, noise, plan_of, recipe_of
from tests.pixels.reading import Box, cut, most_like, texts, tiles

CHANNELS = (3, 4, 9, 17, 38)
FATES = {(4, 7): "dead", (9, 0): "missing", (17, 0): "diverged", (38, 7): "failed"}
SIDE = 64
Key = tuple[str, int, int]
"""What a tile is, of which row, and which of these it is."""


@dataclass(frozen=True)
class Sheets:
    """All pages of a layer, and what its atlas holds."""

    pages: list[Pixels]
    every: dict[Key, Pixels]
    numbers: Mapping[str, Any]
    """Datasets by name."""
    rows: list[list[tuple[Key | None, Box]]]
    """The tiles of each row of the sheets with what they show, page by page."""
    page_of: list[int]


def overlaid(photograph: Pixels, saliency: Pixels) -> Pixels:
    """The overlay as `docs/statistics.md` defines it, computed in another way."""
    smooth = saliency.astype(float)
    blur = partial(gaussian_filter1d, sigma=0.03 * max(smooth.shape), mode="constant", truncate=30)
    for axis in (0, 1):  # as if there were nothing beyond the border
        smooth = blur(smooth, axis=axis) / blur(np.ones_like(smooth), axis=axis)
    weight = smooth[..., None] / smooth.max()
    faded = 0.35 * photograph.mean(axis=2, keepdims=True) + 0.65 * 255
    return np.rint(weight * photograph + (1 - weight) * faded).astype(np.uint8)


def read_sheets(folder: OutputFolder) -> Sheets:
    """What the pages of a layer show."""
    with h5py.File(folder.atlas) as file:
        group = file["toy/conv"]
        numbers = {name: group[name][()] for name in group if name != "dataset"}
        numbers |= {name: array[()] for name, array in group["dataset"].items()}
    every: dict[Key, Pixels] = {}
    for (row, seed), _ in np.ndenumerate(numbers["status"]):
        every["image", row, seed] = numbers["image"][row, seed]
    for name in [name for name in ("top", "bottom") if f"{name}_jpeg" in numbers]:
        for (row, rank), pixels in each(opened(numbers[f"{name}_jpeg"])):
            every[name, row, rank] = pixels
    for (row, rank), saliency in each(numbers.get("top_saliency", np.zeros((0, 0, 1)))):
        every["overlay", row, rank] = overlaid(every["top", row, rank], saliency)
    pages, rows, page_of = [], [], []
    for number, path in enumerate(folder.sheets("toy", "conv")):
        with Image.open(path) as picture:
            pages.append(np.asarray(picture))
        for boxes in rows_of(pages[-1]):
            found = [most_like(cut(pages[-1], box), every, worst=20) for box in boxes]
            rows.append(list(zip(found, boxes, strict=True)))
            page_of.append(number)
    return Sheets(pages, every, numbers, rows, page_of)


def each(array: np.ndarray) -> list[tuple[tuple[int, int], Any]]:
    return [(place, array[place]) for place in np.ndindex(array.shape[:2])]


def rows_of(page: Pixels) -> list[list[Box]]:
    """The tiles between two of the thin lines that go across a page."""
    across = (page == (200, 200, 208)).all(axis=2).mean(axis=1) > 0.8
    lines = np.flatnonzero(across)
    boxes = tiles(page)
    return [
        [box for box in boxes if top < box[1] < bottom] for top, bottom in itertools.pairwise(lines)
    ]


def sheets_in(
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    seeds: tuple[int, ...] = (0, 7),
    tile: int = 128,
    tallest: int = 12_000,
    **dataset_images: int,
) -> Sheets:
    folder, recipe = OutputFolder(root), recipe_of((SIDE, SIDE))
    view = fill(folder, plan_of({"conv": CHANNELS}, seeds=seeds, recipe=recipe), FATES)
    add_photographs(folder.atlas, side=SIDE, **dataset_images)
    monkeypatch.setattr("layer_atlas.presentation.montages.evidence_sheet.LARGEST_SIDE", tallest)
    write_pages(view, tile)
    return read_sheets(folder)


def check_tiles(sheets: Sheets, seeds: tuple[int, ...] = (0, 7)) -> None:
    """Each row shows its channel: images, strongest over their saliency, weakest."""
    assert len(sheets.rows) == len(CHANNELS)
    for row, (channel, tiles_of_row) in enumerate(zip(CHANNELS, sheets.rows, strict=True)):
        empty = [box for key, box in tiles_of_row if key is None]
        gone = [s for s in seeds[:3] if FATES.get((channel, s)) in ("missing", "failed")]
        assert len(empty) == len(gone)
        boxes = {key: box for key, box in tiles_of_row if key is not None}
        assert len(boxes) == len(tiles_of_row) - len(empty)
        assert set(boxes) == {key for key in sheets.every if key[1] == row} - {
            ("image", row, seeds.index(s)) for s in gone
        }
        for kind in ("image", "top", "bottom", "overlay"):
            of_kind = [boxes[key] for key in sorted(boxes) if key[0] == kind]
            assert of_kind == sorted(of_kind, key=lambda box: (box[1], box[0]))
            for key in boxes:
                if key[0] == kind == "overlay":
                    above = boxes["top", row, key[2]]
                    assert boxes[key][0] == above[0]
                    assert 0 < boxes[key][1] - above[3] < 12
        edges = [
            (min(boxes[k][0] for k in boxes if k[0] == kind), kind)
            for kind in ("image", "top", "bottom")
            if any(k[0] == kind for k in boxes)
        ]
        assert edges == sorted(edges)
        check_exact(sheets, row, boxes)


def check_exact(sheets: Sheets, row: int, boxes: Mapping[Key, Box]) -> None:
    """Where a picture is shown at its size it is shown as it is, but for frames."""
    page = sheets.pages[sheets.page_of[row]]
    for key, box in boxes.items():
        shown, kept = cut(page, box), sheets.every[key]
        if shown.shape != kept.shape:
            continue
        changed = np.argwhere((shown != kept).any(axis=2))
        if key[0] != "top":
            assert len(changed) == 0 or key[0] == "overlay", key
            assert np.abs(shown.astype(int) - kept).max() <= 1, key
            continue
        left, top, right, bottom = sheets.numbers["top_view_box"][row, key[2]]
        (y0, x0), (y1, x1) = changed.min(axis=0), changed.max(axis=0) + 1
        assert np.abs(np.subtract((x0, y0, x1, y1), (left, top, right, bottom))).max() <= 2


def check_numbers(sheets: Sheets, seeds: tuple[int, ...] = (0, 7)) -> None:
    """Beside each row its channel is named, and the numbers of the seed that agrees most."""
    formats = {"activation": "{:.4g}", "percentile": "{:.3g}", "agreement": "{:.2f}"}
    formats |= {"agreement_rank": "{}", "selectivity": "{:.2f}"}
    told = {
        name: [[form.format(value) for value in line] for line in sheets.numbers[name]]
        for name, form in formats.items()
        if name in sheets.numbers
    }
    values = {text for lines in told.values() for line in lines for text in line}
    values |= set(map(str, seeds))
    names = {name.removeprefix("agreement_") for name in formats} | {"seed"}
    known = values | names | {f"channel {c}" for c in range(40)}
    for row, (channel, tiles_of_row) in enumerate(zip(CHANNELS, sheets.rows, strict=True)):
        first = [box for key, box in tiles_of_row if key is None or key[0] == "image"]
        right = min(box[0] for key, box in tiles_of_row if key and key[0] in ("top", "bottom"))
        left, top = min(b[0] for b in first), first[0][1]
        page = sheets.pages[sheets.page_of[row]].copy()
        for _, box in tiles_of_row:
            cut(page, box)[:] = 255
        page[page[..., 0].astype(int) - page[..., 1] > 3] = 255  # fates, which are in red
        bottom = max(box[3] for _, box in tiles_of_row)
        found = list(texts(page, (left - 2, top, right - 4, bottom), known))
        lines: dict[int, list[Any]] = {}
        for word in sorted(found, key=lambda word: word.left):
            if word.words is not None:
                near = next((y for y in lines if abs(y - word.top) < 6), word.top)
                lines.setdefault(near, []).append(word.words)
        written = [lines[top] for top in sorted(lines)]
        best = max(0, int(sheets.numbers["best_seed_index"][row]))
        expected = [[f"channel {channel}"]]
        if FATES.get((channel, seeds[best])) not in ("missing", "failed"):
            expected += [["seed", str(seeds[best])]] if len(seeds) > 1 else []
            expected += [
                [name.removeprefix("agreement_"), told[name][row][best]]
                for name in formats
                if name in told
            ]
        assert written[: len(expected)] == expected


SHAPES: dict[str, dict[str, Any]] = {
    "saliency": {},
    "without saliency": {"saliency": 0, "strongest": 5, "weakest": 4},
    "one seed": {"seeds": (0,), "strongest": 2, "weakest": 0},
    "smaller": {"tile": 48},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_rows_show_their_channels(
    shape: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets = sheets_in(tmp_path, monkeypatch, **shape)
    assert len(sheets.pages) == 1
    check_tiles(sheets, shape.get("seeds", (0, 7)))


def test_pages_go_on_where_the_last_one_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheets = sheets_in(tmp_path, monkeypatch, tallest=900)
    assert sheets.page_of == [0, 1, 1, 2, 2] or len(sheets.pages) > 1
    check_tiles(sheets)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [(0,)])
def test_numbers_are_those_of_the_channel(
    seeds: tuple[int, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_numbers(sheets_in(tmp_path, monkeypatch, seeds=seeds), seeds)


@pytest.mark.slow
def test_of_many_seeds_the_one_with_the_numbers_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = (0, 7, 2, 5, 9)
    sheets = sheets_in(tmp_path, monkeypatch, seeds=seeds)
    check_numbers(sheets, seeds)
    for row, tiles_of_row in enumerate(sheets.rows):
        shown = [key[2] for key, _ in tiles_of_row if key and key[0] == "image"]
        best = int(sheets.numbers["best_seed_index"][row])
        fate = FATES.get((CHANNELS[row], seeds[max(0, best)]))
        assert max(0, best) in shown or fate in ("missing", "failed")


# --- a sweep with photographs --------------------------------------------------------------------


def squared(path: Path, side: int) -> Pixels:
    """The middle of a photograph as a square of that size."""
    with Image.open(path) as picture:
        short, (width, height) = min(picture.size), picture.size
        left, top = (width - short) // 2, (height - short) // 2
        middle = picture.convert("RGB").crop((left, top, left + short, top + short))
        return np.asarray(middle.resize((side, side), Image.Resampling.BICUBIC))


@pytest.mark.slow
def test_photographs_on_sheets_are_the_files_that_the_atlas_names(tmp_path: Path) -> None:
    draw, dataset_images = np.random.default_rng(0), tmp_path / "photographs"
    dataset_images.mkdir()
    for number in range(40):
        shape = [(50, 70), (90, 60), (48, 48)][number % 3]
        Image.fromarray(noise(draw, *shape)).save(dataset_images / f"{number:02}.png")
    overrides = ("layers=[conv1]", "channels=[2,5,11]", "image_size=48", "optimizer.steps=2")
    overrides += ("optimizer.leaky_steps=1", "dataset=folder", f"dataset.path={dataset_images}")
    overrides += ("saliency=vanilla", "montage=evidence", "executor.devices=[cpu]")
    assert run_here(tmp_path, *overrides) == 0
    files = {path.name: squared(path, 48) for path in dataset_images.iterdir()}
    folder = OutputFolder(tmp_path / "demo")
    with h5py.File(folder.atlas) as atlas:
        dataset = atlas["demo/conv1/dataset"]
        top, bottom = (dataset[f"{end}_path"].asstr()[:] for end in ("top", "bottom"))
        counts = [dataset[f"{end}_jpeg"].shape[1] for end in ("top", "bottom")]
    with Image.open(folder.sheet("demo", "conv1", 1)) as sheet:
        page = np.asarray(sheet)
    for row, boxes in enumerate(rows_of(page)):
        found = [most_like(cut(page, box), files, worst=14) for box in boxes]
        names = [name for name in found if name is not None]
        first, second = (
            [name for name, box in zip(found, boxes, strict=True) if name and box[1] == top_of_line]
            for top_of_line in sorted({box[1] for box in boxes})
        )
        weakest = -(-counts[1] // 2)
        assert first[: counts[0]] == top[row, : counts[0]].tolist()
        assert [*first[counts[0] :], *second[-(counts[1] - weakest) :]] == (
            bottom[row, : counts[1]].tolist()
        )
        assert len(names) >= sum(counts)
