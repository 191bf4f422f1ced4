"""Octaves: sizes that grow, details that are kept, and traces and pictures of all of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import channel_mean, colour_reader, correlations, make_recipe

from layer_atlas.config.parameterizations import NaturalFourier, Pixel
from layer_atlas.config.recipe import DatasetInit, Octaves, recorded_steps, snapshot_steps
from layer_atlas.visualization import rng
from layer_atlas.visualization.optimization.loop import Jobs, Scores, make_loop

JOBS = Jobs(rng.keys([f"{i:016x}" + "0" * 48 for i in range(1, 4)]), torch.tensor([0, 1, 2]))
RECIPE = replace(make_recipe(Pixel(), image_size=(20, 32), steps=4), octaves=Octaves(3, 2.0))


def climb(recipe=RECIPE):  # type: ignore[no-untyped-def]
    network, seen = colour_reader(), []

    def forward(images: torch.Tensor) -> tuple[torch.Tensor]:
        seen.append(tuple(images.shape[2:]))
        return (network(images).flatten(2),)

    steps: list[int] = []
    return (
        make_loop(Scores(forward, channel_mean()), recipe).optimize(JOBS, steps.append),
        seen,
        steps,
    )


def test_sizes_grow_to_that_of_the_image() -> None:
    assert Octaves(4, 1.4).sizes((224, 160))[-1] == (224, 160)
    _, seen, steps = climb()
    assert seen == [(5, 8)] * 4 + [(10, 16)] * 4 + [(20, 32)] * 4
    assert steps == list(range(12))


def test_the_trace_and_the_pictures_are_of_all_octaves() -> None:
    optimized, *_ = climb(replace(RECIPE, snapshots=2))
    recipe = replace(RECIPE, snapshots=2)
    assert recorded_steps(recipe) == list(range(12))
    assert optimized.trace.shape == (3, 12)
    assert snapshot_steps(recipe) == [0, 2, 4, 6, 8, 10, 12]
    assert optimized.snapshot.shape == (3, 7, 20, 32, 3)
    last = (optimized.images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
    assert torch.equal(optimized.snapshot[:, -1], last)


def test_what_small_sizes_add_is_kept() -> None:
    optimized, *_ = climb(replace(RECIPE, snapshots=4))
    means = optimized.snapshot.float().mean(dim=(2, 3))
    for channel in range(3):
        assert np.all(np.diff(means[channel, :, channel].numpy()) > 0)


@pytest.mark.parametrize("count", [1, 2])
def test_one_octave_is_the_image_alone(count: int) -> None:
    whole = replace(RECIPE, octaves=Octaves(count, 2.0))
    optimized, seen, _ = climb(whole)
    assert seen[-1] == (20, 32)
    assert len(seen) == 4 * count
    if count == 1:
        plain, *_ = climb(replace(RECIPE, octaves=None))
        assert torch.equal(optimized.images, plain.images)


@pytest.mark.parametrize("kind", [Pixel(), NaturalFourier()], ids=lambda kind: kind.name)
def test_octaves_begin_as_the_photographs_of_their_jobs(kind: Pixel | NaturalFourier) -> None:
    draw = torch.Generator().manual_seed(0)
    small = torch.rand(3, 3, 5, 8, generator=draw)
    photographs = torch.nn.functional.interpolate(small, (20, 32), mode="bilinear")
    slow = {"steps": 1, "learning_rate": 1e-6, "final_learning_rate": 1e-6}
    recipe = replace(
        make_recipe(kind, image_size=(20, 32), **slow),
        octaves=Octaves(3, 2.0),
        init=DatasetInit(dataset="d" * 64),
    )
    network = colour_reader()
    loop = make_loop(Scores(lambda images: (network(images).flatten(2),), channel_mean()), recipe)
    made = loop.optimize(replace(JOBS, dataset_images=photographs), lambda step: None)
    assert min(correlations(made.images, photographs)) > 0.7
