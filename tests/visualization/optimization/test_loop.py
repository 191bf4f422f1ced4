"""The loop: known optima on toy networks, and samples that do not disturb each other."""

import gc
import weakref
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import BLUE, GREEN, RED, STILL, channel_mean, colour_reader, make_recipe, pointwise

from layer_atlas.config.parameterizations import Fourier, Pixel
from layer_atlas.config.recipe import Recipe, Transforms, trace_steps
from layer_atlas.visualization import rng
from layer_atlas.visualization.optimization.loop import GradientAscent, Jobs, OptimizedBatch, Scores

KEYS = rng.keys([f"{i:016x}" + "0" * 48 for i in range(1, 5)])
QUIET = Pixel(initial_sd=0.05)


def climb(network: nn.Module, recipe: Recipe, channels: list[int], **more: Any) -> OptimizedBatch:
    keys = more.pop("keys", KEYS[: len(channels)])
    objective = channel_mean()
    loop = GradientAscent(Scores(lambda images: (network(images).flatten(2),), objective), recipe)
    return loop.optimize(Jobs(keys, torch.tensor(channels)), **more)


def mean_colours(images: Tensor) -> Tensor:
    return images.mean(dim=(2, 3))


PURE_COLOURS = pointwise([[1.0, -0.5, -0.5], [-0.5, 1.0, -0.5], [-0.5, -0.5, 1.0]])


@pytest.mark.parametrize("parameterization", [Pixel(), Fourier()], ids=["pixel", "fourier"])
@pytest.mark.parametrize("transforms", [STILL, Transforms(jitter=1 / 8)], ids=["still", "moving"])
def test_image_turns_into_the_colour_that_the_channel_reads(
    parameterization: Pixel | Fourier, transforms: Transforms
) -> None:
    recipe = make_recipe(parameterization, transforms, steps=60)
    found = mean_colours(climb(PURE_COLOURS, recipe, [RED, GREEN, BLUE]).images)
    for colour, means in enumerate(found):
        others = [c for c in (RED, GREEN, BLUE) if c != colour]
        assert (means[colour] > means[others] + 0.08).all()


def test_a_channel_that_likes_plain_white_does_not_burn_its_image_out() -> None:
    white = pointwise([[1.0, 1.0, 1.0]])
    images = climb(white, make_recipe(Fourier(), steps=60), [0]).images
    assert images.mean() > 0.75
    assert images.max() < 0.97


def test_pixels_reach_the_exact_optimum_of_a_mixed_reader() -> None:
    red_not_blue = pointwise([[1.0, 0.0, -1.0], [-1.0, -1.0, -1.0]])
    images = climb(red_not_blue, make_recipe(Pixel(), steps=200), [0, 1]).images
    assert images[0, RED].min() > 0.97
    assert images[0, BLUE].max() < 0.03
    assert images[1].max() < 0.05


def test_scores_rise_and_are_recorded_at_the_trace_steps() -> None:
    steps: list[int] = []
    recipe = make_recipe(Pixel(), steps=40)
    optimized = climb(colour_reader(), recipe, [RED, GREEN], on_step=steps.append)
    assert steps == list(range(40))
    assert optimized.trace.shape == (2, len(trace_steps(40)))
    assert (optimized.trace.diff(dim=1) > -0.01).all()
    first = climb(colour_reader(), make_recipe(Pixel(), steps=1), [RED, GREEN])
    assert torch.equal(optimized.trace[:, 0], first.trace[:, 0])
    assert optimized.trace[0, -1] == pytest.approx(float(optimized.images[0, RED].mean()), abs=0.01)
    assert optimized.finite.tolist() == [True, True]


@pytest.mark.parametrize("parameterization", [Pixel(), Fourier()], ids=["pixel", "fourier"])
def test_sample_has_the_same_bits_alone_and_in_any_company(
    parameterization: Pixel | Fourier,
) -> None:
    # Elementwise on purpose: matrix products of one row are the workbench's business.
    recipe = make_recipe(parameterization, Transforms(), steps=10)
    network = nn.Sequential(Scaled(3.0), nn.ReLU())
    together = climb(network, recipe, [0, 1, 2, 1])
    reordered = climb(network, recipe, [1, 2, 1, 0], keys=KEYS[[3, 2, 1, 0]])
    assert torch.equal(reordered.images, together.images.flip(0))
    for b, channel in enumerate([0, 1, 2, 1]):
        alone = climb(network, recipe, [channel], keys=KEYS[b : b + 1])
        assert torch.equal(alone.images[0], together.images[b])
        assert torch.equal(alone.trace[0], together.trace[b])


class Scaled(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x - 1.0


class Overflows(nn.Module):
    """Channel 0 is infinite once red is beyond 0.9; channel 1 reads the absence of red."""

    def forward(self, x: Tensor) -> Tensor:
        red = x[:, :1]
        return torch.cat([red / (0.9 - red).clamp_min(0), 1 - red], dim=1)


def test_sample_that_is_not_finite_is_reported_and_leaves_batch_mates_alone() -> None:
    recipe = make_recipe(QUIET, steps=60)
    optimized = climb(Overflows(), recipe, [1, 0, 1])
    assert optimized.finite.tolist() == [True, False, True]
    assert torch.isfinite(optimized.images).all()
    for b in (0, 2):
        healthy = climb(Overflows(), recipe, [1, 1, 1])
        assert torch.equal(optimized.images[b], healthy.images[b])
        assert torch.equal(optimized.trace[b], healthy.trace[b])


class NaNForRed(nn.Module):
    """Nothing but NaN for images that are redder than a limit; red and its absence for others."""

    def forward(self, x: Tensor) -> Tensor:
        red = x[:, :1]
        too_red = red.mean(dim=(2, 3), keepdim=True) > 0.9
        return torch.where(too_red, float("nan"), torch.cat([red, 1 - red], dim=1))


def test_sample_stands_still_once_it_is_not_finite() -> None:
    def at(steps: int) -> OptimizedBatch:
        recipe = make_recipe(Pixel(), steps=steps, beta1=0.0, final_learning_rate=0.3)
        return climb(NaNForRed(), recipe, [0, 1])

    early, late = at(80), at(90)
    assert early.finite.tolist() == late.finite.tolist() == [False, True]
    assert torch.equal(early.images[0], late.images[0])
    assert torch.isfinite(late.images).all()


class NaNOnce(nn.Module):
    """The scores of the first sample are NaN at one step, and sound before and after."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.steps_left = step

    def forward(self, x: Tensor) -> Tensor:
        self.steps_left -= 1
        if self.steps_left != -1:
            return x
        first = torch.arange(len(x)).view(-1, 1, 1, 1) == 0
        return torch.where(first, float("nan"), x)


def test_sample_that_was_not_finite_for_one_step_stays_reported() -> None:
    optimized = climb(NaNOnce(step=3), make_recipe(Pixel(), steps=10), [RED, GREEN])
    assert optimized.finite.tolist() == [False, True]
    assert torch.isnan(optimized.trace[0]).tolist() == [step == 3 for step in range(10)]
    sound = climb(nn.Identity(), make_recipe(Pixel(), steps=10), [RED, GREEN])
    assert torch.equal(optimized.images[1], sound.images[1])


def closed_at_first() -> nn.Module:
    """A ReLU that no image near grey opens, but a red one does."""
    return nn.Sequential(pointwise([[10.0, 0.0, 0.0]], [-8.0]), nn.ReLU())


def test_closed_channel_is_reached_through_the_leak_and_not_without() -> None:
    recipe = make_recipe(QUIET, steps=40, leaky_steps=20, leaky_slope=0.1)
    reached = climb(closed_at_first(), recipe, [0])
    assert reached.trace[0, 0] == 0
    assert reached.trace[0, -1] > 1
    for off in ({"leaky_steps": 0}, {"leaky_slope": 0.0}):
        recipe = make_recipe(QUIET, **{"steps": 40, "leaky_steps": 20, "leaky_slope": 0.1, **off})
        assert (climb(closed_at_first(), recipe, [0]).trace == 0).all()


def test_network_is_not_updated() -> None:
    network = closed_at_first()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    climb(network, make_recipe(QUIET, steps=20), [0])
    assert all(torch.equal(before[name], t) for name, t in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())


def test_a_batch_is_freed_as_soon_as_it_is_replaced() -> None:
    # On a GPU two batches at once would not fit, and garbage waits for its collection.
    recipe, keys = make_recipe(Pixel(), steps=2), torch.stack([KEYS[0]] * 4)
    network = colour_reader()
    objective = channel_mean()
    loop = GradientAscent(Scores(lambda images: (network(images).flatten(2),), objective), recipe)
    gc.disable()
    try:
        loop.optimize(Jobs(keys, torch.zeros(4, dtype=torch.int64)))
        first = weakref.ref(loop._batch)
        loop.optimize(Jobs(keys[:2], torch.zeros(2, dtype=torch.int64)))
        assert first() is None
        second = weakref.ref(loop._batch)
        del loop
        assert second() is None
    finally:
        gc.enable()


def test_variants_of_a_job_start_from_noise_of_their_own() -> None:
    samples = Jobs(KEYS[:2], torch.tensor([RED, GREEN])).with_variants(3)
    assert samples.targets.tolist() == [RED] * 3 + [GREEN] * 3
    assert len({tuple(key) for key in samples.keys.tolist()}) == 6
    assert torch.equal(samples.keys[[0, 3]], KEYS[:2])
