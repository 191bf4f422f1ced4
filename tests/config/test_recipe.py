"""The recipe: values out of range are refused by name, and the trace has its ends."""

from dataclasses import FrozenInstanceError, replace
from itertools import pairwise
from typing import Any

import pytest
from toys import make_recipe

from layer_atlas.config.parameterizations import Fourier, Maco, Pixel
from layer_atlas.config.recipe import (
    Growth,
    Octaves,
    Recipe,
    Regularizers,
    Transforms,
    snapshot_count,
    snapshot_steps,
    trace_steps,
)
from layer_atlas.config.records import build, plain

OUT_OF_RANGE = [
    (Fourier, {"decay_power": -0.1}, "decay_power must be 0 or more, not -0.1"),
    (Fourier, {"initial_sd": 0.0}, "initial_sd must be above 0, not 0.0"),
    (Fourier, {"contrast": float("nan")}, "contrast must be above 0, not nan"),
    (Pixel, {"initial_sd": float("inf")}, "initial_sd must be above 0, not inf"),
    (Transforms, {"jitter": -1.0}, "jitter must be 0 to 1"),
    (Transforms, {"rotate": float("nan")}, "rotate must be 0 or more"),
    (Transforms, {"scale": (0.0, 1.0)}, r"scale\[0\] must be 0.1 to 10, not 0.0"),
    (Transforms, {"scale": (1.1, 0.9)}, r"scale must be in ascending order, not \[1.1, 0.9\]"),
    (Transforms, {"flip": 1.5}, "flip must be 0 to 1, not 1.5"),
    (Transforms, {"flip": float("nan")}, "flip must be 0 to 1, not nan"),
    (Transforms, {"perspective": 0.7}, "perspective must be 0 to 0.6, not 0.7"),
    (Transforms, {"crop": (0.01, 0.5)}, r"crop\[0\] must be 0.05 to 1, not 0.01"),
    (Transforms, {"crop": (0.5, 1.5)}, r"crop\[1\] must be 0.05 to 1, not 1.5"),
    (Transforms, {"crop": (0.5, 0.25)}, r"crop must be in ascending order, not \[0.5, 0.25\]"),
    (Transforms, {"brightness": (-0.1, 1.0)}, r"brightness\[0\] must be 0 to 10, not -0.1"),
    (Transforms, {"contrast": (1.0, float("inf"))}, r"contrast\[1\] must be 0 to 10, not inf"),
    (Transforms, {"saturation": (2.0, 1.0)}, "saturation must be in ascending order"),
    (Transforms, {"blur": (0.0, 60.0)}, r"blur\[1\] must be 0 to 50, not 60.0"),
    (Transforms, {"noise": (-0.1, 0.1)}, r"noise\[0\] must be 0 to 10, not -0.1"),
    (Transforms, {"cutout": (0.1, 1.1)}, r"cutout\[1\] must be 0 to 1, not 1.1"),
    (Maco, {"contrast": 0.0}, "contrast must be above 0, not 0.0"),
    (Regularizers, {"total_variation": -1.0}, "total_variation must be 0 or more, not -1.0"),
    (Regularizers, {"clip": float("nan")}, "clip must be 0 or more, not nan"),
]


@pytest.mark.parametrize(("record", "values", "message"), OUT_OF_RANGE, ids=lambda x: str(x)[:40])
def test_values_out_of_range_are_refused_by_name(
    record: type, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        record(**values)


@pytest.mark.parametrize("every", [0, 1, 2, 3, 6, 7, 10, 11, 10**18])
@pytest.mark.parametrize("octaves", [None, Octaves(3)])
def test_pictures_on_the_way_are_counted_as_they_are_kept(
    every: int, octaves: Octaves | None
) -> None:
    recipe = replace(make_recipe(steps=10), snapshots=every, octaves=octaves)
    assert snapshot_count(recipe) == len(snapshot_steps(recipe))


def test_more_pictures_on_the_way_than_anyone_keeps_are_refused() -> None:
    with pytest.raises(ValueError, match="snapshots=1 would keep 1000000000000000000 images"):
        replace(make_recipe(steps=10**18), snapshots=1)


def test_recipes_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        make_recipe().image_size = 8  # type: ignore[misc]


@pytest.mark.parametrize("steps", [1, 2, 3, 32, 33, 34, 64, 65, 96, 257, 1000])
def test_trace_holds_at_most_33_steps_evenly_with_both_ends(steps: int) -> None:
    recorded = trace_steps(steps)
    assert len(recorded) == min(steps, 33)
    assert (recorded[0], recorded[-1]) == (0, steps - 1)
    gaps = {b - a for a, b in pairwise(recorded)}
    assert not gaps or (min(gaps) >= 1 and max(gaps) - min(gaps) <= 1)


def test_growth_needs_the_memory_of_all_its_sizes() -> None:
    growth = Growth(sides=(0.5,), costs=(0.5,))
    assert growth.relative_memory((20, 40)) == 1.25
    assert Growth().relative_memory((20, 40)) == 1.0


def test_a_recipe_without_growth_has_the_key_of_one_before_there_was_any() -> None:
    recipe = make_recipe()
    assert "growth" not in plain(recipe)
    assert plain(replace(recipe, growth=Growth((0.5,), (0.5,))))["growth"] == {
        "sides": [0.5],
        "costs": [0.5],
    }
    assert build(Recipe, plain(recipe)) == recipe


@pytest.mark.parametrize(
    ("steps", "size", "sentence"),
    [
        (10, "12 to 24 px", "steps were 8 at 12 x 12 pixels and 8 at 24 x 24 pixels."),
        (1, "24 px", ""),
    ],
)
def test_a_recipe_words_its_growth(steps: int, size: str, sentence: str) -> None:
    plain_recipe = make_recipe(image_size=(24, 24), steps=steps)
    recipe = replace(plain_recipe, growth=Growth((0.5,), (0.2 if steps > 1 else 0.1,)))
    assert f", {size}, fp32" in recipe.summary()
    assert sentence in recipe.describe()
    assert ("grew" in recipe.describe()) == bool(sentence)
