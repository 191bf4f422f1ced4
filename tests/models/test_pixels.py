"""Pixels: colours are decorrelated as those of photographs, resizing does what Pillow does."""

import numpy as np
import pytest
import torch
from images import dataset_images
from PIL import Image

from layer_atlas.models.pixels import (
    fixed_contrast,
    from_colours,
    resampling,
    resized,
    sources,
    to_colours,
)

every_number = pytest.mark.parametrize("colours", [1, 3, 5])


@every_number
def test_zero_is_mid_grey(colours: int) -> None:
    grey = to_colours(torch.zeros(1, colours, 2, 2))
    assert torch.equal(grey, torch.full((1, colours, 2, 2), 0.5))


def test_three_colours_are_mixed_as_in_photographs() -> None:
    unit = torch.zeros(1, 3, 1, 1)
    unit[0, 0] = 1.0
    scale = (0.26**2 + 0.27**2 + 0.27**2) ** 0.5
    expected = torch.tensor([0.26, 0.27, 0.27]) / scale
    assert torch.allclose(to_colours(unit)[0, :, 0, 0], torch.sigmoid(expected))


@pytest.mark.parametrize("colours", [1, 2, 5])
def test_other_numbers_of_colours_are_left_as_they_are(colours: int) -> None:
    values = torch.randn(2, colours, 3, 4, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(to_colours(values), torch.sigmoid(values))


@every_number
def test_the_way_back(colours: int) -> None:
    images = dataset_images((colours, 16, 12)).clamp(0.01, 0.99)
    assert torch.allclose(to_colours(from_colours(images)), images, atol=1e-5)
    extremes = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, colours, 2, 2)
    assert torch.allclose(to_colours(from_colours(extremes)), extremes, atol=0.003)


def test_contrast_is_fixed_and_its_gradient_the_true_one() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 3, 4, 5, dtype=torch.float64, generator=generator).requires_grad_()
    scaled = fixed_contrast(values * 7 + 2, 1.5)
    assert torch.allclose(scaled.square().mean((1, 2, 3)).sqrt(), torch.tensor(1.5).double())
    assert torch.autograd.gradcheck(lambda x: fixed_contrast(x + 0.3, 1.5), values)


# --- resizing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7, 30), (40, 11), (16, 24), (33, 50)])
def test_pictures_are_resized_as_pillow_does(size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).random((16, 24)).astype(np.float32)
    expected = Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)
    found = resized(torch.from_numpy(pixels)[None, None], size)[0, 0]
    assert np.abs(found.numpy() - np.asarray(expected)).max() < 1e-5


def test_rows_sum_to_1_and_the_same_size_is_left_alone() -> None:
    for before, after in ((5, 17), (17, 5), (9, 9)):
        sums = resampling(before, after, torch.device("cpu")).sum(dim=1)
        assert torch.allclose(sums, torch.ones(after))
    images = torch.rand(2, 3, 6, 8)
    assert resized(images, (6, 8)) is images


def test_weights_of_half_and_double() -> None:
    device = torch.device("cpu")
    assert resampling(8, 4, device)[1].mul(8).tolist() == [0, 1, 3, 3, 1, 0, 0, 0]
    assert resampling(4, 8, device)[3].mul(4).tolist() == [0, 3, 1, 0]


@pytest.mark.parametrize("size", [(16, 24), (9, 9), (20, 17)])
def test_the_gradient_is_the_transpose(size: tuple[int, int]) -> None:
    images, weight = torch.rand(2, 1, *size).requires_grad_(), torch.rand(2, 1, 17, 9)
    (gradient,) = torch.autograd.grad((resized(images, (17, 9)) * weight).sum(), images)
    down = resampling(size[0], 17, images.device)
    across = resampling(size[1], 9, images.device)
    assert torch.allclose(gradient, down.T @ weight @ across, atol=1e-5)


@pytest.mark.parametrize("after", [(31, 13), (17, 17), (9, 9)])
@pytest.mark.parametrize("before", [(20, 24), (9, 9), (17, 17), (17, 33)])
def test_a_sample_is_resized_alike_in_any_batch_and_place(
    before: tuple[int, int], after: tuple[int, int]
) -> None:
    images = torch.rand(16, 3, *before)
    together = resized(images, after)
    for start in (1, 3, 8):
        # A copy begins a cache line, as the middle of a batch may not.
        found = resized(images[start : start + 8].clone(), after)
        assert torch.equal(found, together[start : start + 8])


@pytest.mark.parametrize("size", [(16, 24), (11, 9)])
@pytest.mark.parametrize("to", [(7, 30), (16, 24), (8, 8)])
def test_what_a_box_depends_on_is_all_that_moves_it(
    size: tuple[int, int], to: tuple[int, int]
) -> None:
    boxes = torch.tensor([[0, 0, 1, 1], [3, 5, 7, 6], [0, 0, to[1], to[0]]])
    for box, (left, top, right, bottom) in zip(
        boxes, sources(boxes, size, to).tolist(), strict=True
    ):
        image = torch.rand(1, 1, *size).requires_grad_()
        part = resized(image, to)[:, :, box[1] : box[3], box[0] : box[2]]
        (gradient,) = torch.autograd.grad(part.sum(), image)
        moved = gradient[0, 0] != 0
        assert moved[top:bottom, left:right].all()
        assert moved.sum() == (bottom - top) * (right - left)
