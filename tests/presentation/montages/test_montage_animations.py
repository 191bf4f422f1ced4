"""Animations: every frame in its place and order, named for what it shows, and none too many."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image
from runs import atlas_here, run_here
from toys import composed, fill_store, layer_info, make_plan, make_recipe

from layer_atlas.atlas.gather import layer_views
from layer_atlas.config.config import CollateSettings
from layer_atlas.config.objectives import ChannelObjective, InterpolationObjective
from layer_atlas.config.recipe import Recipe
from layer_atlas.errors import UserError
from layer_atlas.plan.plan import Plan
from layer_atlas.plan.targets import TargetSpace
from layer_atlas.presentation.collate import collate_here, content_of, is_current
from layer_atlas.presentation.layout.grid import SEPARATOR, plan_layout
from layer_atlas.presentation.montages.montage import (
    Animation,
    draw_strip,
    durations,
    write_animations,
)
from layer_atlas.store.folder import OutputFolder
from layer_atlas.store.manifest import write_manifest
from layer_atlas.sweep.run import prepare_plan
from tests.presentation.montages.test_montage import view_of

BOTH = CollateSettings(animations="both")
FILMED = replace(make_recipe(image_size=16, steps=6), snapshots=2)
"""Frames after 0, 2, 4 and 6 steps."""


def filmed(folder: OutputFolder, plan: Plan, settings: CollateSettings = BOTH) -> list[str]:
    """Write the animations of a plan of one layer; returns the names of the files."""
    write_animations(view_of(folder, plan), settings)
    return sorted(path.name for path in (folder.root / "animations").rglob("*") if path.is_file())


def frames_of(path: Path) -> tuple[list[np.ndarray], list[int]]:
    """The frames of an animation, and for how long each is shown, in milliseconds."""
    frames, shown = [], []
    with Image.open(path) as animation:
        assert animation.info["loop"] == 0  # for ever
        for number in range(animation.n_frames):
            animation.seek(number)
            frames.append(np.asarray(animation.convert("RGB")))
            shown.append(animation.info["duration"])
    return frames, shown


def a_film(n: int, size: tuple[int, int] = (16, 16)) -> Animation:
    """Its frames tell their number in red, and are of a colour that no letter has."""
    frames = np.zeros((n, *size, 3), np.uint8)
    frames[..., 0] = np.arange(n)[:, None, None]
    frames[..., 1] = 255
    return Animation(frames, range(0, 3 * n, 3), "toy", ["a fact"])


@pytest.mark.parametrize("n", [2, 4, 13, 129])
def test_a_strip_has_every_frame_in_reading_order(n: int) -> None:
    animation = a_film(n)
    picture = np.asarray(draw_strip(animation, CollateSettings()).picture)
    tiles = [
        (shade, *np.argwhere((picture == (shade, 255, 0)).all(axis=2))[0]) for shade in range(n)
    ]
    for (before, y0, x0), (after, y1, x1) in pairwise(tiles):
        assert y1 > y0 or (y1 == y0 and x1 > x0), (before, after)
    rows = len({y for _, y, _ in tiles})
    assert rows == 1 if n <= 10 else 1 < rows <= n / 5


@pytest.mark.slow
def test_a_strip_of_thousands_of_frames_can_be_opened() -> None:
    assert max(draw_strip(a_film(3000, (64, 64)), CollateSettings()).picture.size) <= 12_000


def test_frames_stand_over_their_steps() -> None:
    animation = a_film(4, (64, 64))
    renumbered = replace(animation, steps=[0, 7, 6, 9])
    pictures = [
        np.asarray(draw_strip(f, CollateSettings()).picture) for f in (animation, renumbered)
    ]
    rows, columns = np.nonzero((pictures[0] != pictures[1]).any(axis=2))
    facts = SEPARATOR.join(animation.facts)
    layout = plan_layout(4, 1, (64, 64), CollateSettings(columns=4), facts=facts)
    x, y = layout.tile_corner(1)
    assert x <= columns.min() <= columns.max() < x + 64
    assert y + 64 < rows.min() <= rows.max() < y + 64 + layout.line


def test_an_animation_plays_the_snapshots_and_stays_at_the_last(folder: OutputFolder) -> None:
    plan = make_plan(layer_info("conv", 3), recipe=FILMED)
    fill_store(folder, plan)
    filmed(folder, plan)
    frames, shown = frames_of(folder.animation("toy", "conv", "channel-2.seed-0.webp"))
    assert [frame.mean() for frame in frames] == pytest.approx([20, 40, 60, 80], abs=2)
    assert {frame.shape for frame in frames} == {(16, 16, 3)}
    assert len(set(shown[:-1])) == 1
    assert shown[-1] > 2 * shown[0]
    assert shown == durations(4)


@pytest.mark.parametrize("n", [2, 25, 1000])
def test_frames_are_neither_too_fast_nor_too_slow_to_see(n: int) -> None:
    assert all(40 <= each <= 400 for each in durations(n)[:-1])


@pytest.mark.parametrize("colours", [1, 2, 5])
def test_images_of_any_number_of_colours_have_films(colours: int, folder: OutputFolder) -> None:
    plan = make_plan(layer_info("conv", 1), recipe=FILMED, colours=colours)
    fill_store(folder, plan)
    assert len(filmed(folder, plan)) == 2
    frames, _ = frames_of(folder.animation("toy", "conv", "channel-0.seed-0.webp"))
    assert len(frames) == 4


def test_files_are_named_by_target_seed_and_variant(folder: OutputFolder) -> None:
    recipe = replace(FILMED, objective=ChannelObjective(sign="both"))
    plan = make_plan(layer_info("conv", 2), recipe=recipe, seeds=(0, 7))
    fill_store(folder, plan)
    assert filmed(folder, plan, CollateSettings(animations="webp")) == [
        f"channel-{channel}.seed-{seed}.variant-{variant}.webp"
        for channel in (0, 1)
        for seed in (0, 7)
        for variant in ("negative", "positive")
    ]
    frames, _ = frames_of(folder.animation("toy", "conv", "channel-1.seed-7.variant-negative.webp"))
    assert frames[0].mean() == pytest.approx(10 + 7 + 3, abs=2)


def test_combinations_are_named_by_their_channels(folder: OutputFolder) -> None:
    recipe = replace(FILMED, objective=InterpolationObjective(images=3))
    plan = make_plan(
        layer_info("conv", 6), recipe=recipe, channels=(8,), targets=TargetSpace((6, 6))
    )
    fill_store(folder, plan)
    names = [f"channel-1+2.seed-0.variant-{way}.png" for way in ("0.5", "0", "1")]
    assert filmed(folder, plan, CollateSettings(animations="strip")) == names


def test_fates_are_told_and_what_was_not_made_has_no_film(folder: OutputFolder) -> None:
    plan = make_plan(layer_info("conv", 4), recipe=FILMED, shard_size=1)
    fill_store(folder, plan, {1: "dead", 2: "failed", 3: "missing"})
    names = filmed(folder, plan, CollateSettings(animations="strip"))
    assert names == ["channel-0.seed-0.png", "channel-1.seed-0.png"]
    dead = folder.animation("toy", "conv", names[1]).read_bytes()
    fill_store(folder, plan)
    filmed(folder, plan, CollateSettings(animations="strip"))
    assert folder.animation("toy", "conv", names[1]).read_bytes() != dead


def test_animations_of_channels_no_longer_wanted_are_removed(folder: OutputFolder) -> None:
    plan = make_plan(layer_info("conv", 4), recipe=FILMED)
    fill_store(folder, plan)
    assert len(filmed(folder, plan)) == 8
    fewer = make_plan(layer_info("conv", 4), recipe=FILMED, channels=(1, 2))
    strips = CollateSettings(animations="strip")
    assert filmed(folder, fewer, strips) == ["channel-1.seed-0.png", "channel-2.seed-0.png"]


def with_manifest(folder: OutputFolder, recipe: Recipe) -> Plan:
    plan = make_plan(layer_info("a", 2), layer_info("b", 1), recipe=recipe)
    write_manifest(folder, composed("models=[{name: toy, target: toys.none}]"), plan, ["cpu"])
    fill_store(folder, plan)
    return plan


@pytest.mark.slow
def test_a_missing_film_is_noticed(folder: OutputFolder) -> None:
    plan = with_manifest(folder, FILMED)
    collate_here(folder, BOTH)
    animations = sorted((folder.root / "animations").rglob("*.*"))
    assert len(animations) == 6
    content = content_of(plan, list(layer_views(folder, plan)))
    assert is_current(folder, content, BOTH)
    animations[3].unlink()
    assert not is_current(folder, content, BOTH)


def test_without_snapshots_there_is_nothing_to_show(folder: OutputFolder) -> None:
    with_manifest(folder, make_recipe())
    with pytest.raises(UserError, match=r"collate\.animations=both .* snapshots=8"):
        collate_here(folder, BOTH)
    with pytest.raises(UserError, match=r"snapshots=8"):
        prepare_plan(composed("collate.animations=strip"))


RUN = ("layers=[conv1]", "channels=[0,5]", "optimizer.steps=4", "optimizer.leaky_steps=2")
RUN += ("image_size=[24,32]", "snapshots=2", "objective.sign=both", "executor.devices=[cpu]")


@pytest.mark.slow
def test_a_sweep_with_films_from_end_to_end(tmp_path: Path) -> None:
    assert run_here(tmp_path, *RUN, "collate.animations=both") == 0
    folder = OutputFolder(tmp_path / "demo")
    assert len(folder.animations("demo", "conv1")) == 2 * 2 * 2
    with h5py.File(folder.atlas) as file:
        layer = file["demo/conv1"]
        assert layer["step"][:].tolist() == [0, 2, 4]
        assert np.array_equal(layer["snapshot"][:, :, :, -1], layer["image"])
    code, said = atlas_here("verify", tmp_path)
    assert code == 0, said
    assert "2 jobs of 2 images: shards and atlas compared, 0 problems" in said
    with h5py.File(folder.atlas, "r+") as file:
        file["demo/conv1/snapshot"][1, 0, 1, 2] = 7
    code, said = atlas_here("verify", tmp_path)
    assert code == 1
    assert "demo/conv1/snapshot of channel 5 differs from its shard" in said
