"""Animation files: every frame is the snapshot of its channel, seed, variant and step."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from layer_atlas.config.config import CollateSettings
from layer_atlas.presentation.montages.montage import write_animations
from layer_atlas.store.folder import OutputFolder
from tests.pixels.noisy import fill, plan_of, recipe_of
from tests.pixels.reading import Pixels, cut, in_colour, most_like, texts, tiles

Key = tuple[int, ...]
"""Places of channel, seed, variant and step in the atlas."""


def frames_of(path: Path) -> list[Pixels]:
    """What an animation shows: its tiles in reading order, or its frames one after the other."""
    with Image.open(path) as animation:
        if path.suffix == ".png":
            picture = np.asarray(animation)
            return [cut(picture, box) for box in tiles(picture)]
        frames = []
        for number in range(animation.n_frames):
            animation.seek(number)
            frames.append(np.asarray(animation.convert("RGB")))
        return frames


@pytest.mark.parametrize("colours", [1, 3, 4])
def test_frames_are_the_snapshots_in_their_order(colours: int, tmp_path: Path) -> None:
    check_frames(tmp_path, colours)


def check_frames(root: Path, colours: int = 3) -> None:
    folder, recipe = OutputFolder(root), recipe_of((40, 56), "both", snapshots=4)
    plan = plan_of({"conv": (5, 6, 31)}, seeds=(7, 0), recipe=recipe, colours=colours)
    view = fill(folder, plan, {(6, 0): "dead", (31, 7): "missing"})
    write_animations(view, CollateSettings(animations="both"))
    with h5py.File(folder.atlas) as file:
        group = file["toy/conv"]
        stored = group["snapshot"][:]
        channels, seeds = group["channel"][:].tolist(), group["seed"][:].tolist()
        variants = group["variant"].asstr()[:].tolist()
        assert group["step"][:].tolist() == [0, 4, 8, 12]
    every: dict[Key, Pixels] = {k: in_colour(stored[k]) for k in np.ndindex(stored.shape[:-3])}
    paths = folder.animations("toy", "conv")
    for channel, seed, variant in np.ndindex(3, 2, 2):
        name = f"channel-{channels[channel]}.seed-{seeds[seed]}.variant-{variants[variant]}"
        found = [path for path in paths if path.stem == name]
        assert len(found) == (0 if (channel, seed) == (2, 0) else 2)
        for path in found:
            shown = frames_of(path)
            expected = [(channel, seed, variant, step) for step in range(4)]
            assert [most_like(frame, every, worst=12) for frame in shown] == expected
            if path.suffix == ".png":
                assert all(map(np.array_equal, shown, (every[key] for key in expected)))
    assert len(paths) == 20


def test_frames_of_a_strip_stand_over_their_steps(tmp_path: Path) -> None:
    check_steps(tmp_path)


def check_steps(root: Path) -> None:
    folder, recipe = OutputFolder(root), recipe_of((64, 64), snapshots=1)
    view = fill(folder, plan_of({"conv": (31,)}, recipe=recipe))
    write_animations(view, CollateSettings(animations="strip"))
    with h5py.File(folder.atlas) as file:
        steps = file["toy/conv/step"][:].tolist()
        frames = dict(zip(steps, file["toy/conv/snapshot"][0, 0], strict=True))
    assert len(steps) == 13
    with Image.open(folder.animation("toy", "conv", "channel-31.seed-0.png")) as animation:
        picture = np.asarray(animation)
    boxes = tiles(picture)
    assert len({top for _, top, _, _ in boxes}) == 2  # in two rows
    for (left, _, right, bottom), step in zip(boxes, steps, strict=True):
        assert most_like(cut(picture, (left, bottom - 64, right, bottom)), frames) == step
        below = (left - 2, bottom, right, bottom + 20)
        words = [f"step {number}" for number in range(20)]
        assert [word.words for word in texts(picture, below, words)] == [f"step {step}"]
    head = (0, 0, picture.shape[1], boxes[0][1])
    titles = [f"toy  ·  conv  ·  channel {c}  ·  seed {s}" for c in (0, 30, 31) for s in (0, 1)]
    assert titles[4] in {word.words for word in texts(picture, head, titles)}
