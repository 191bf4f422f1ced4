"""Images as phases at the magnitudes of photographs."""

import torch
from images import KEYS, dataset_images, every_shape, images_of, only_parameter
from torch import Tensor, nn

from layer_atlas.config.parameterizations import Maco
from layer_atlas.config.recipe import DatasetInit
from layer_atlas.models.colours import from_colours
from layer_atlas.visualization import spectrum
from layer_atlas.visualization.parameterizations.base import Shape
from layer_atlas.visualization.parameterizations.maco import MacoImages


def maco(shape: Shape) -> MacoImages:
    return MacoImages(Maco(), shape, KEYS)


def own_mirror_images(shape: Shape) -> Tensor:
    """Whether a real-FFT coefficient is its own mirror image, by the definition."""
    _, height, width = shape
    rows, columns = torch.arange(height)[:, None], torch.arange(width // 2 + 1)[None, :]
    return (2 * rows % height == 0) & (2 * columns % width == 0)


@every_shape
def test_magnitudes_are_those_of_photographs_whatever_the_phases(shape: Shape) -> None:
    images = maco(shape)
    with torch.no_grad():
        only_parameter(images).mul_(3.7).add_(1.0)
    found = torch.fft.rfft2(images.values(), norm="ortho").abs()
    ratio = found / spectrum.magnitudes(shape[1:], shape[0])
    free = ~own_mirror_images(shape)
    for sample in ratio:
        factor = sample[:, free].mean()
        assert torch.allclose(sample[:, free], factor.expand_as(sample[:, free]), rtol=1e-3)
        assert (sample[:, ~free] <= factor * 1.001).all()


@every_shape
def test_any_phases_are_reached(shape: Shape) -> None:
    wanted = torch.randn(len(KEYS), *shape, generator=torch.Generator().manual_seed(0))
    images = maco(shape)
    images.encode(wanted)
    free = ~own_mirror_images(shape)
    made, asked = (torch.fft.rfft2(x)[..., free] for x in (images.values(), wanted))
    assert torch.allclose(made / made.abs(), asked / asked.abs(), atol=1e-3)


@every_shape
def test_the_gradient_is_the_true_one(shape: Shape) -> None:
    images = maco(shape).double()
    weight = torch.randn(len(KEYS), *shape, generator=torch.Generator().manual_seed(0)).double()

    class Values(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.images = images

        def forward(self) -> Tensor:
            return self.images.values()

    def score(phases: Tensor) -> Tensor:
        values = torch.func.functional_call(Values(), {"images.phases": phases})
        return (values * weight).sum((1, 2, 3))

    phases = only_parameter(images).detach()
    slope = torch.randn(phases.shape, generator=torch.Generator().manual_seed(1)).double()
    (gradient,) = torch.autograd.grad(score(phases.requires_grad_()).sum(), phases)
    measured = (score(phases + 1e-6 * slope) - score(phases - 1e-6 * slope)) / 2e-6
    assert torch.allclose((gradient * slope).sum(1), measured, rtol=1e-5)


def test_phases_start_all_around() -> None:
    phases = only_parameter(maco((3, 32, 32))).detach()[:, : 3 * 32 * 17]
    assert -torch.pi < phases.min() < -3.1
    assert 3.1 < phases.max() < torch.pi
    assert float(phases.cos().mean().abs()) < 0.03


def test_the_structure_of_a_photograph_is_given_back() -> None:
    # Phases alone carry it (Oppenheim & Lim 1981).
    shape = (3, 24, 24)
    wanted = dataset_images(shape)
    images = images_of(Maco(), shape, init=DatasetInit(), dataset_images=wanted)
    made, asked = images.values().flatten(1), from_colours(wanted).flatten(1)
    own = torch.cosine_similarity(made, asked)
    others = torch.cosine_similarity(made, asked.roll(1, 0))
    assert (own > 0.5).all()
    assert (own > others + 0.3).all()
