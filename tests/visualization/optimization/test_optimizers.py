"""Optimizers: each climbs, each row for itself, and begins anew as if it were new."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from runs import TINY, run_here
from torch import Tensor, nn
from toys import BLUE, GREEN, RED, channel_mean, colour_reader, composed, make_recipe

from layer_atlas.config.optimizers import LBFGS, SGD, Adam, AdamW, NAdam, Optimizer
from layer_atlas.config.parameterizations import Fourier, Pixel
from layer_atlas.config.recipe import Recipe, Regularizers, Transforms
from layer_atlas.errors import UserError
from layer_atlas.models.pixels import to_colours
from layer_atlas.visualization import rng
from layer_atlas.visualization.optimization.loop import GradientAscent, Jobs, OptimizedBatch, Scores
from layer_atlas.visualization.optimization.optimizers import (
    BatchOptimizer,
    FirstOrder,
    learning_rate,
    make_batch_optimizer,
)
from layer_atlas.visualization.parameterizations import make_parameterization
from tests.visualization.optimization.test_loop import (
    KEYS,
    PURE_COLOURS,
    QUIET,
    closed_at_first,
    mean_colours,
)

OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Adam(),
    "adam with decay": Adam(weight_decay=1e-5),
    "adamw": AdamW(),
    "nadam": NAdam(weight_decay=1e-5),
    "sgd": SGD(),
    "sgd as it is": SGD(momentum=0.0, normalized=False, learning_rate=2000.0),
    "sgd with nesterov": SGD(momentum=0.9, nesterov=True, weight_decay=0.01),
    "lbfgs": LBFGS(evaluations=4),
}
each = pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


def climber_of(recipe: Recipe, network: nn.Module) -> GradientAscent:
    return GradientAscent(
        Scores(lambda images: (network(images).flatten(2),), channel_mean()), recipe
    )


def climb(recipe: Recipe, channels: list[int], network: nn.Module = PURE_COLOURS) -> OptimizedBatch:
    return climber_of(recipe, network).optimize(Jobs(KEYS[: len(channels)], torch.tensor(channels)))


def recipe_of(optimizer: Optimizer, *args: Any, **changes: Any) -> Recipe:
    return replace(make_recipe(*args), optimizer=replace(optimizer, **changes))


# --- they climb ----------------------------------------------------------------------------------


@each
@pytest.mark.parametrize("parameterization", [Pixel(), Fourier()], ids=["pixel", "fourier"])
def test_image_turns_into_the_colour_that_the_channel_reads(
    optimizer: Optimizer, parameterization: Pixel | Fourier
) -> None:
    recipe = recipe_of(optimizer, parameterization, Transforms(jitter=1 / 8), steps=40)
    optimized = climb(recipe, [RED, GREEN, BLUE])
    for colour, means in enumerate(mean_colours(optimized.images)):
        others = [c for c in (RED, GREEN, BLUE) if c != colour]
        assert (means[colour] > means[others] + 0.05).all()
    assert (optimized.trace[:, -1] > optimized.trace[:, 0] + 0.05).all()


class Hill:
    """Rows climb to peaks of their own, along slopes that differ between the axes.

    score = -height * sum(slope * (x - peak)**2)
    """

    def __init__(self, optimizer: Optimizer, rows: list[int], height: float = 1.0) -> None:
        noise = torch.Generator().manual_seed(0)
        start, self.peak = torch.randn(2, 16, 64 * 600, generator=noise)[:, rows]
        self.slope = torch.logspace(-1, 1, start.shape[1]) * height
        self.parameters = nn.Parameter(start.clone())
        self.optimizer_step = make_batch_optimizer(self.parameters, optimizer)
        self.places: list[Tensor] = []

    def evaluate(self) -> Tensor:
        self.places.append(self.parameters.detach().clone())
        away = self.places[-1] - self.peak
        self.parameters.grad = -2.0 * self.slope * away
        return -(self.slope * away.square()).view(len(away), 600, 64).sum(2).sum(1)

    def climb(self, steps: int) -> Tensor:
        for step in range(steps):
            self.optimizer_step.begin(step)
            self.optimizer_step.step(self.evaluate(), self.evaluate)
        return self.parameters.detach()


@each
def test_a_step_goes_up(optimizer: Optimizer) -> None:
    hill = Hill(replace(optimizer, learning_rate=1e-3), [0, 1, 2])
    before = hill.evaluate()
    hill.climb(1)
    assert (hill.evaluate() > before).all()


def test_lbfgs_finds_the_peak_where_slopes_differ_a_hundredfold() -> None:
    settings = {"steps": 6, "leaky_steps": 0}
    hill, gradient = Hill(LBFGS(evaluations=10, **settings), [0, 1]), Hill(Adam(**settings), [0, 1])
    assert (hill.climb(6) - hill.peak).abs().max() < 0.05
    assert (gradient.climb(60) - gradient.peak).abs().max() > 0.05


def test_lbfgs_climbs_low_hills_as_it_climbs_high_ones() -> None:
    low, high = (Hill(LBFGS(leaky_steps=0), [0, 1], height) for height in (1e-7, 1e4))
    torch.testing.assert_close(low.climb(3), high.climb(3), rtol=1e-3, atol=1e-3)


def test_lbfgs_takes_no_more_evaluations_than_it_is_allowed_and_its_record_tells() -> None:
    settings = LBFGS(evaluations=5, leaky_steps=1, steps=4)
    hill = Hill(settings, list(range(8)))
    hill.climb(settings.steps)
    passes = len(hill.places) / settings.steps
    assert 3 <= passes <= settings.passes_per_step + 1


def test_lbfgs_steps_back_from_where_the_score_is_not_finite() -> None:
    hill = Hill(LBFGS(leaky_steps=0, learning_rate=50.0), [0, 1, 2])
    plain = hill.evaluate
    before = plain()

    def walled() -> Tensor:
        beyond = hill.parameters.detach().abs().amax(dim=1) > 6.0
        scores = plain()
        assert hill.parameters.grad is not None
        hill.parameters.grad[beyond] = 0.0
        return scores.masked_fill(beyond, math.inf)

    hill.optimizer_step.begin(0)
    hill.optimizer_step.step(walled(), walled)
    after = walled()
    assert torch.isfinite(after).all()
    assert (after > before).all()


def test_lbfgs_reaches_a_closed_channel_through_the_leak_and_not_without() -> None:
    network = closed_at_first()
    reached = climb(recipe_of(LBFGS(steps=12, leaky_steps=8), QUIET), [0], network)
    assert reached.trace[0, 0] == 0
    assert reached.trace[0, -1] > 1
    assert (climb(recipe_of(LBFGS(steps=12, leaky_steps=0), QUIET), [0], network).trace == 0).all()


@pytest.mark.parametrize("leaky_steps", [0, 9])
def test_lbfgs_goes_where_the_score_stays_the_same_only_if_a_leak_leads_on(
    leaky_steps: int,
) -> None:
    parameters = nn.Parameter(torch.zeros(2, 64))
    optimizer_step = make_batch_optimizer(parameters, LBFGS(leaky_steps=leaky_steps))

    def flat() -> Tensor:
        parameters.grad = torch.ones_like(parameters)
        return torch.zeros(2)

    for step in range(4):
        optimizer_step.begin(step)
        optimizer_step.step(flat(), flat)
    assert bool((parameters > 0).all()) == bool(leaky_steps)
    assert bool((parameters == 0).all()) != bool(leaky_steps)


def test_lbfgs_with_a_longer_memory_comes_closer_to_the_peak() -> None:
    hills = [Hill(LBFGS(history=history, leaky_steps=0), [0, 1]) for history in (1, 10)]
    short, long = ((hill.climb(4) - hill.peak).norm() for hill in hills)
    assert long < 0.9 * short


def test_lbfgs_tries_first_what_its_learning_rate_says() -> None:
    tried = []
    for rate in (0.25, 0.5):
        hill = Hill(LBFGS(learning_rate=rate), [0])
        hill.climb(1)
        tried.append(float((hill.places[1] - hill.places[0]).norm()))
    assert tried[1] == pytest.approx(2 * tried[0], rel=1e-3)


def test_where_lbfgs_only_looks_leaves_no_trace_in_what_is_told_of_a_sample() -> None:
    recipe = recipe_of(LBFGS(steps=3, leaky_steps=0), Fourier(alpha=True), Transforms())
    together = climb(recipe, [RED, GREEN, BLUE])
    alone = climb(recipe, [RED])
    assert together.alpha is not None
    assert alone.alpha is not None
    assert torch.equal(together.alpha[0], alone.alpha[0])
    assert torch.equal(together.trace[0], alone.trace[0])


# --- known answers -------------------------------------------------------------------------------


def first_steps(optimizer: Optimizer, gradients: list[float], start: float = 0.5) -> list[float]:
    """Where a number of a row comes to along given gradients."""
    parameters = nn.Parameter(torch.full((2, 64), start))
    optimizer_step, been = make_batch_optimizer(parameters, optimizer), []
    for step, gradient in enumerate(gradients):
        parameters.grad = torch.full((2, 64), gradient)
        optimizer_step.begin(step)
        optimizer_step.step(torch.zeros(2), lambda: torch.zeros(2))
        been.append(parameters[1, 7].item())
    return been


CONSTANT: dict[str, Any] = {"schedule": "constant", "learning_rate": 0.1}


def test_adam_moves_by_its_step_size_and_decays_what_is_asked() -> None:
    assert first_steps(Adam(**CONSTANT), [5.0]) == pytest.approx([0.6])
    assert first_steps(Adam(**CONSTANT), [0.0]) == [0.5]
    assert first_steps(Adam(weight_decay=0.1, **CONSTANT), [0.0]) == pytest.approx([0.4])
    assert first_steps(AdamW(weight_decay=0.1, **CONSTANT), [0.0]) == pytest.approx([0.495])
    assert first_steps(AdamW(weight_decay=0.1, **CONSTANT), [5.0]) == pytest.approx([0.595])


@pytest.mark.parametrize(
    ("settings", "peer"),
    [
        (Adam(weight_decay=0.1), partial(torch.optim.Adam, weight_decay=0.1, eps=1e-12)),
        (AdamW(weight_decay=0.1), partial(torch.optim.AdamW, weight_decay=0.1, eps=1e-12)),
        (SGD(momentum=0.9, normalized=False), partial(torch.optim.SGD, momentum=0.9)),
        (SGD(momentum=0.0, normalized=False), partial(torch.optim.SGD, momentum=0.0)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_steps_have_the_bits_of_the_class_of_torch(
    settings: Optimizer, peer: Callable[..., torch.optim.Optimizer]
) -> None:
    ours = nn.Parameter(torch.randn(3, 32, generator=torch.Generator().manual_seed(0)))
    theirs = nn.Parameter(ours.detach().clone())
    moments = {} if isinstance(settings, SGD) else {"betas": (settings.beta1, settings.beta2)}
    optimizer_step = make_batch_optimizer(ours, settings)
    optimizer = peer([theirs], maximize=True, fused=True, **moments)
    for step in range(5):
        gradient = torch.sin(torch.arange(96.0) * (step + 1)).reshape(3, 32)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        optimizer_step.begin(step)
        optimizer.param_groups[0]["lr"] = learning_rate(settings, step)
        optimizer_step.step(torch.zeros(3), lambda: torch.zeros(3))
        optimizer.step()
        assert torch.equal(ours, theirs)


def test_nadam_follows_the_formula() -> None:
    settings = NAdam(beta1=0.8, beta2=0.9, momentum_decay=0.5, **CONSTANT)
    x, mean, square, product, expected = 0.5, 0.0, 0.0, 1.0, []
    gradients = [1.0, -0.5, 2.0]
    for t, g in enumerate(gradients, start=1):
        now, following = (0.8 * (1.0 - 0.5 * 0.96 ** (0.5 * u)) for u in (t, t + 1))
        product *= now
        mean, square = 0.8 * mean + 0.2 * g, 0.9 * square + 0.1 * g * g
        ahead = following * mean / (1.0 - product * following) + (1.0 - now) * g / (1.0 - product)
        x += 0.1 * ahead / math.sqrt(square / (1.0 - 0.9**t))
        expected.append(x)
    assert first_steps(settings, gradients) == pytest.approx(expected, abs=1e-5)


def test_sgd_follows_the_gradient_and_goes_on_with_its_momentum() -> None:
    plain = {"normalized": False, **CONSTANT}
    assert first_steps(SGD(momentum=0.0, **plain), [2.0, 3.0]) == pytest.approx([0.7, 1.0])
    assert first_steps(SGD(momentum=0.5, **plain), [2.0, 3.0]) == pytest.approx([0.7, 1.1])
    ahead = SGD(momentum=0.5, nesterov=True, **plain)
    assert first_steps(ahead, [2.0, 3.0]) == pytest.approx([0.8, 1.3])
    decaying = SGD(momentum=0.0, weight_decay=0.2, **plain)
    assert first_steps(decaying, [0.0]) == pytest.approx([0.49])


def test_sgd_normalised_is_as_fast_for_faint_channels_as_for_loud_ones() -> None:
    faint, loud = (first_steps(SGD(**CONSTANT), [g, -g]) for g in (1e-6, 1e6))
    assert faint == pytest.approx(loud)
    assert faint[0] == pytest.approx(0.6)
    assert first_steps(SGD(**CONSTANT), [0.0]) == [0.5]


SCHEDULES = {
    "cosine": [0.5, 0.1 + 0.2 * (1 + math.sqrt(0.5)), 0.3, 0.1 + 0.2 * (1 - math.sqrt(0.5)), 0.1],
    "linear": [0.5, 0.4, 0.3, 0.2, 0.1],
    "constant": [0.5] * 5,
}


@pytest.mark.parametrize(("schedule", "expected"), SCHEDULES.items(), ids=SCHEDULES)
def test_schedules_lead_from_the_first_to_the_last_step_size(
    schedule: Any, expected: list[float]
) -> None:
    settings = Adam(steps=5, schedule=schedule)
    assert [learning_rate(settings, step) for step in range(5)] == pytest.approx(expected)
    warm = replace(settings, steps=8, warmup_steps=3)
    rising = [0.125, 0.25, 0.375]
    assert [learning_rate(warm, step) for step in range(8)] == pytest.approx(rising + expected)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_schedules_of_one_step_and_of_warmup_alone_are_sound(schedule: Any) -> None:
    assert learning_rate(Adam(steps=1, schedule=schedule), 0) == pytest.approx(0.5)
    all_warmup = Adam(steps=3, schedule=schedule, warmup_steps=9)
    assert [learning_rate(all_warmup, s) for s in range(3)] == pytest.approx([0.05, 0.1, 0.15])


@pytest.mark.parametrize(("steps", "moved"), [(1, 0.3), (2, 0.4), (5, 1.0)])
def test_step_sizes_of_the_schedule_are_those_of_the_ascent(steps: int, moved: float) -> None:
    # Without memory, Adam moves every value by the learning rate itself.
    recipe = make_recipe(Pixel(), steps=steps, final_learning_rate=0.1, beta1=0.0, beta2=0.0)
    images = climb(recipe, [RED], colour_reader()).images
    start = make_parameterization(recipe, 3, KEYS[:1])().detach()
    shift = (images.logit() - start.logit())[0, RED]
    all_three_up = to_colours(torch.ones(1, 3, 1, 1)).logit()[0, RED]
    assert torch.allclose(shift / all_three_up, torch.tensor(moved), atol=1e-4)


def test_clipping_bounds_the_step_of_each_sample() -> None:
    settings = SGD(steps=1, momentum=0.0, normalized=False, learning_rate=2.0)
    recipe = replace(recipe_of(settings, Pixel()), regularizers=Regularizers(clip=1e-3))
    loop = climber_of(recipe, colour_reader())
    loop.optimize(Jobs(KEYS[:2], torch.tensor([RED, GREEN])))
    assert loop._batch is not None
    start = make_parameterization(recipe, 3, KEYS[:2])
    moved = loop._batch.parameters - next(start.parameters())
    assert moved.norm(dim=1).tolist() == pytest.approx([2e-3] * 2, rel=1e-3)


# --- each row for itself -------------------------------------------------------------------------


@each
def test_a_row_has_the_same_bits_in_any_company_on_any_number_of_threads(
    optimizer: Optimizer,
) -> None:
    optimizer = replace(optimizer, leaky_steps=1)
    if isinstance(optimizer, SGD) and not optimizer.normalized:
        optimizer = replace(optimizer, learning_rate=0.01)
    threads = torch.get_num_threads()
    together = Hill(optimizer, list(range(16))).climb(3)
    try:
        for rows, count in (([5] * 8, 2), ([9, 3, *range(8)], 3), (list(range(15, 7, -1)), 1)):
            torch.set_num_threads(count)
            assert torch.equal(Hill(optimizer, rows).climb(3), together[rows])
            assert torch.get_num_threads() == _threads_of_a_new_thread() == count
    finally:
        torch.set_num_threads(threads)


def _threads_of_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@each
def test_other_jobs_in_the_place_of_these_start_afresh(optimizer: Optimizer) -> None:
    recipe = recipe_of(optimizer, Fourier(), Transforms(), steps=5, leaky_steps=2)
    reused = climber_of(recipe, PURE_COLOURS)
    others = rng.keys([f"{i:016x}" + "f" * 48 for i in range(3)])
    reused.optimize(Jobs(others, torch.tensor([BLUE, BLUE, RED])))
    batch = reused._batch
    assert batch is not None
    lies = batch.parameters.data_ptr()
    again = reused.optimize(Jobs(KEYS[:3], torch.tensor([RED, GREEN, BLUE])))
    assert reused._batch is batch
    assert batch.parameters.data_ptr() == lies
    fresh = climb(recipe, [RED, GREEN, BLUE])
    assert torch.equal(again.images, fresh.images)
    assert torch.equal(again.trace, fresh.trace)


@pytest.mark.parametrize(
    "optimizer", [NAdam(), SGD(momentum=0.9), AdamW()], ids=lambda optimizer: optimizer.name
)
def test_state_stays_where_it_lies_and_is_that_of_a_new_optimizer(optimizer: Optimizer) -> None:
    def state(optimizer_step: BatchOptimizer) -> dict[str, Tensor]:
        assert isinstance(optimizer_step, FirstOrder)
        return optimizer_step.state

    used, once = Hill(optimizer, [0, 1]), Hill(optimizer, [0, 1])
    used.climb(4)
    before = state(used.optimizer_step)
    used.optimizer_step.restart()
    after = state(used.optimizer_step)
    assert {name: t.data_ptr() for name, t in before.items()} == {
        name: t.data_ptr() for name, t in after.items()
    }
    with torch.no_grad():
        used.parameters.copy_(once.parameters)
    assert torch.equal(used.climb(3), once.climb(3))


# --- from the config to the atlas ----------------------------------------------------------------

OUT_OF_RANGE: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (Adam, {"steps": 0}, "steps must be 1 or more, not 0"),
    (Adam, {"learning_rate": 0.0}, "learning_rate must be above 0"),
    (Adam, {"final_learning_rate": -1.0}, "final_learning_rate must be above 0"),
    (Adam, {"warmup_steps": -1}, "warmup_steps must be 0 or more"),
    (Adam, {"beta1": 1.0}, r"beta1 must be in \[0, 1\), not 1.0"),
    (AdamW, {"beta2": float("nan")}, r"beta2 must be in \[0, 1\)"),
    (Adam, {"leaky_steps": -1}, "leaky_steps must be 0 or more"),
    (SGD, {"leaky_slope": -0.1}, "leaky_slope must be 0 or more"),
    (LBFGS, {"starts": 0}, "starts must be 1 to 255, not 0"),
    (AdamW, {"weight_decay": -0.1}, "weight_decay must be 0 or more, not -0.1"),
    (NAdam, {"momentum_decay": -0.1}, "momentum_decay must be 0 or more"),
    (SGD, {"momentum": 1.0}, r"momentum must be in \[0, 1\), not 1.0"),
    (SGD, {"momentum": 0.0, "nesterov": True}, "nesterov needs a momentum above 0"),
    (LBFGS, {"history": 0}, "history must be 1 to 100, not 0"),
    (LBFGS, {"evaluations": 1}, "evaluations must be 2 or more, not 1"),
]


@pytest.mark.parametrize(("record", "values", "message"), OUT_OF_RANGE, ids=lambda x: str(x)[:40])
def test_values_out_of_range_are_refused_by_name(
    record: Callable[..., Any], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        record(**values)


@pytest.mark.parametrize("name", ["adam", "adamw", "nadam", "sgd", "lbfgs"])
@pytest.mark.parametrize("quality", ["draft", "paper", "natural"])
def test_every_optimizer_goes_with_every_quality(name: str, quality: str) -> None:
    made = composed(f"optimizer={name}", f"quality={quality}", "dataset=folder").optimizer
    steps = {"draft": 16, "paper": 130, "natural": 12}
    assert (made.name, made.steps) == (name, steps[quality])
    if name != "lbfgs":
        rates = {"draft": 0.5, "paper": 0.3, "natural": 0.07}
        assert made.learning_rate == rates[quality]


def test_what_the_command_line_says_of_an_optimizer_wins_over_its_pace() -> None:
    made = composed("optimizer=nadam", "quality=paper", "optimizer.beta1=0.5").optimizer
    assert made == NAdam(steps=130, learning_rate=0.3, final_learning_rate=0.02, beta1=0.5)


MISTAKES = [
    ("optimizer.name=adm", ["optimizer.name 'adm'", "choose from: adam"]),
    ("optimizer.schedule=cosin", ["optimizer.schedule 'cosin'", "choose from: cosine"]),
    ("optimizer=sgd; +optimizer.beta1=1", ["unknown config key 'optimizer.beta1'"]),
    ("optimizer=lbfgs; optimizer.evaluations=0", ["evaluations must be 2 or more, not 0"]),
]


@pytest.mark.parametrize(("overrides", "told"), MISTAKES, ids=[m[0] for m in MISTAKES])
def test_mistakes_are_told_with_place_and_value(overrides: str, told: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        composed(*overrides.split("; "))
    for words in told:
        assert words in str(caught.value)


@pytest.mark.slow
def test_a_sweep_by_lbfgs_has_the_same_bits_in_other_batches(tmp_path: Path) -> None:
    small = (*(o for o in TINY if "steps" not in o), "layers=[conv2]", "channels='0:10'")
    lbfgs = ("optimizer=lbfgs", "optimizer.steps=2", "optimizer.leaky_steps=1")
    lbfgs += ("optimizer.evaluations=3", "optimizer.starts=1")

    def made(*overrides: str) -> dict[str, Any]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        assert run_here(folder, *small, *lbfgs, "name=x", *overrides) == 0
        with h5py.File(folder / "x" / "atlas.h5") as file:
            layer = file["demo/conv2"]
            return {key: layer[key][:] for key in ("image", "trace", "activation")}

    many, few = made("batch_size=32"), made("batch_size=3")
    assert all(np.array_equal(many[key], few[key]) for key in many)
    # Without random views, which may differ more between two steps than the image does.
    trace = made("batch_size=32", "transforms=none")["trace"]
    assert (trace[:, 0, -1] > trace[:, 0, 0]).all()
