"""Regularizers: each lowers what it penalises, for each sample alone, and off means off."""

from collections.abc import Callable
from dataclasses import fields, replace

import pytest
import torch
from images import every_shape, images_of
from torch import Tensor, nn
from toys import channel_mean, make_recipe, random_network

from layer_atlas.config.parameterizations import Fourier, Maco, Parameterization, Pixel, Pyramid
from layer_atlas.config.recipe import Recipe, Regularizers, Transforms
from layer_atlas.models.pixels import fixed_contrast
from layer_atlas.visualization import rng
from layer_atlas.visualization.optimization.loop import GradientAscent, Jobs, OptimizedBatch, Scores
from layer_atlas.visualization.optimization.regularizers import (
    blur,
    blur_width,
    clipped,
    high_frequency,
    l1,
    l2,
    regularized_gradient,
    total_variation,
)
from layer_atlas.visualization.parameterizations.base import Shape

KEYS = rng.keys([f"{i:016x}" + "0" * 48 for i in range(1, 5)])
CHANNELS = [0, 1, 2, 3]
SIZE = 16

PENALTIES: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "total_variation": (total_variation, 0.3),
    "l1": (l1, 1.0),
    "l2": (l2, 3.0),
    "high_frequency": (high_frequency, 3.0),
}
"""Each with a weight that is heavy on the toy network."""

every_penalty = pytest.mark.parametrize("name", PENALTIES)


def toy() -> nn.Module:
    """Each channel likes textures: plain areas count for nothing in the first convolution."""
    network = random_network(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(6, 4, 3)
    )
    network[0].weight -= network[0].weight.mean(dim=(2, 3), keepdim=True)
    return network


def recipe_of(regularizers: Regularizers, parameterization: Parameterization) -> Recipe:
    recipe = make_recipe(parameterization, Transforms(jitter=1 / SIZE), SIZE, steps=40)
    return replace(recipe, regularizers=regularizers)


def climb(
    regularizers: Regularizers,
    parameterization: Parameterization | None = None,
    keys: Tensor = KEYS,
    channels: list[int] = CHANNELS,
    factor: float = 1.0,
) -> OptimizedBatch:
    network = toy()
    recipe = recipe_of(regularizers, parameterization or Pixel())
    loop = GradientAscent(
        Scores(lambda images: (factor * network(images).flatten(2),), channel_mean()), recipe
    )
    return loop.optimize(Jobs(keys, torch.tensor(channels)))


# --- penalties ---


@pytest.mark.parametrize("colours", [1, 3, 5])
def test_known_penalties(colours: int) -> None:
    images = torch.full((2, colours, 4, 7), 0.5)
    images[1, 0, 1, 1] = 0.75
    assert total_variation(images).tolist() == [0.0, 4 * 0.25]
    assert l1(images).tolist() == [0.0, 0.25]
    assert l2(images).tolist() == [0.0, 0.25**2 / 2]


@pytest.mark.parametrize("size", [16, 17])
def test_high_frequency_penalty_is_the_energy_of_fine_waves_alone(size: int) -> None:
    x = torch.arange(size, dtype=torch.float32)
    coarse, fine = (0.1 * torch.cos(2 * torch.pi * x * k / size) for k in (3, 6))
    images = 0.5 + torch.stack([coarse, fine, coarse + fine])[:, None, None, :].expand(
        -1, 3, size, -1
    )
    energy = high_frequency(images)
    assert energy[0] < 1e-6
    assert torch.allclose(energy[1:], (images[1] - 0.5).square().sum() / 2, rtol=1e-4)


@every_penalty
def test_the_gradient_is_pulled_back_by_the_penalty_at_the_scores_own_scale(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, SIZE, SIZE, generator=generator)
    gradient = torch.randn(images.shape, generator=generator) * torch.tensor([1.0, 100.0]).view(
        2, 1, 1, 1
    )
    penalty, weight = PENALTIES[name]
    back = regularized_gradient(Regularizers(**{name: weight}), images.clone(), gradient) - gradient
    free = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(penalty(free).sum(), free)
    strength = gradient.square().mean((1, 2, 3), keepdim=True).sqrt()
    assert torch.allclose(back, -weight * strength * slope, rtol=1e-3, atol=1e-4)


@every_penalty
@pytest.mark.parametrize("parameterization", [Pixel(), Fourier()], ids=["pixel", "fourier"])
def test_heavier_weights_lower_the_penalised_quantity_of_finished_images(
    name: str, parameterization: Pixel | Fourier
) -> None:
    penalty, heavy = PENALTIES[name]
    found = [
        penalty(climb(Regularizers(**{name: weight}), parameterization).images)
        for weight in (0.0, heavy / 3, heavy)
    ]
    assert (found[1] < found[0]).all()
    assert (found[2] < found[1]).all()


def test_weights_mean_the_same_for_channels_of_any_scale() -> None:
    regularizers = Regularizers(total_variation=0.1, l2=1.0)
    usual, loud = climb(regularizers), climb(regularizers, factor=1024.0)
    assert torch.allclose(usual.images, loud.images, atol=1e-3)


# --- blur and clipping ---


BLURRED = [Pixel(), Fourier(), Pyramid()]
every_blurred = pytest.mark.parametrize("parameterization", BLURRED, ids=lambda p: p.name)


@every_blurred
@every_shape
def test_blur_is_a_gaussian_on_the_values(
    parameterization: Pixel | Fourier | Pyramid, shape: Shape
) -> None:
    images = images_of(parameterization, shape)
    before = images.values().detach().clone()
    blur(images, torch.tensor(1.3), shape[1:])
    down, across = (
        torch.exp(-2 * (torch.pi * 1.3 * torch.fft.fftfreq(side)) ** 2) for side in shape[1:]
    )
    expected = torch.fft.ifft2(torch.fft.fft2(before) * down[:, None] * across[None, :]).real
    if not isinstance(parameterization, Pixel):
        expected = fixed_contrast(expected, parameterization.contrast)
    assert torch.allclose(images.values(), expected, atol=1e-4)


@every_blurred
def test_wider_blur_leaves_less_fine_structure(
    parameterization: Pixel | Fourier | Pyramid,
) -> None:
    found = [
        high_frequency(climb(Regularizers(blur=width), parameterization).images).mean()
        for width in (0.0, 0.3, 0.8)
    ]
    assert found[0] > found[1] > found[2]


def test_blur_falls_to_nothing() -> None:
    widths = [blur_width(Regularizers(blur=2.0), step, 5) for step in range(5)]
    assert widths == [2.0, 1.5, 1.0, 0.5, 0.0]
    assert blur_width(Regularizers(blur=2.0), 0, 1) == 2.0


def test_clipping_bounds_each_sample_and_leaves_smaller_ones_alone() -> None:
    gradients = torch.tensor([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    expected = torch.tensor([[0.6, 0.8], [0.3, 0.4], [0.0, 0.0]])
    assert torch.allclose(clipped(gradients, 1.0), expected)


def test_clipped_spikes_count_less() -> None:
    bound = Regularizers(clip=1e-4)
    assert torch.allclose(climb(bound).images, climb(bound, factor=1024.0).images, atol=1e-3), (
        "all gradients are larger than that, so their length cannot matter"
    )


# --- all of them ---

ALONE = {field.name for field in fields(Regularizers)} - {"feature_statistics", "dataset"}
"""Those that need no statistics; `test_feature_statistics` has the other one."""

SOME = Regularizers(0.1, 0.1, 0.1, 0.1, blur=0.5, clip=0.5)


@pytest.mark.parametrize("name", sorted(ALONE))
def test_each_changes_the_image(name: str) -> None:
    some = Regularizers(**{name: 0.001 if name == "clip" else 0.3})
    # A bound matters to Adam where gradients differ in length from step to step.
    assert not torch.equal(climb(some).images, climb(Regularizers()).images)


def test_the_trace_holds_the_objective_alone() -> None:
    free, held = climb(Regularizers()), climb(SOME)
    assert torch.equal(free.trace[:, 0], held.trace[:, 0])


@pytest.mark.parametrize("parameterization", [Pixel(), Fourier()], ids=["pixel", "fourier"])
def test_batch_mates_never_matter(parameterization: Pixel | Fourier) -> None:
    # Elementwise, because matrix products of one row are the workbench's business.
    def run(keys: Tensor, channels: list[int]) -> Tensor:
        objective = channel_mean()
        recipe = recipe_of(SOME, parameterization)
        loop = GradientAscent(
            Scores(lambda images: (torch.relu(images - 0.2).flatten(2),), objective), recipe
        )
        return loop.optimize(Jobs(keys, torch.tensor(channels))).images

    together = run(KEYS[:3], [0, 1, 2])
    for b in range(3):
        assert torch.equal(run(KEYS[b : b + 1], [b])[0], together[b])


def test_blur_leaves_fixed_magnitudes_alone() -> None:
    assert torch.equal(
        climb(Regularizers(blur=0.5), Maco()).images, climb(Regularizers(), Maco()).images
    )
