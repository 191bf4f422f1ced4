"""Montages: every tile where it should be, at any size, and its fate told."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from toys import fill_store, layer_info, make_plan, make_recipe

from layer_atlas.atlas.gather import LayerView, layer_views
from layer_atlas.config.config import CollateSettings
from layer_atlas.config.objectives import ChannelObjective, LogitObjective
from layer_atlas.errors import UserError
from layer_atlas.plan.plan import Plan
from layer_atlas.plan.targets import TargetSpace
from layer_atlas.presentation.layout.grid import Layout, plan_layout
from layer_atlas.presentation.montages.montage import (
    check_names,
    draw_montage,
    montage_layout,
    write_montage,
)
from layer_atlas.store.folder import OutputFolder


def view_of(folder: OutputFolder, plan: Plan) -> LayerView:
    (view,) = layer_views(folder, plan)
    return view


def plan_of(n: int, seeds: int = 1, size: int = 16, shard_size: int = 2) -> Plan:
    return make_plan(
        layer_info("conv", n),
        seeds=tuple(range(seeds)),
        shard_size=shard_size,
        recipe=make_recipe(image_size=size),
    )


SHAPES = [(1, 1), (2, 1), (7, 1), (24, 1), (5, 2), (9, 3)]


@pytest.mark.parametrize("arrangement", ["row", "grid"])
@pytest.mark.parametrize(("n", "seeds"), SHAPES)
def test_every_tile_is_in_its_place(
    n: int, seeds: int, arrangement: str, folder: OutputFolder
) -> None:
    plan = plan_of(n, seeds)
    fill_store(folder, plan)
    settings = CollateSettings(seeds=arrangement)
    picture = np.asarray(draw_montage(view_of(folder, plan), settings).picture)
    layout = montage_layout(view_of(folder, plan), settings)
    assert (picture.shape[1], picture.shape[0]) == layout.size
    corners = {}
    for channel, seed in product(range(n), range(seeds)):
        x, y = corners[channel, seed] = layout.tile_corner(channel, seed)
        tile = picture[y : y + 16, x : x + 16]
        assert tile.shape == (16, 16, 3)
        assert (tile == 10 * channel + seed).all(), (channel, seed)
    assert len(set(corners.values())) == n * seeds
    for channel, seed in product(range(n - 1), range(seeds)):
        (x0, y0), (x1, y1) = corners[channel, seed], corners[channel + 1, seed]
        assert (y1 > y0) or (y1 == y0 and x1 > x0)  # in reading order


@pytest.mark.parametrize(
    ("n", "seeds", "variants", "size", "settings"),
    [
        (1, 1, 1, (16, 16), CollateSettings()),
        (312, 1, 1, (96, 96), CollateSettings()),
        (10, 3, 1, (512, 512), CollateSettings(tile=64)),
        (2048, 1, 1, (224, 224), CollateSettings()),
        (4096, 2, 1, (224, 224), CollateSettings()),
        (2048, 2, 2, (224, 224), CollateSettings(seeds="grid")),
        (7, 2, 3, (32, 32), CollateSettings(columns=3, gap=0, seeds="grid")),
        (5, 1, 1, (32, 32), CollateSettings(columns=100)),
        (9, 2, 4, (24, 96), CollateSettings()),
        (9, 3, 2, (96, 24), CollateSettings()),
        (2, 1, 64, (224, 224), CollateSettings()),
    ],
)
def test_tiles_neither_overlap_nor_leave_the_picture(
    n: int, seeds: int, variants: int, size: tuple[int, int], settings: CollateSettings
) -> None:
    layout = plan_layout(n, seeds, size, settings, variants)
    width, height = layout.size
    assert max(width, height) <= 12_000
    assert 16 <= max(layout.tile) <= max(16, min(max(size), settings.tile))
    assert layout.tile[0] / layout.tile[1] == pytest.approx(size[1] / size[0], rel=0.1)
    if settings.columns:
        assert layout.columns == min(settings.columns, n)
    taken = np.zeros((height, width), np.uint8)
    for place, seed, variant in np.ndindex(n, seeds, variants):
        x, y = layout.tile_corner(place, seed, variant)
        assert x >= 0
        assert y >= layout.header
        assert x + layout.tile[0] <= width
        assert y + layout.tile[1] + layout.lines * layout.line <= height
        taken[y : y + layout.tile[1] + layout.lines * layout.line, x : x + layout.tile[0]] += 1
    assert taken.max() == 1


def test_default_arrangement_is_about_square() -> None:
    for n in (16, 64, 312, 1000):
        layout = plan_layout(n, 1, (96, 96), CollateSettings())
        assert 0.5 < layout.size[0] / layout.size[1] < 2


def test_large_images_are_shown_smaller(folder: OutputFolder) -> None:
    plan = plan_of(4, size=64)
    fill_store(folder, plan)
    picture = np.asarray(draw_montage(view_of(folder, plan), CollateSettings(tile=32)).picture)
    layout = montage_layout(view_of(folder, plan), CollateSettings(tile=32))
    assert layout.tile == (32, 32)
    x, y = layout.tile_corner(3, 0)
    assert (picture[y : y + 32, x : x + 32] == 30).all()


def label_of(picture: Image.Image, plan: Plan, channel: int) -> Image.Image:
    layout = montage_layout(view_of(OutputFolder(Path("none")), plan), CollateSettings())
    x, y = layout.tile_corner(channel, 0)
    return picture.crop(
        (x, y + layout.tile[1], x + layout.cell[0], y + layout.tile[1] + layout.line)
    )


def has_ink(picture: Image.Image) -> bool:
    return bool((np.asarray(picture) < 128).any())


def has_red_ink(picture: Image.Image) -> bool:
    red, green, _ = np.moveaxis(np.asarray(picture).astype(int), -1, 0)
    return bool((red - green > 60).any())


def test_fate_of_a_job_is_written_at_its_tile(folder: OutputFolder) -> None:
    plan = plan_of(6, size=64, shard_size=1)
    fates = {1: "dead", 2: "diverged", 3: "failed", 4: "missing"}
    fill_store(folder, plan, fates)
    picture = draw_montage(view_of(folder, plan), CollateSettings()).picture
    labels = [label_of(picture, plan, channel) for channel in range(6)]
    assert [has_red_ink(label) for label in labels] == [c in fates for c in range(6)]
    assert all(has_ink(label) for label in labels)  # every channel has its number
    assert len({label.tobytes() for label in labels}) == 6
    layout = montage_layout(view_of(folder, plan), CollateSettings())
    for channel in range(6):
        x, y = layout.tile_corner(channel, 0)
        tile = np.asarray(picture)[y : y + 64, x : x + 64]
        shown = bool((tile == 10 * channel).all())
        assert shown == (fates.get(channel) not in ("failed", "missing"))


def test_labels_stay_within_their_cell(folder: OutputFolder) -> None:
    # Long numbers and long words under tiles of the least size.
    plan = make_plan(
        layer_info("conv", 2000),
        channels=tuple(range(1990, 1999)),
        shard_size=1,
        recipe=make_recipe(image_size=16),
    )
    settings = CollateSettings(tile=16, gap=6, columns=9)
    fill_store(folder, plan, {1990: "diverged"})
    with_word = np.asarray(draw_montage(view_of(folder, plan), settings).picture)
    fill_store(folder, plan)
    without = np.asarray(draw_montage(view_of(folder, plan), settings).picture)
    layout = montage_layout(view_of(folder, plan), settings)
    x, y = layout.tile_corner(1, 0)
    neighbour = np.s_[y + layout.tile[1] : y + layout.tile[1] + layout.line, x:]
    assert np.array_equal(with_word[neighbour], without[neighbour])


def test_title_names_model_layer_and_what_became_of_the_jobs(folder: OutputFolder) -> None:
    plan = plan_of(4)
    fill_store(folder, plan)
    picture = draw_montage(view_of(folder, plan), CollateSettings()).picture
    layout = montage_layout(view_of(folder, plan), CollateSettings())
    title = (0, 0, layout.size[0], layout.header)
    renamed = replace(plan, models=(replace(plan.models[0], label="another"),))
    fill_store(folder, renamed)
    pictures = [picture, draw_montage(view_of(folder, renamed), CollateSettings()).picture]
    fill_store(OutputFolder(folder.root / "b"), plan, {3: "dead"})
    pictures.append(
        draw_montage(view_of(OutputFolder(folder.root / "b"), plan), CollateSettings()).picture
    )
    assert len({p.crop(title).tobytes() for p in pictures}) == 3


LONG_NAMES = make_plan(layer_info("block." * 40 + "conv", 1), label="a_network_with_a_long_name")


@pytest.mark.parametrize("plan", [LONG_NAMES, plan_of(6, shard_size=1)], ids=["names", "fates"])
def test_title_stays_within_the_picture(plan: Plan, folder: OutputFolder) -> None:
    fill_store(folder, plan, {1: "dead", 2: "diverged", 3: "failed", 4: "missing"})
    picture = np.asarray(draw_montage(view_of(folder, plan), CollateSettings()).picture)
    assert (picture[:, -4:] == 255).all()


def test_written_montage_is_a_png_under_safe_names(folder: OutputFolder, tmp_path: Path) -> None:
    plan = make_plan(layer_info("../conv", 3), label="../../net")
    fill_store(folder, plan)
    write_montage(folder, view_of(folder, plan), CollateSettings())
    (path,) = folder.montages.rglob("*.png")
    assert path.resolve().is_relative_to(folder.montages.resolve())
    with Image.open(path) as picture:
        assert (picture.format, picture.mode) == ("PNG", "RGB")
    assert list(tmp_path.iterdir()) == [folder.root]


def test_a_heading_has_the_name_that_readers_know(tmp_path: Path) -> None:
    pictures = []
    for name, names in (("features.12", {"toy/features.12": "fire 9"}), ("fire 9", None)):
        plan = make_plan(layer_info(name, 3))
        folder = OutputFolder(tmp_path / str(len(pictures)))
        fill_store(folder, plan)
        settings = CollateSettings(names=names)
        check_names(settings, plan)
        pictures.append(np.asarray(draw_montage(view_of(folder, plan), settings).picture))
    assert np.array_equal(*pictures)
    with pytest.raises(UserError, match=r"unknown layer of collate.names 'features.12'"):
        check_names(CollateSettings(names={"features.12": "fire 9"}), plan)


def test_corrupt_shard_is_shown_as_missing(folder: OutputFolder) -> None:
    plan = plan_of(3, shard_size=1)
    paths = fill_store(folder, plan)
    paths[1].write_bytes(paths[1].read_bytes()[:-1])
    view = view_of(folder, plan)
    picture = np.asarray(draw_montage(view, CollateSettings()).picture)
    assert view.corrupt == [paths[1]]
    layout = montage_layout(view_of(folder, plan), CollateSettings())
    shown = []
    for channel in range(3):
        x, y = layout.tile_corner(channel, 0)
        shown.append(bool((picture[y : y + 16, x : x + 16] == 10 * channel).all()))
    assert shown == [True, False, True]


BOTH = replace(make_recipe(image_size=64), objective=ChannelObjective(sign="both"))


@pytest.mark.parametrize("arrangement", ["row", "grid"])
def test_variants_stand_side_by_side_in_the_order_of_seeds(
    arrangement: str, folder: OutputFolder
) -> None:
    settings = CollateSettings(seeds=arrangement)
    plan = make_plan(layer_info("conv", 3), seeds=(0, 1), recipe=BOTH)
    fill_store(folder, plan)
    picture = np.asarray(draw_montage(view_of(folder, plan), settings).picture)
    layout = montage_layout(view_of(folder, plan), settings)
    for channel, seed in product(range(3), range(2)):
        (x0, y0), (x1, y1) = (layout.tile_corner(channel, seed, v) for v in range(2))
        assert y0 == y1
        assert 64 <= x1 - x0 < 72  # closer than anything else
        for variant, x in enumerate((x0, x1)):
            tile = picture[y0 : y0 + 64, x : x + 64]
            assert (tile == 10 * channel + seed + 3 * variant).all()


def captions(picture: Image.Image, layout: Layout, place: int, *image: int) -> Image.Image:
    """What is written in the first line below an image."""
    x, y = layout.line_corner(0, place, *image)
    return picture.crop((x, y, x + layout.tile[0], y + layout.line - 2))


def test_every_variant_has_its_caption(folder: OutputFolder) -> None:
    plan = make_plan(layer_info("conv", 2), recipe=BOTH)
    fill_store(folder, plan)
    picture = draw_montage(view_of(folder, plan), CollateSettings()).picture
    layout = montage_layout(view_of(folder, plan), CollateSettings())
    told = [captions(picture, layout, p, 0, v).tobytes() for p in range(2) for v in range(2)]
    assert told[0] == told[2] != told[1] == told[3]


@pytest.mark.parametrize("arrangement", ["row", "grid"])
def test_the_fate_of_each_seed_is_told_where_it_stands(
    arrangement: str, folder: OutputFolder
) -> None:
    settings = CollateSettings(seeds=arrangement)
    first, second = (make_plan(layer_info("conv", 2), seeds=(s,), recipe=BOTH) for s in (0, 1))
    fill_store(folder, first)
    fill_store(folder, second, {1: "dead"})
    plan = replace(first, seeds=(0, 1))
    picture = draw_montage(view_of(folder, plan), settings).picture
    layout = montage_layout(view_of(folder, plan), settings)
    red = {}
    for place, seed in product(range(2), range(2)):
        x, y = layout.tile_corner(place, seed)
        bottom = y + layout.tile[1] + layout.lines * layout.line
        red[place, seed] = has_red_ink(picture.crop((x, y, x + layout.block, bottom)))
    assert [where for where, found in red.items() if found] == [(1, 1)]


@pytest.mark.parametrize("size", [16, 48, 128])
def test_long_names_are_cut_short_rather_than_run_into_each_other(
    size: int, folder: OutputFolder
) -> None:
    names = ("owl", "a soft-coated wheaten terrier that is long", "crème brûlée", "cab")
    recipe = replace(make_recipe(image_size=size), objective=LogitObjective())
    plan = make_plan(layer_info("output", 4), recipe=recipe, targets=TargetSpace((4,), names))
    fill_store(folder, plan)
    settings = CollateSettings(columns=4)
    picture = np.asarray(draw_montage(view_of(folder, plan), settings).picture)
    layout = montage_layout(view_of(folder, plan), settings)
    for place in range(4):
        x, y = layout.line_corner(-1, place)
        assert (picture[y : y + layout.line, x + layout.room + 1 : x + layout.cell[0]] == 255).all()
        assert (picture[y : y + layout.line, x : x + layout.room] < 128).any()


@pytest.mark.parametrize(("colours", "shown"), [(1, (0, 0, 0)), (2, (0, 0, None)), (5, (0, 0, 0))])
def test_images_of_any_number_of_colours_are_shown(
    colours: int, shown: tuple[int | None, ...], folder: OutputFolder
) -> None:
    plan = make_plan(layer_info("conv", 2), recipe=make_recipe(), colours=colours)
    fill_store(folder, plan)
    picture = np.asarray(draw_montage(view_of(folder, plan), CollateSettings()).picture)
    x, y = montage_layout(view_of(folder, plan), CollateSettings()).tile_corner(1)
    assert picture[y, x].tolist() == [0 if band is None else 10 for band in shown]
