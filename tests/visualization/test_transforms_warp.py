"""The warp: known answers of given maps, and its way back."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from layer_atlas.config.recipe import Transforms
from layer_atlas.visualization.transforms import apply_views, draw_views, warp
from tests.visualization.test_transforms import (
    CROP,
    EVERY_MOVE,
    KEYS,
    PERSPECTIVE,
    SIZE,
    coordinates,
    dataset_images,
    draw_maps,
    each_move,
    mapped,
)


def affine(*rows: tuple[float, float, float]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def test_the_identity_map_leaves_images_as_they_are() -> None:
    images = dataset_images(2)
    assert torch.allclose(warp(images, torch.eye(2, 3).expand(2, 2, 3)), images, atol=1e-5)
    assert torch.allclose(warp(images, torch.eye(3).expand(2, 3, 3)), images, atol=1e-5)


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, 5), (-4, 2)])
@pytest.mark.parametrize(("height", "width"), [(SIZE, SIZE), (12, 20)])
def test_whole_pixel_shift_moves_pixels_and_mirrors_at_the_border(
    dx: int, dy: int, height: int, width: int
) -> None:
    images = dataset_images(1, height, width)
    shifted = warp(images, affine((1, 0, 2 * dx / width), (0, 1, 2 * dy / height)))
    mirrored = torch.cat([images.flip(-1), images, images.flip(-1)], dim=-1)
    mirrored = torch.cat([mirrored.flip(-2), mirrored, mirrored.flip(-2)], dim=-2)
    top, left = height + dy, width + dx
    expected = mirrored[..., top : top + height, left : left + width]
    assert torch.allclose(shifted, expected, atol=1e-5)


def test_quarter_turn() -> None:
    images = dataset_images(1)
    turned = warp(images, affine((0, -1, 0), (1, 0, 0)))
    assert torch.allclose(turned, images.rot90(1, (-2, -1)), atol=1e-5)


def test_magnification_by_two_shows_the_middle_half() -> None:
    half = warp(dataset_images(1), affine((0.5, 0, 0), (0, 0.5, 0)))
    middle = dataset_images(1)[..., SIZE // 4 : -SIZE // 4, SIZE // 4 : -SIZE // 4]
    # Each pair of new pixels straddles an old one, so their mean is about the old pixel.
    expected = F.interpolate(middle, scale_factor=2, mode="bilinear", align_corners=False)
    assert torch.allclose(half[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1], atol=1e-5)


# --- the way back --------------------------------------------------------------------------------


@each_move
def test_the_gradient_is_the_adjoint_of_the_warp_up_to_interpolation(config: Transforms) -> None:
    # <warp(x), g> = <x, adjoint(g)>: on smooth pictures, away from the mirrored border.
    size = 64
    x, y = coordinates(size, size)[0]
    images = torch.sin(3 * x + 1).mul(torch.cos(2 * y)).expand(len(KEYS), 1, -1, -1)
    images = images.clone().requires_grad_()
    bump = torch.exp(-8 * ((x - 0.1) ** 2 + (y + 0.2) ** 2))
    warped = apply_views(config, images, draw_views(config, KEYS, 1, (size, size))[0])
    (adjoint,) = torch.autograd.grad((warped * bump).sum(), images)
    left = (warped * bump).sum((1, 2, 3))
    right = (images * adjoint).sum((1, 2, 3))
    assert torch.allclose(left, right, atol=0.015 * float(bump.sum()))
    assert left.abs().max() > 0.3 * bump.sum()


@pytest.mark.parametrize(
    ("config", "likeness"),
    [(CROP, 0.98), (PERSPECTIVE, 0.95), (replace(EVERY_MOVE, jitter=0.0, rotate=5.0), 0.95)],
    ids=["crop", "perspective", "every move"],
)
def test_no_part_of_a_rough_gradient_is_lost_where_views_magnify(
    config: Transforms, likeness: float
) -> None:
    # Each pixel of the image gets what all its copies in the view send back, not one copy's share.
    height, width = 40, 56
    maps = draw_maps(config, 1, height, width)[0]
    images = dataset_images(40, height, width).requires_grad_()
    rough = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    views = maps.flatten(1)
    (ours,) = torch.autograd.grad(apply_views(config, images, views), images, rough)
    points = torch.stack([mapped(view, coordinates(height, width)[0]) for view in maps])
    exact = F.grid_sample(images, points.permute(0, 2, 3, 1), align_corners=False)
    (expected,) = torch.autograd.grad(exact, images, rough)
    assert F.cosine_similarity(ours.flatten(), expected.flatten(), dim=0) > likeness
    assert float(ours.norm() / expected.norm()) == pytest.approx(1.0, abs=0.2)


def test_a_shift_sends_its_gradient_back_whence_it_came() -> None:
    images = dataset_images(1).requires_grad_()
    shifted = warp(images, affine((1, 0, 2 * 3 / SIZE), (0, 1, 0)))
    (gradient,) = torch.autograd.grad(shifted[0, 0, 8, 5], images)
    expected = torch.zeros_like(images)
    expected[0, 0, 8, 8] = 1.0
    assert torch.allclose(gradient, expected, atol=1e-5)


def test_a_mirrored_gradient_keeps_its_sign() -> None:
    images = dataset_images(1).requires_grad_()
    mirrored = warp(images, affine((-1, 0, 0), (0, 1, 0)))
    (gradient,) = torch.autograd.grad(mirrored[0, 0, 8, 5], images)
    expected = torch.zeros_like(images)
    expected[0, 0, 8, SIZE - 1 - 5] = 1.0
    assert torch.allclose(gradient, expected, atol=1e-5)


def test_nothing_comes_back_from_behind_the_horizon() -> None:
    # This view shows x from 0 to 0.49 in the image. Seen from there its horizon is x = 1/2, where
    # the centres of a column of pixels lie; beyond it the view's inverse goes on with points that
    # are behind the viewer.
    tilted = torch.tensor([[[0.475, 0, 0.475], [0, 1.0, 0], [0.95, 0, 1.0]]])
    images, picture = dataset_images(1, 10, 10).requires_grad_(), coordinates(10, 10)
    x = picture[0, 0, 0]
    seen = (0.475 * x + 0.475) / (0.95 * x + 1.0)
    assert torch.allclose(warp(picture, tilted)[0, 0, 5], seen, atol=1e-5)
    (gradient,) = torch.autograd.grad(warp(images, tilted).sum(), images)
    assert float(x[7]) == 0.5
    assert (gradient[..., x > 0.49] == 0).all()
    assert (gradient[..., 4:6, 5:7] > 0).all()
