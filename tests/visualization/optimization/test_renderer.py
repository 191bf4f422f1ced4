"""The workbench: a channel is dead only if no start reaches it, and nobody else notices."""

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn
from toys import layer_of, make_recipe, pointwise

from layer_atlas.config.parameterizations import Fourier, Maco, Pixel
from layer_atlas.config.recipe import DatasetInit, Recipe
from layer_atlas.models.load import Network
from layer_atlas.models.pixels import from_colours
from layer_atlas.plan.jobs import STATUS
from layer_atlas.visualization.optimization.image_statistics import status_of_jobs
from layer_atlas.visualization.optimization.renderer import LayerRenderer, Renderer

LIVE, SOMETIMES, HARD, NEVER = range(4)
OK, DEAD = STATUS["ok"], STATUS["dead"]


def bench_of(recipe: Recipe) -> LayerRenderer:
    """Channels that every start opens, that only bright grains open, a leak alone, or nothing."""
    readers = pointwise([[10.0, 0.0, 0.0]] * 4, [-3.0, -5.7, -8.0, -20.0])
    network = nn.Sequential(readers, nn.ReLU())
    loaded = Network("toy", "toy", network, (0.0,) * 3, (1.0,) * 3, 16, "0" * 64, ())
    return Renderer(loaded, recipe, torch.device("cpu")).layer(layer_of(network, "1"))


def recipe_of(**adam: Any) -> Recipe:
    return make_recipe(Pixel(initial_sd=0.15), steps=30, **adam)


def make(recipe: Recipe, channels: list[int], first: int = 0) -> dict[str, NDArray[Any]]:
    keys = [hashlib.sha256(bytes([first + i])).hexdigest() for i in range(len(channels))]
    return bench_of(recipe).make(keys, channels)


@pytest.mark.slow
def test_a_job_that_some_starts_reach_lives_and_tells_which_start_it_was() -> None:
    no_leak = {"leaky_slope": 0.0}
    once = make(recipe_of(starts=1, **no_leak), [SOMETIMES] * 16)
    thrice = make(recipe_of(starts=3, **no_leak), [SOMETIMES] * 16)
    often = make(recipe_of(starts=30, **no_leak), [SOMETIMES] * 16)
    dead = [int((made["status"] == DEAD).sum()) for made in (once, thrice, often)]
    assert dead[0] > dead[1] > dead[2] == 0
    assert sorted(set(thrice["start"].tolist())) == [0, 1, 2]
    assert thrice["start"].dtype == np.uint8
    reached = thrice["status"] == OK
    assert np.array_equal(often["image"][reached], thrice["image"][reached])
    assert (thrice["activation"][reached] > 0).all()
    assert (thrice["trace"][reached, -1] > 0).all()


def test_later_starts_leak_to_the_end() -> None:
    # No start has a grain that is bright enough, and there are no leaky steps in the first.
    made = make(recipe_of(leaky_steps=0, starts=3), [HARD, LIVE])
    assert made["status"].tolist() == [OK, OK]
    assert made["start"].tolist() == [1, 0]
    assert (make(recipe_of(leaky_steps=0, starts=1), [HARD])["status"] == DEAD).all()


def test_a_channel_that_nothing_opens_is_dead() -> None:
    made = make(recipe_of(starts=5), [NEVER, LIVE])
    assert made["status"].tolist() == [DEAD, OK]
    assert made["start"].tolist() == [0, 0]


def test_jobs_that_live_at_once_are_made_once() -> None:
    recipe = recipe_of(starts=4)
    steps: list[int] = []
    bench_of(recipe).make(["1" * 64], [LIVE], steps.append)
    assert steps == list(range(30))
    bench_of(recipe).make(["1" * 64], [NEVER], steps.append)
    assert steps[30:] == [*range(30), *[29] * 90], "a worker at it must not seem to hang"


@pytest.mark.slow
def test_starts_of_batch_mates_do_not_matter() -> None:
    recipe = recipe_of(leaky_slope=0.0, starts=3)
    channels = [SOMETIMES, LIVE, NEVER, SOMETIMES, SOMETIMES, LIVE, SOMETIMES, SOMETIMES]
    together = make(recipe, channels)
    for b, channel in enumerate(channels):
        alone = make(recipe, [channel], first=b)
        for name in set(together) - {"trace_step"}:
            assert alone[name][0].tobytes() == together[name][b].tobytes(), name


@pytest.mark.parametrize("parameterization", [Pixel(), Fourier(), Maco()], ids=lambda p: p.name)
def test_opacity_is_kept_where_it_is_wanted_and_lies_where_the_gradient_fell(
    parameterization: Pixel | Fourier | Maco,
) -> None:
    class LeftHalf(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, :, :, :8]

    network = nn.Sequential(LeftHalf())
    loaded = Network("toy", "toy", network, (0.0,) * 3, (1.0,) * 3, 16, "0" * 64, ())
    recipe = make_recipe(replace(parameterization, alpha=True))
    keys = ["1" * 64, "2" * 64]

    def made(recipe: Recipe) -> dict[str, NDArray[Any]]:
        renderer = Renderer(loaded, recipe, torch.device("cpu")).layer(layer_of(network, "0"))
        return renderer.make(keys, [0, 1])

    with_map, without = made(recipe), made(make_recipe(parameterization))
    assert "alpha" not in without
    assert np.array_equal(with_map["image"], without["image"])
    alpha = with_map["alpha"]
    assert alpha.shape == (2, 16, 16)
    assert alpha.dtype == np.uint8
    assert (alpha[:, :, :8] == 255).all()
    assert (alpha[:, :, 8:] < 5).all()


def test_photographs_are_where_their_jobs_start() -> None:
    dataset_images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    slow = {"steps": 1, "learning_rate": 1e-6, "final_learning_rate": 1e-6}
    recipe = replace(make_recipe(Fourier(), **slow), init=DatasetInit(dataset="d" * 64))
    made = bench_of(recipe).make(
        ["1" * 64, "2" * 64], [LIVE, NEVER], dataset_images=dataset_images[:, None]
    )
    images = torch.from_numpy(made["image"]).permute(0, 3, 1, 2).float() / 255
    values, wanted = from_colours(images).flatten(1), from_colours(dataset_images).flatten(1)
    assert (torch.cosine_similarity(values, wanted) > 0.99).all()
    with pytest.raises(ValueError, match="init=dataset"):
        bench_of(recipe).make(["1" * 64], [LIVE])


def test_a_job_is_dead_if_all_its_images_are_and_diverged_if_any_is() -> None:
    ok, dead, diverged = (STATUS[word] for word in ("ok", "dead", "diverged"))
    each = torch.tensor([ok, dead, dead, dead, dead, diverged, ok, ok], dtype=torch.uint8)
    assert status_of_jobs(each, 2).tolist() == [ok, dead, diverged, ok]
    assert torch.equal(status_of_jobs(each, 1), each)
