"""Resampling: as others resize, what it depends on, and the same bits in any company."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.resampling import Resize, weights

Size = tuple[int, int]

SIZES: list[tuple[Size, Size]] = [
    ((45, 61), (64, 64)),
    ((64, 64), (45, 61)),
    ((96, 24), (32, 32)),
    ((33, 17), (16, 16)),
]
every_size = pytest.mark.parametrize(("size", "to"), SIZES, ids=str)


def images(count: int, size: Size, colours: int = 3) -> Tensor:
    return torch.rand(count, colours, *size, generator=torch.Generator().manual_seed(0))


@every_size
def test_images_are_resized_as_torch_does_it(size: Size, to: Size) -> None:
    expected = F.interpolate(images(2, size), to, mode="bilinear", antialias=True)
    torch.testing.assert_close(Resize(size, to)(images(2, size)), expected, atol=2e-5, rtol=0)


@every_size
def test_every_sample_is_a_mean(size: Size, to: Size) -> None:
    for n, m in zip(size, to, strict=True):
        matrix = weights(n, m)
        assert matrix.shape == (m, n)
        assert (matrix >= 0).all()
        torch.testing.assert_close(matrix.sum(dim=1), torch.ones(m))


def test_images_of_the_right_size_stay_as_they_are() -> None:
    whole = images(2, (20, 30))
    assert torch.equal(Resize((20, 30), (20, 30))(whole), whole)


def test_any_number_of_colours_passes() -> None:
    for colours in (1, 5):
        assert Resize((8, 9), (4, 4))(images(2, (8, 9), colours)).shape == (2, colours, 4, 4)


@every_size
def test_what_a_box_depends_on_is_all_that_moves_it(size: Size, to: Size) -> None:
    resize = Resize(size, to)
    boxes = torch.tensor([[0, 0, 1, 1], [3, 5, 7, 6], [0, 0, to[1], to[0]]])
    for box, (left, top, right, bottom) in zip(boxes, resize.sources(boxes).tolist(), strict=True):
        image = images(1, size).requires_grad_()
        part = resize(image)[:, :, box[1] : box[3], box[0] : box[2]]
        (gradient,) = torch.autograd.grad(part.sum(), image)
        moved = gradient[0, 0] != 0
        assert moved[top:bottom, left:right].all()
        assert moved.sum() == (bottom - top) * (right - left)


@every_size
def test_bits_do_not_depend_on_the_batch_or_on_threads(size: Size, to: Size) -> None:
    resize, before = Resize(size, to), torch.get_num_threads()

    def both_ways(count: int, threads: int) -> tuple[Tensor, Tensor]:
        torch.set_num_threads(threads)
        seen = images(24, size)[:count].requires_grad_()
        resized = resize(seen)
        return resized.detach(), torch.autograd.grad((resized**2).sum(), seen)[0]

    try:
        reference = both_ways(24, 1)
        for count in (8, 16, 24):
            for threads in (1, 2):
                for found, whole in zip(both_ways(count, threads), reference, strict=True):
                    assert torch.equal(found, whole[:count]), (count, threads)
    finally:
        torch.set_num_threads(before)
