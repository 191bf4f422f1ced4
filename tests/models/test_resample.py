"""Resizing: what Pillow does, the same for every sample, and a gradient that is its transpose."""

import numpy as np
import pytest
import torch
from PIL import Image

from layer_atlas.models.resample import resampling, resized, sources


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
