"""Growth: sizes, steps, schedule and records of images that grow."""

from dataclasses import replace

import pytest
import torch
from toys import channel_mean, colour_reader, make_recipe

from layer_atlas.config.parameterizations import NaturalFourier, Pixel
from layer_atlas.config.recipe import (
    DatasetInit,
    Growth,
    recorded_steps,
    snapshot_steps,
)
from layer_atlas.visualization import rng
from layer_atlas.visualization.optimization.loop import (
    GradientAscent,
    Jobs,
    OptimizedBatch,
    Scores,
    make_loop,
)
from layer_atlas.visualization.optimization.optimizers import learning_rate

JOBS = Jobs(rng.keys([f"{i:016x}" + "0" * 48 for i in range(1, 4)]), torch.tensor([0, 1, 2]))
GROWTH = Growth(sides=(0.25, 0.5), steps=(0.4, 0.3))
RECIPE = replace(make_recipe(Pixel(), image_size=(20, 32), steps=10), growth=GROWTH)


def grown(recipe=RECIPE, jobs=JOBS):  # type: ignore[no-untyped-def]
    network, seen = colour_reader(), []

    def forward(images: torch.Tensor) -> tuple[torch.Tensor]:
        seen.append(tuple(images.shape[2:]))
        return (network(images).flatten(2),)

    steps: list[int] = []
    loop = make_loop(Scores(forward, channel_mean()), recipe)
    return loop.optimize(jobs, steps.append), seen, steps


def test_each_size_gets_its_fraction_of_the_steps() -> None:
    optimized, seen, steps = grown()
    assert seen == [(5, 8)] * 4 + [(10, 16)] * 3 + [(20, 32)] * 3
    assert steps == list(range(10))
    assert optimized.images.shape == (3, 3, 20, 32)


@pytest.mark.parametrize("steps", range(1, 25))
def test_all_steps_are_taken_and_the_last_ones_at_the_final_size(steps: int) -> None:
    stages = GROWTH.stages((20, 32), steps)
    assert [n for _, of in stages for n in of] == list(range(steps))
    assert stages[-1][0] == (20, 32)
    assert all(of for _, of in stages)


def test_fractions_that_binary_numbers_miss_give_whole_steps() -> None:
    tenths = Growth(sides=(0.2, 0.3, 0.4), steps=(0.1, 0.1, 0.1))
    assert [len(of) for _, of in tenths.stages((100, 100), 10)] == [1, 1, 1, 7]


@pytest.mark.parametrize(
    ("sides", "steps", "message"),
    [
        ((0.5,), (), "as many numbers"),
        ((0.7, 0.5), (0.1, 0.1), "ascending order"),
        ((0.5, 0.5), (0.1, 0.1), "ascending order"),
        ((0.5, 0.7), (0.5, 0.5), "must leave steps for the final size"),
    ],
)
def test_sizes_that_do_not_grow_are_refused(
    sides: tuple[float, ...], steps: tuple[float, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Growth(sides, steps)


def test_the_trace_and_the_pictures_are_of_all_sizes() -> None:
    recipe = replace(RECIPE, snapshots=2)
    optimized, *_ = grown(recipe)
    assert recorded_steps(recipe) == list(range(10))
    assert optimized.trace.shape == (3, 10)
    assert snapshot_steps(recipe) == [0, 2, 4, 6, 8, 10]
    assert optimized.snapshot.shape == (3, 6, 20, 32, 3)
    last = (optimized.images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
    assert torch.equal(optimized.snapshot[:, -1], last)


def test_a_long_trace_is_recorded_at_the_same_steps_as_without_growth() -> None:
    many = replace(RECIPE, optimizer=replace(RECIPE.optimizer, steps=100))
    optimized, *_ = grown(many)
    assert optimized.trace.shape == (3, len(recorded_steps(many)))
    assert torch.isfinite(optimized.trace).all()
    assert (optimized.trace[:, -1] > optimized.trace[:, 0]).all()


def test_step_sizes_go_on_from_size_to_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []

    def rate(settings, step):  # type: ignore[no-untyped-def]
        rates.append(learning_rate(settings, step))
        return rates[-1]

    monkeypatch.setattr("layer_atlas.visualization.optimization.optimizers.learning_rate", rate)
    schedule = {"learning_rate": 0.5, "final_learning_rate": 0.1, "schedule": "cosine"}
    grown(replace(RECIPE, optimizer=replace(RECIPE.optimizer, **schedule)))
    assert rates == [learning_rate(replace(RECIPE.optimizer, **schedule), n) for n in range(10)]
    assert rates == sorted(rates, reverse=True)


def test_every_view_is_one_of_those_without_growth() -> None:
    recipe = replace(
        RECIPE, growth=Growth(), transforms=replace(RECIPE.transforms, jitter=0.2, rotate=5.0)
    )
    network = colour_reader()
    scores = Scores(lambda images: (network(images).flatten(2),), channel_mean())
    whole = GradientAscent(scores, recipe)._start(JOBS).views
    part = GradientAscent(scores, recipe, steps=range(3, 7))._start(JOBS).views
    assert torch.equal(part, whole[3:7])


def test_no_smaller_size_is_the_image_alone() -> None:
    plain, *_ = grown(replace(RECIPE, growth=Growth()))
    whole = GradientAscent(
        Scores(lambda images: (colour_reader()(images).flatten(2),), channel_mean()),
        replace(RECIPE, growth=Growth()),
    ).optimize(JOBS)
    assert torch.equal(plain.images, whole.images)


@pytest.mark.parametrize("kind", [Pixel(), NaturalFourier()], ids=lambda kind: kind.name)
def test_what_small_sizes_found_is_kept(kind: Pixel | NaturalFourier) -> None:
    draw = torch.Generator().manual_seed(0)
    small = torch.rand(3, 3, 5, 8, generator=draw)
    photographs = torch.nn.functional.interpolate(small, (20, 32), mode="bilinear")
    slow = {"steps": 10, "learning_rate": 1e-6, "final_learning_rate": 1e-6}
    recipe = replace(
        make_recipe(kind, image_size=(20, 32), **slow),
        growth=GROWTH,
        init=DatasetInit(dataset="d" * 64),
    )
    optimized, *_ = grown(recipe, replace(JOBS, dataset_images=photographs))
    similarity = [
        torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
        for one, other in zip(optimized.images, photographs, strict=True)
    ]
    assert min(similarity) > 0.7


def test_images_are_the_same_in_any_batch() -> None:
    recipe = replace(RECIPE, parameterization=NaturalFourier())
    together: OptimizedBatch = grown(recipe)[0]
    alone = grown(recipe, JOBS.select(torch.tensor([1])))[0]
    assert torch.equal(together.images[1:2], alone.images)
    assert torch.equal(together.trace[1:2], alone.trace)


def test_a_second_batch_has_the_images_of_a_first() -> None:
    network = colour_reader()
    scores = Scores(lambda images: (network(images).flatten(2),), channel_mean())
    loop = make_loop(scores, RECIPE)
    first, second = (loop.optimize(JOBS, lambda step: None) for _ in range(2))
    assert torch.equal(first.images, second.images)
