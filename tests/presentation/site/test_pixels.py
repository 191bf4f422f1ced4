"""Every picture on a page, as pixels on the screen, is the one of the atlas that it is said to be.

Screenshots are compared with the arrays of `atlas.h5` and the photographs in it, read by h5py
alone: nothing here knows where the site keeps its tiles.
"""

import io
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from atlases import made_up
from pages import Visit, at
from PIL import Image
from screens import SHEETS_LAID, Gallery, Pixels, boxes, crop, crops, distinct, screenshot, tiles
from toys import make_recipe

from layer_atlas.config.objectives import ChannelObjective
from layer_atlas.presentation.site.make import make_site
from layer_atlas.store.folder import OutputFolder

WIDE, LARGE = "wide", "large"
SIZES = {WIDE: (24, 32), LARGE: (168, 224)}
COUNTS = {WIDE: 70, LARGE: 6}
SEEDS, VARIANTS = (0, 7), ("positive", "negative")
DATASET_IMAGES, SLOTS, MAPS = 14, 9, 4
MISSING = (66, 67)
"""A shard."""
EMPTY_SLOT = 5
"""Of the strongest photographs of the first channel: it could not be read."""
WINDOWS = [(1280, 800), (390, 844)]
SERIES = [(None, "positive"), *((seed, variant) for seed in SEEDS for variant in VARIANTS)]
"""Which images are looked at; without a seed the best of each channel."""


# --- an atlas whose pictures all differ -----------------------------------------------------------


@pytest.fixture(scope="module")
def browsed(tmp_path_factory: pytest.TempPathFactory) -> OutputFolder:
    """Channels are odd numbers, so that none is the row it is in."""
    recipe = make_recipe()
    recipe = type(recipe)(**{**vars(recipe), "objective": ChannelObjective(sign="both")})
    root = tmp_path_factory.mktemp("pictured") / "atlas"
    made_up(root, COUNTS, SEEDS, dict.fromkeys(MISSING, "missing"), recipe=recipe, shard_size=2)
    folder = OutputFolder(root)
    with h5py.File(folder.atlas, "a") as file:
        for number, (name, size) in enumerate(SIZES.items()):
            _paint(file["toy"][name], size, number)
            _add_photographs(file["toy"][name], number)
    make_site(folder)
    return folder


def _paint(group: h5py.Group, size: tuple[int, int], seed: int) -> None:
    count = len(group["channel"])
    group["channel"][...] = 2 * np.arange(count) + 1
    group.attrs["n_channels"] = 2 * count + 1
    shape = (count, len(SEEDS), len(VARIANTS))
    images = distinct(int(np.prod(shape)), size, 100 + seed).reshape(*shape, *size, 3)
    del group["image"]
    group["image"] = images
    rng = np.random.default_rng(seed)
    group["best_seed_index"] = rng.integers(0, len(SEEDS), count)
    for name in ("activation", "activation_robust"):
        values = rng.normal(size=shape).astype(np.float32)
        group[name][...] = np.where(np.isfinite(group[name][...]), values, np.nan)


def _add_photographs(group: h5py.Group, seed: int) -> None:
    """Nine strongest and nine weakest of fourteen; one of the strongest could not be read."""
    files = [_jpeg(pixels) for pixels in dataset_images().values()]
    names = np.asarray(list(dataset_images()), object)
    count, rng = len(group["channel"]), np.random.default_rng(seed)
    order = np.stack([rng.permutation(DATASET_IMAGES) for _ in range(count)])
    into = group.create_group("dataset")
    for end, chosen in (("top", order[:, :SLOTS]), ("bottom", order[:, -SLOTS:])):
        jpegs = into.create_dataset(f"{end}_jpeg", chosen.shape, h5py.vlen_dtype(np.uint8))
        for place, photograph in np.ndenumerate(chosen):
            jpegs[place] = files[photograph]
        into.create_dataset(f"{end}_path", data=names[chosen], dtype=h5py.string_dtype())
        into[f"{end}_score"] = rng.normal(size=chosen.shape).astype(np.float32)
    into["top_jpeg"][0, EMPTY_SLOT] = np.zeros(0, np.uint8)
    into["top_saliency"] = np.tile(maps(), (count, 1, 1, 1))


def dataset_images() -> dict[str, Pixels]:
    pictures = distinct(DATASET_IMAGES, (64, 64), 9)
    return {f"folder/photograph {n}.jpg": pixels for n, pixels in enumerate(pictures)}


def maps() -> Pixels:
    """A quarter of the photograph counts for each of the first slots."""
    quarters = np.zeros((MAPS, 64, 64), np.uint8)
    for slot in range(MAPS):
        down, across = divmod(slot, 2)
        quarters[slot, 32 * down : 32 * down + 32, 32 * across : 32 * across + 32] = 255
    return quarters


def _jpeg(pixels: Pixels) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95, subsampling=0)
    return np.frombuffer(buffer.getvalue(), np.uint8)


# --- what must be seen ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arrays(browsed: OutputFolder) -> dict[str, Any]:
    with h5py.File(browsed.atlas) as file:
        group = file["toy"]
        names = ("image", "channel", "best_seed_index", "activation", "activation_robust")
        return {name: {each: group[name][each][()] for each in names} for name in COUNTS}


@pytest.fixture(scope="module")
def galleries(arrays: dict[str, Any]) -> dict[str, Gallery[tuple[int, int, str]]]:
    """Of each layer, images by channel, seed and variant."""
    return {
        name: Gallery(
            {
                (int(layer["channel"][k]), SEEDS[s], VARIANTS[v]): layer["image"][k, s, v]
                for k, s, v in np.ndindex(layer["image"].shape[:3])
            }
        )
        for name, layer in arrays.items()
    }


def wanted(layer: dict[str, Any], row: int, seed: int | None, variant: str) -> tuple[int, int, str]:
    """The image that stands for a channel in a view."""
    chosen = SEEDS[layer["best_seed_index"][row]] if seed is None else seed
    return int(layer["channel"][row]), chosen, variant


def values(layer: dict[str, Any], name: str, seed: int | None, variant: str) -> Any:
    """A statistic (C,) of the images that are shown."""
    rows = np.arange(len(layer["channel"]))
    seeds = layer["best_seed_index"] if seed is None else SEEDS.index(seed)
    return layer[name][rows, seeds, VARIANTS.index(variant)]


def query(seed: int | None, variant: str, more: str = "") -> str:
    chosen = [f"variant={variant}", more, "" if seed is None else f"seed={seed}"]
    return "&".join(filter(None, chosen))


@pytest.fixture(params=["1280x800", pytest.param("390x844", marks=pytest.mark.slow)])
def sized(request: pytest.FixtureRequest, visit: Visit) -> Visit:
    width, height = map(int, request.param.split("x"))
    visit.page.set_viewport_size({"width": width, "height": height})
    return visit


# --- grids ----------------------------------------------------------------------------------------


def _numbers(layer: dict[str, Any], rows: Any) -> list[str]:
    return [str(layer["channel"][row]) for row in rows]


def _shown(arrays: dict[str, Any], name: str, rows: Any, series: tuple[int | None, str]) -> Any:
    """What each tile of a grid must show; nothing for an image that is missing."""
    layer = arrays[name]
    return [None if row in MISSING else wanted(layer, row, *series) for row in rows]


@pytest.mark.slow
def test_every_tile_of_a_grid_is_the_image_of_its_channel_seed_and_variant(
    sized: Visit, arrays: dict[str, Any], galleries: dict[str, Any]
) -> None:
    for name in COUNTS:
        rows = range(COUNTS[name])
        for series in SERIES if name == WIDE else SERIES[1:2]:
            sized.go(at(name, query=query(*series)))
            found = tiles(sized, galleries[name].seen)
            assert list(found) == _numbers(arrays[name], rows)
            assert [tile for _, tile in found.values()] == _shown(arrays, name, rows, series)


@pytest.mark.slow
def test_grids_that_are_sorted_and_filtered_show_the_images_and_values_of_their_channels(
    sized: Visit, arrays: dict[str, Any], galleries: dict[str, Any]
) -> None:
    layer = arrays[WIDE]
    for series in SERIES[::3]:
        robust, plain = (values(layer, n, *series) for n in ("activation_robust", "activation"))
        rows = np.argsort(-robust, kind="stable")
        rows = rows[(plain[rows] > -0.5) & np.isfinite(plain[rows])]
        sized.go(
            at(WIDE, query=query(*series, "sort=activation_robust&where=activation%3A-0.5%3A"))
        )
        assert sized.texts(".count") == [f"{len(rows)} of {COUNTS[WIDE]} channels"]
        found = tiles(sized, galleries[WIDE].seen)
        assert list(found) == _numbers(layer, rows)
        assert [tile for _, tile in found.values()] == _shown(arrays, WIDE, rows, series)
        said = [float(text) for text, _ in found.values()]
        assert said == pytest.approx(robust[rows].tolist(), rel=0.005, abs=1e-4)


@pytest.mark.slow
def test_small_previews_are_the_images_too(
    browser: Any,
    browsed: OutputFolder,
    arrays: dict[str, Any],
    galleries: dict[str, Any],
    tmp_path: Path,
) -> None:
    """Sheets that do not come leave the small images alone."""
    copy = shutil.copytree(browsed.site, tmp_path / "site")
    for sheet in copy.rglob("tiles-*.jpg"):
        sheet.unlink()
    visit = Visit.begin(browser, copy / "index.html")
    visit.reset()
    for (width, height), chosen in zip(WINDOWS, (SERIES[1::3], SERIES[2:3]), strict=True):
        visit.page.set_viewport_size({"width": width, "height": height})
        for series in chosen:
            for name in COUNTS:
                visit.go(at(name, query=query(*series)))
                found = tiles(visit, galleries[name].seen, "true")
                expected = _shown(arrays, name, range(COUNTS[name]), series)
                assert [tile for _, tile in found.values()] == expected
    visit.end()


def test_the_strip_of_a_layer_is_of_its_strongest_channels(
    visit: Visit, arrays: dict[str, Any], galleries: dict[str, Any]
) -> None:
    shot = screenshot(visit)
    strips, pictures = boxes(visit, ".strip"), boxes(visit, ".strip img")
    for name, strip, picture in zip(COUNTS, strips, pictures, strict=True):
        layer = arrays[name]
        best = np.nan_to_num(layer["activation_robust"], nan=-np.inf).max(axis=(1, 2))
        rows = np.argsort(-best, kind="stable")[:24]
        width = (picture[2] - picture[0]) / len(rows)
        seen = [
            galleries[name].seen(crop(shot, (left, picture[1], left + width, picture[3])))
            for left in picture[0] + width * np.arange(len(rows))
            if left + width <= strip[2]
        ]
        assert len(seen) >= 5
        assert seen == [wanted(layer, row, None, VARIANTS[0]) for row in rows[: len(seen)]]


# --- pages of channels ----------------------------------------------------------------------------


@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", COUNTS)
def test_images_of_a_channel_are_its_own(
    sized: Visit, arrays: dict[str, Any], galleries: dict[str, Any], name: str, every: bool
) -> None:
    """In large, all seeds and variants in small, and those of similar channels."""
    layer, seen = arrays[name], galleries[name].seen
    rows = range(COUNTS[name]) if name == LARGE else (0, 9, 63, 64, 69)
    for row in rows:
        number = int(layer["channel"][row])
        for series in SERIES if every else SERIES[row % 3 :: 3]:
            sized.go(at(name, number, query(*series)))
            sized.until(SHEETS_LAID)
            shot = screenshot(sized, whole=True)
            images = [seen(each) for each in crops(shot, boxes(sized, ".portrait"))]
            assert images == [wanted(layer, row, *series)]
            assert _aspect(boxes(sized, ".portrait")[0]) == pytest.approx(4 / 3, rel=0.02)
            others = [seen(each) for each in crops(shot, boxes(sized, ".others .picture"))]
            assert others == [(number, seed, variant) for seed in SEEDS for variant in VARIANTS]
            labels = sized.texts(".others .label")
            assert labels == [f"seed {seed} {variant}" for seed in SEEDS for variant in VARIANTS]
            alike = [int(text) for text in sized.texts(".alike .label")]
            kin = [seen(each) for each in crops(shot, boxes(sized, ".alike .picture"))]
            assert kin == [wanted(layer, channel // 2, None, VARIANTS[0]) for channel in alike]


def _aspect(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) / (box[3] - box[1])


@pytest.mark.slow
def test_every_photograph_is_the_one_that_is_named(sized: Visit, browsed: OutputFolder) -> None:
    """The strongest and the weakest, each in its slot with its score, and what counts in it."""
    pictures = dataset_images()
    plain, marked = Gallery(pictures), Gallery(_marked(pictures))
    with h5py.File(browsed.atlas) as file:
        for name, rows in ((LARGE, range(COUNTS[LARGE])), (WIDE, (0, 63, 64))):
            dataset = file["toy"][name]["dataset"]
            for row in rows:
                sized.go(at(name, int(file["toy"][name]["channel"][row])))
                shot = screenshot(sized, whole=True)
                lists = sized.page.locator("ul.photographs")
                assert lists.count() == 2
                for n, end in enumerate(("top", "bottom")):
                    slots = [k for k in range(SLOTS) if len(dataset[f"{end}_jpeg"][row, k])]
                    assert len(slots) == SLOTS - (row == 0 and end == "top")
                    paths = [dataset[f"{end}_path"].asstr()[row, k] for k in slots]
                    first = f"section:has(> ul.photographs):nth-of-type({n + 1}) li .photograph"
                    assert sized.page.locator(f"{first}:first-child").count() == len(slots)
                    crops_ = crops(shot, boxes(sized, f"{first}:first-child"))
                    assert [plain.seen(each) for each in crops_] == paths
                    titles = sized.page.eval_on_selector_all(
                        f"{first}:first-child", "(all) => all.map((each) => each.title)"
                    )
                    assert titles == paths
                    scores = [
                        float(text) for text in lists.nth(n).locator(".caption").all_text_contents()
                    ]
                    kept = [float(dataset[f"{end}_score"][row, k]) for k in slots]
                    assert scores == pytest.approx(kept, rel=0.005, abs=1e-4)
                    counting = [
                        marked.seen(each, 0.7)
                        for each in crops(shot, boxes(sized, f"{first}:nth-child(2)"))
                    ]
                    assert counting == (
                        [(path, k) for path, k in zip(paths, slots, strict=True) if k < MAPS]
                        if end == "top"
                        else []
                    )


def _marked(pictures: dict[str, Pixels]) -> dict[tuple[str, int], Pixels]:
    """Photographs of which one quarter keeps its colours and the rest is a pale print."""
    found = {}
    for name, pixels in pictures.items():
        pale = 0.35 * pixels.mean(axis=2, keepdims=True) + 0.65 * 255
        for slot, quarter in enumerate(maps()):
            weight = quarter[..., None] / 255
            found[name, slot] = (weight * pixels + (1 - weight) * pale).astype(np.uint8)
    return found
