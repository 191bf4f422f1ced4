"""Parameterizations: what the family promises, checked on every member at once."""

from functools import partial

import pytest
import torch
from images import (
    FROM_PICTURES,
    KEYS,
    MASK,
    PICTURE,
    dataset_images,
    every_member,
    every_member_from_pictures,
    every_shape,
    find,
    images_of,
    only_parameter,
    recipe_of,
)
from torch import Tensor, nn
from toys import channel_mean, random_network

from layer_atlas.config.optimizers import Adam
from layer_atlas.config.parameterizations import Fourier, Mask, NaturalFourier
from layer_atlas.config.parameterizations import Parameterization as Config
from layer_atlas.config.recipe import (
    DatasetInit,
    PhotographInit,
    Regularizers,
    SpectrumInit,
    Transforms,
)
from layer_atlas.datasets.image_files import read_picture
from layer_atlas.visualization import rng, spectrum
from layer_atlas.visualization.optimization.loop import (
    GradientAscent,
    Jobs,
    OptimizedBatch,
    Scores,
    initial_images,
)
from layer_atlas.visualization.parameterizations.base import Shape

KEEPING_THE_SPECTRUM = [c for c in FROM_PICTURES if not isinstance(c, NaturalFourier)]
"""Natural Fourier images scale whole octaves by what a start happens to have in them."""

every_mask = pytest.mark.parametrize("mask", [None, MASK], ids=["bare", "masked"])


@every_member
@every_shape
def test_renders_batches_of_images_in_range(config: Config, shape: Shape) -> None:
    images = images_of(config, shape)
    rendered = images()
    assert rendered.shape == (len(KEYS), *shape)
    assert rendered.dtype == torch.float32
    assert rendered.std() > 0.01
    assert images.values().shape == rendered.shape
    with torch.no_grad():
        only_parameter(images).mul_(1e4)
    for pictures in (rendered, images()):
        assert (pictures.min() >= 0) & (pictures.max() <= 1)
        assert torch.isfinite(pictures).all()


@every_member
@every_shape
def test_parameters_are_one_row_of_whole_cache_lines_per_job(config: Config, shape: Shape) -> None:
    parameter = only_parameter(images_of(config, shape))
    assert parameter.ndim == 2
    assert len(parameter) == len(KEYS)
    assert parameter.shape[1] % 64 == 0
    assert parameter.requires_grad


def alone(b: int) -> Tensor:
    """Positions of a batch that one sample fills."""
    return torch.full((len(KEYS),), b)


@every_member
@every_shape
def test_sample_comes_from_its_own_key_alone(config: Config, shape: Shape) -> None:
    together = images_of(config, shape)()
    assert torch.equal(images_of(config, shape, KEYS.flip(0))(), together.flip(0))
    twice = torch.cat([KEYS.roll(3, 0), KEYS])
    assert torch.equal(images_of(config, shape, twice)()[:8], together.roll(3, 0))
    for b in (0, 5):
        assert torch.equal(images_of(config, shape, KEYS[alone(b)])()[1], together[b])
    assert not torch.equal(together[0], together[1])


@every_member
@every_shape
def test_sample_depends_on_its_own_row_alone(config: Config, shape: Shape) -> None:
    images = images_of(config, shape)
    parameter = only_parameter(images)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    rendered = images()
    for b in (0, 3):
        (gradient,) = torch.autograd.grad(
            (rendered[b] * weight).sum(), parameter, retain_graph=True
        )
        assert gradient[b].abs().sum() > 0
        gradient[b] = 0
        assert gradient.abs().sum() == 0


@every_member
@every_shape
def test_gradient_of_a_sample_has_the_same_bits_alone_and_in_company(
    config: Config, shape: Shape
) -> None:
    def gradient(keys: Tensor) -> Tensor:
        images = images_of(config, shape, keys)
        (found,) = torch.autograd.grad(images()[:, 0].square().sum(), images.parameters())
        return found

    together = gradient(KEYS)
    assert torch.equal(gradient(KEYS[alone(1)])[4], together[1])
    assert torch.equal(gradient(KEYS.flip(0)), together.flip(0))


@every_member
@every_shape
def test_gradient_is_the_slope_of_what_is_rendered(config: Config, shape: Shape) -> None:
    images = images_of(config, shape)
    parameter = only_parameter(images)
    rendered = images()
    # Towards brighter red a small step must brighten red, and by what the gradient says.
    score = rendered[:, 0].mean((1, 2))
    (gradient,) = torch.autograd.grad(score.sum(), parameter)
    length = gradient.norm(dim=1)
    with torch.no_grad():
        parameter += gradient * (0.01 / length[:, None])
    rise = images()[:, 0].mean((1, 2)) - score
    assert torch.allclose(rise, 0.01 * length, rtol=0.15, atol=1e-6)


# --- in the loop ---


def climber_of(config: Config, shape: Shape, mask: Mask | None) -> GradientAscent:
    network = random_network(nn.Conv2d(shape[0], 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 4, 3))
    recipe = recipe_of(
        config,
        shape,
        mask=mask,
        transforms=Transforms(jitter=1 / 16),
        optimizer=Adam(steps=6, leaky_steps=2),
        regularizers=Regularizers(blur=0.4),
    )
    start = partial(initial_images, colours=shape[0], find=find)
    return GradientAscent(
        Scores(lambda images: (network(images).flatten(2),), channel_mean()), recipe, start
    )


def climb(loop: GradientAscent, keys: Tensor) -> OptimizedBatch:
    return loop.optimize(Jobs(keys, torch.arange(len(keys)) % 4))


@every_mask
@every_member
@every_shape
def test_scores_rise(config: Config, shape: Shape, mask: Mask | None) -> None:
    optimized = climb(climber_of(config, shape, mask), KEYS)
    assert optimized.images.shape == (len(KEYS), *shape)
    assert optimized.finite.all()
    assert (optimized.trace[:, -1] > optimized.trace[:, 0]).all()


@every_mask
@every_member
def test_a_second_batch_is_that_of_a_fresh_start(config: Config, mask: Mask | None) -> None:
    others = rng.keys([f"{i:016x}" + "0" * 48 for i in range(91, 99)])
    used, fresh = (climber_of(config, (1, 12, 18), mask) for _ in range(2))
    climb(used, KEYS)
    again, fresh = climb(used, others), climb(fresh, others)
    assert torch.equal(again.images, fresh.images)
    assert torch.equal(again.trace, fresh.trace)


# --- starts ---


@pytest.mark.parametrize("config", KEEPING_THE_SPECTRUM, ids=str)
@every_shape
def test_a_start_from_the_spectrum_has_that_of_photographs(config: Config, shape: Shape) -> None:
    images = images_of(config, shape, init=SpectrumInit())
    inner = (..., slice(1, shape[1] // 2), slice(1, -1))
    found = torch.fft.rfft2(images.values(), norm="ortho").abs()
    for sample in (found / spectrum.magnitudes(shape[1:], shape[0]))[inner]:
        assert torch.allclose(sample, sample.mean().expand_as(sample), rtol=1e-2)
    assert torch.equal(images_of(config, shape, KEYS[alone(1)], SpectrumInit())()[0], images()[1])
    assert not torch.equal(images()[0], images()[1])


@every_member_from_pictures
@every_shape
def test_a_start_depends_on_its_own_photograph_alone(config: Config, shape: Shape) -> None:
    wanted = dataset_images(shape)
    together = images_of(config, shape, init=DatasetInit(), dataset_images=wanted)()
    for b in (0, 5):
        only = alone(b)
        found = images_of(config, shape, KEYS[only], DatasetInit(), wanted[only])()
        assert torch.equal(found[0], together[b])


@every_member_from_pictures
@every_shape
def test_what_was_once_encoded_is_given_back(config: Config, shape: Shape) -> None:
    images = images_of(config, shape, init=DatasetInit(), dataset_images=dataset_images(shape))
    wanted = images.values().detach().clone()
    images.encode(wanted)
    assert torch.allclose(images.values(), wanted, atol=1e-3)


@every_member_from_pictures
@every_shape
def test_a_start_from_one_photograph_is_that_of_every_job(config: Config, shape: Shape) -> None:
    images = images_of(config, shape, init=PhotographInit(photograph=PICTURE))
    picture = torch.from_numpy(read_picture(find(PICTURE), shape[0], shape[1:]))
    picture = picture.expand(len(KEYS), -1, -1, -1)
    expected = images_of(config, shape, init=DatasetInit(), dataset_images=picture)
    assert torch.equal(images(), expected())


def test_a_start_from_the_dataset_needs_photographs() -> None:
    with pytest.raises(ValueError, match="init=dataset"):
        images_of(Fourier(), init=DatasetInit())
