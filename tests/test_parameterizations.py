"""Parameterizations: what the family promises, checked on every member at once."""

import pytest
import torch
from images import KEYS, every_member, every_shape, images_of, only_parameter, photographs
from torch import Tensor

from pipeline import spectrum
from pipeline.parameterizations.base import Shape
from pipeline.recipe import DatasetInit, Fourier, SpectrumInit
from pipeline.recipe import Parameterization as Config


@every_member
@every_shape
def test_renders_batches_of_images_in_range(config: Config, shape: Shape) -> None:
    images = images_of(config, shape)
    rendered = images()
    assert rendered.shape == (3, *shape)
    assert rendered.dtype == torch.float32
    assert rendered.std() > 0.01
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


@every_member
@every_shape
def test_sample_comes_from_its_own_key_alone(config: Config, shape: Shape) -> None:
    together = images_of(config, shape)()
    assert torch.equal(images_of(config, shape, KEYS.flip(0))(), together.flip(0))
    for b in range(len(KEYS)):
        assert torch.equal(images_of(config, shape, KEYS[b : b + 1])()[0], together[b])
    assert not torch.equal(together[0], together[1])


@every_member
@every_shape
def test_sample_depends_on_its_own_row_alone(config: Config, shape: Shape) -> None:
    images = images_of(config, shape)
    parameter = only_parameter(images)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for b, picture in enumerate(images()):
        (gradient,) = torch.autograd.grad((picture * weight).sum(), parameter, retain_graph=True)
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
        images()[:, 0].square().sum().backward()
        return only_parameter(images).grad

    assert torch.equal(gradient(KEYS[1:2])[0], gradient(KEYS)[1])


# --- starts ---


@every_member
@every_shape
def test_a_start_from_the_spectrum_has_that_of_photographs(config: Config, shape: Shape) -> None:
    images = images_of(config, shape, init=SpectrumInit())
    inner = (..., slice(1, shape[1] // 2), slice(1, -1))
    found = torch.fft.rfft2(images.values(), norm="ortho").abs()
    for sample in (found / spectrum.magnitudes(shape[1:], shape[0]))[inner]:
        assert torch.allclose(sample, sample.mean().expand_as(sample), rtol=1e-2)
    alone = images_of(config, shape, KEYS[1:2], init=SpectrumInit())
    assert torch.equal(alone()[0], images()[1])
    assert not torch.equal(images()[0], images()[1])


@every_member
@every_shape
def test_a_start_depends_on_its_own_photograph_alone(config: Config, shape: Shape) -> None:
    wanted = photographs(shape)
    together = images_of(config, shape, init=DatasetInit(), photographs=wanted)()
    for b in range(3):
        one = slice(b, b + 1)
        alone = images_of(config, shape, KEYS[one], DatasetInit(), wanted[one])()
        assert torch.equal(alone[0], together[b])


def test_a_start_from_the_dataset_needs_photographs() -> None:
    with pytest.raises(ValueError, match="init=dataset"):
        images_of(Fourier(), init=DatasetInit())
