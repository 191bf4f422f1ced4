"""Transforms: known answers of the warp, draws within their ranges, samples for themselves."""

import math

import pytest
import torch
from torch import Tensor
from toys import STILL

from pipeline import rng
from pipeline.recipe import Transforms
from pipeline.transforms import draw_views, warp

SIZE = 16
KEYS = rng.keys([f"{i:016x}" + "0" * 48 for i in range(40)])
WILD = Transforms(jitter=6.0, scale=(0.8, 2.0), rotate=30.0)


def photographs(batch: int, size: int = SIZE) -> Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0))


def affine(*rows: tuple[float, float, float]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def coordinates(size: int = SIZE) -> Tensor:
    """Pictures of x and of y, in [-1, 1] at the outer edges: (1, 2, size, size)."""
    centres = (torch.arange(size) * 2.0 + 1.0) / size - 1.0
    return torch.stack([centres.expand(size, size), centres[:, None].expand(size, size)])[None]


def test_identity_leaves_images_as_they_are() -> None:
    images = photographs(2)
    maps = draw_views(STILL, KEYS[:2], 3, SIZE)
    assert torch.equal(maps, torch.eye(2, 3).expand(3, 2, 2, 3))
    assert torch.allclose(warp(images, maps[0]), images, atol=1e-5)


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, 5), (-4, 2)])
def test_whole_pixel_shift_moves_pixels_and_mirrors_at_the_border(dx: int, dy: int) -> None:
    images = photographs(1)
    shifted = warp(images, affine((1, 0, 2 * dx / SIZE), (0, 1, 2 * dy / SIZE)))
    mirrored = torch.cat([images.flip(-1), images, images.flip(-1)], dim=-1)
    mirrored = torch.cat([mirrored.flip(-2), mirrored, mirrored.flip(-2)], dim=-2)
    top, left = SIZE + dy, SIZE + dx
    expected = mirrored[..., top : top + SIZE, left : left + SIZE]
    assert torch.allclose(shifted, expected, atol=1e-5)


def test_quarter_turn() -> None:
    images = photographs(1)
    turned = warp(images, affine((0, -1, 0), (1, 0, 0)))
    assert torch.allclose(turned, images.rot90(1, (-2, -1)), atol=1e-5)


def test_magnification_by_two_shows_the_middle_half() -> None:
    half = warp(photographs(1), affine((0.5, 0, 0), (0, 0.5, 0)))
    middle = photographs(1)[..., SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4]
    # Each pair of new pixels straddles an old one, so their mean is about the old pixel.
    expected = torch.nn.functional.interpolate(
        middle, scale_factor=2, mode="bilinear", align_corners=False
    )
    assert torch.allclose(half[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-5)


def test_pictures_of_coordinates_turn_into_the_map_itself() -> None:
    maps = draw_views(Transforms(jitter=2.0, scale=(1.3, 2.0), rotate=20.0), KEYS, 1, SIZE)[0]
    picture = coordinates()
    warped = warp(picture.expand(len(maps), -1, -1, -1), maps)
    x, y = picture[0]
    for view, seen in zip(maps, warped, strict=True):
        expected = torch.stack([m[0] * x + m[1] * y + m[2] for m in view])
        inside = expected.abs().amax(0) < 1 - 1.5 / SIZE
        assert inside.sum() > 50
        assert torch.allclose(seen[:, inside], expected[:, inside], atol=1e-5)


def test_each_image_goes_by_its_own_map() -> None:
    images, maps = photographs(5), draw_views(WILD, KEYS[:5], 1, SIZE)[0]
    together = warp(images, maps)
    for b in range(5):
        assert torch.equal(warp(images[b : b + 1], maps[b : b + 1])[0], together[b])


def test_the_gradient_is_the_adjoint_of_the_warp_up_to_interpolation() -> None:
    # <warp(x), g> = <x, adjoint(g)>: on smooth pictures, away from the mirrored border.
    size = 64
    x, y = coordinates(size)[0]
    images = torch.sin(3 * x + 1).mul(torch.cos(2 * y)).expand(len(KEYS), 1, -1, -1)
    images = images.clone().requires_grad_()
    bump = torch.exp(-8 * ((x - 0.1) ** 2 + (y + 0.2) ** 2))
    warped = warp(images, draw_views(WILD, KEYS, 1, size)[0])
    (adjoint,) = torch.autograd.grad((warped * bump).sum(), images)
    left = (warped * bump).sum((1, 2, 3))
    right = (images * adjoint).sum((1, 2, 3))
    assert torch.allclose(left, right, atol=0.01 * float(bump.sum()))
    assert left.abs().max() > 0.3 * bump.sum()


def test_a_shift_sends_its_gradient_back_whence_it_came() -> None:
    images = photographs(1).requires_grad_()
    shifted = warp(images, affine((1, 0, 2 * 3 / SIZE), (0, 1, 0)))
    (gradient,) = torch.autograd.grad(shifted[0, 0, 8, 5], images)
    expected = torch.zeros_like(images)
    expected[0, 0, 8, 8] = 1.0
    assert torch.allclose(gradient, expected, atol=1e-5)


def test_gradients_stay_within_their_image() -> None:
    images = photographs(3).requires_grad_()
    warped = warp(images, draw_views(WILD, KEYS[:3], 1, SIZE)[0])
    (gradient,) = torch.autograd.grad(warped[1].sum(), images)
    assert gradient[1].sum() > 0
    assert gradient[[0, 2]].abs().sum() == 0


def test_views_of_a_job_do_not_depend_on_batch_mates_or_number_of_steps() -> None:
    maps = draw_views(WILD, KEYS, 6, SIZE)
    assert maps.shape == (6, len(KEYS), 2, 3)
    assert torch.equal(draw_views(WILD, KEYS[7:9], 4, SIZE), maps[:4, 7:9])
    assert len(maps.flatten(0, 1).unique(dim=0)) == 6 * len(KEYS)


def test_draws_fill_their_ranges_and_keep_to_them() -> None:
    size = 32
    maps = draw_views(WILD, KEYS, 50, size).double().flatten(0, 1)
    cos, sin = maps[:, 0, 0], maps[:, 1, 0]
    assert torch.allclose(maps[:, 1, 1], cos)
    assert torch.allclose(maps[:, 0, 1], -sin)
    drawn = {
        (-30.0, 30.0): torch.rad2deg(torch.atan2(sin, cos)),
        (math.log(0.8), math.log(2.0)): -torch.log(torch.hypot(sin, cos)),
        (-6.0, 6.0): maps[:, :, 2] * size / 2,
    }
    for (low, high), values in drawn.items():
        width = high - low
        assert low - 1e-5 <= values.min() < low + 0.02 * width
        assert high - 0.02 * width < values.max() <= high + 1e-5
        assert abs(float(values.mean()) - (low + high) / 2) < 0.03 * width
