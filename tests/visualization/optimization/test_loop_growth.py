"""Growth: sizes, steps, schedule and records of images that grow."""

from dataclasses import replace

import pytest
import torch
from toys import channel_mean, colour_reader, correlations, make_recipe

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
    _Batch,
    make_loop,
)
from layer_atlas.visualization.optimization.optimizers import learning_rate

JOBS = Jobs(rng.keys([f"{i:016x}" + "0" * 48 for i in range(1, 4)]), torch.tensor([0, 1, 2]))
GROWTH = Growth(sides=(0.25, 0.5), costs=(0.05, 0.15))
"""Of 5 steps 0.25 and 0.75 go to four and three small ones."""
RECIPE = replace(make_recipe(Pixel(), image_size=(20, 32), steps=5), growth=GROWTH)


def grown(recipe=RECIPE, jobs=JOBS):  # type: ignore[no-untyped-def]
    network, seen = colour_reader(), []

    def forward(images: torch.Tensor) -> tuple[torch.Tensor]:
        seen.append(tuple(images.shape[2:]))
        return (network(images).flatten(2),)

    steps: list[int] = []
    loop = make_loop(Scores(forward, channel_mean()), recipe)
    return loop.optimize(jobs, steps.append), seen, steps


def test_each_size_gets_the_steps_that_its_cost_buys() -> None:
    optimized, seen, steps = grown()
    assert seen == [(5, 8)] * 4 + [(10, 16)] * 3 + [(20, 32)] * 4
    assert steps == list(range(11)) == list(range(RECIPE.total_steps))
    assert optimized.images.shape == (3, 3, 20, 32)


@pytest.mark.parametrize("steps", range(1, 60))
def test_the_cost_is_that_of_the_steps_asked_for(steps: int) -> None:
    stages = GROWTH.stages((20, 32), steps)
    numbers = [n for _, of in stages for n in of]
    assert numbers == list(range(len(numbers)))
    assert stages[-1][0] == (20, 32)
    assert all(of for _, of in stages)
    cost = sum(len(of) * size[0] * size[1] for size, of in stages) / (20 * 32)
    # Whole steps of each size: half a step of each is lost or gained.
    assert abs(cost - steps) <= 0.5 * (0.25**2 + 0.5**2 + 1)


def test_images_never_have_less_than_a_fraction_of_what_the_network_was_trained_on() -> None:
    growth = Growth(sides=(0.5, 0.7), costs=(0.1, 0.2))
    assert growth.for_network(224, (224, 224)) == growth
    assert growth.for_network(224, (448, 500)) == growth
    small = growth.for_network(224, (160, 200))
    assert small.sizes((160, 200)) == [(112, 140)]
    assert small.costs == (0.1,)
    assert growth.for_network(224, (128, 160)) == Growth()


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
    assert recorded_steps(recipe) == list(range(11))
    assert optimized.trace.shape == (3, 11)
    assert snapshot_steps(recipe) == [0, 2, 4, 6, 8, 10, 11]
    assert optimized.snapshot.shape == (3, 7, 20, 32, 3)
    last = (optimized.images.permute(0, 2, 3, 1) * 255).round().to(torch.uint8)
    assert torch.equal(optimized.snapshot[:, -1], last)


def test_a_long_trace_has_its_ends() -> None:
    many = replace(RECIPE, optimizer=replace(RECIPE.optimizer, steps=100))
    optimized, *_ = grown(many)
    assert optimized.trace.shape == (3, len(recorded_steps(many)))
    assert recorded_steps(many)[-1] == many.total_steps - 1 > 100
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
    whole = replace(RECIPE.optimizer, steps=11, **schedule)
    assert rates == [learning_rate(whole, n) for n in range(11)]
    assert rates == sorted(rates, reverse=True)


def test_gradients_may_leak_after_each_enlargement(monkeypatch: pytest.MonkeyPatch) -> None:
    leaks: list[bool] = []
    original = _Batch._update

    def update(batch: _Batch, leaky: bool) -> torch.Tensor:
        leaks.append(leaky)
        return original(batch, leaky)

    monkeypatch.setattr(_Batch, "_update", update)
    grown(replace(RECIPE, optimizer=replace(RECIPE.optimizer, leaky_steps=2)))
    assert leaks == [*(True, True, False, False), *(True, True, False), *(True, True, False, False)]


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
    assert min(correlations(optimized.images, photographs)) > 0.7


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
