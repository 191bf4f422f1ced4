"""Transforms that move pixels: known answers, the way back, draws within their ranges."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torchvision.transforms import functional as vision
from toys import STILL

from layer_atlas.config.recipe import Transforms
from layer_atlas.visualization import rng
from layer_atlas.visualization.transforms import Geometry, apply_views, draw_views, warp

SIZE = 16
KEYS = rng.keys([f"{i:016x}" + "0" * 48 for i in range(40)])
WILD = Transforms(jitter=0.2, scale=(0.8, 2.0), rotate=30.0)
CROP = replace(STILL, crop=(0.2, 0.5))
PERSPECTIVE = replace(STILL, perspective=0.5)
EVERY_MOVE = replace(WILD, flip=0.5, perspective=0.3, crop=(0.4, 0.9))
MOVES = {"wild": WILD, "crop": CROP, "perspective": PERSPECTIVE, "every move": EVERY_MOVE}
each_move = pytest.mark.parametrize("config", MOVES.values(), ids=MOVES)


def dataset_images(batch: int, height: int = SIZE, width: int = SIZE) -> Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))


def draw_maps(config: Transforms, steps: int, height: int = SIZE, width: int = SIZE) -> Tensor:
    """Maps (steps, 40, 2 or 3, 3) of the jobs of `KEYS`."""
    return draw_views(config, KEYS, steps, (height, width)).unflatten(2, (-1, 3))


def coordinates(height: int = SIZE, width: int = SIZE) -> Tensor:
    """Pictures of x and of y, in [-1, 1] at the outer edges: (1, 2, height, width)."""
    x, y = ((torch.arange(n) * 2.0 + 1.0) / n - 1.0 for n in (width, height))
    return torch.stack([x.expand(height, width), y[:, None].expand(height, width)])[None]


def mapped(view: Tensor, points: Tensor) -> Tensor:
    """Where a map (2 or 3, 3) takes points (2, ...)."""
    x, y = points
    out = torch.stack([m[0] * x + m[1] * y + m[2] for m in view])
    return out[:2] / out[2:] if len(out) == 3 else out


# --- known answers -------------------------------------------------------------------------------


def test_what_is_off_draws_nothing_and_leaves_images_as_they_are() -> None:
    images, view = dataset_images(2), draw_views(STILL, KEYS[:2], 3, (SIZE, SIZE))
    assert view.shape == (3, 2, 0)
    assert apply_views(STILL, images, view[0]) is images


@pytest.mark.parametrize(("height", "width"), [(SIZE, SIZE), (12, 24)])
@each_move
def test_pictures_of_coordinates_turn_into_the_map_itself(
    config: Transforms, height: int, width: int
) -> None:
    views = draw_views(config, KEYS, 1, (height, width))[0]
    picture = coordinates(height, width)
    edge = 1 - 1.5 / min(height, width)
    for view, seen in zip(
        views.unflatten(1, (-1, 3)),
        apply_views(config, picture.expand(40, -1, -1, -1), views),
        strict=True,
    ):
        expected = mapped(view, picture[0])
        inside = expected.abs().amax(0) < edge
        assert inside.sum() > 50
        assert torch.allclose(seen[:, inside], expected[:, inside], atol=1e-4)


def test_a_flip_mirrors_left_and_right_as_often_as_told() -> None:
    images = dataset_images(40)
    always = replace(STILL, flip=1.0)
    mirrored = apply_views(always, images, draw_views(always, KEYS, 1, (SIZE, SIZE))[0])
    assert torch.allclose(mirrored, images.flip(-1), atol=1e-5)
    maps = draw_maps(replace(STILL, flip=0.3), 50)
    assert set(maps[..., 0, 0].unique().tolist()) == {-1.0, 1.0}
    assert float((maps[..., 0, 0] < 0).float().mean()) == pytest.approx(0.3, abs=0.03)


def test_perspective_is_that_of_torchvision_between_the_same_points() -> None:
    height, width = 24, 40
    maps = draw_maps(replace(STILL, perspective=0.6), 1, height, width)[0]
    picture = coordinates(height, width)
    corners = torch.tensor([[-1.0, 1.0, 1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]])
    in_pixels = torch.tensor([width, height]) / 2
    view = (corners.T + 1) * in_pixels
    for b in range(40):
        seen_there = (mapped(maps[b], corners).T + 1) * in_pixels
        expected = vision.perspective(picture[0], seen_there.tolist(), view.tolist())
        assert torch.allclose(warp(picture, maps[b : b + 1])[0], expected, atol=1e-4)


def test_a_crop_shows_its_part_of_the_image_and_nothing_beyond() -> None:
    maps = draw_maps(CROP, 50).flatten(0, 1)
    side = maps[:, 0, 0]
    assert torch.equal(maps[:, 1, 1], side)
    assert (maps[:, [0, 1], [1, 0]] == 0).all()
    assert 0.2 <= side.min() < 0.21
    assert 0.49 < side.max() <= 0.5
    assert ((maps[:, :, 2].abs() + side[:, None]) <= 1 + 1e-6).all()
    tight = draw_maps(replace(STILL, crop=(0.1, 0.1)), 50)[..., 2]
    assert float(tight.std()) == pytest.approx(0.3, abs=0.02)  # 0.15 of the side, as in Horama


def test_moves_are_composed_as_told_crop_first_mirror_last() -> None:
    points = coordinates()[0].double()
    alone = (
        replace(STILL, flip=0.5),
        replace(STILL, perspective=0.3),
        WILD,
        replace(STILL, crop=(0.4, 0.9)),
    )
    singly, together = [draw_maps(c, 1)[0].double() for c in alone], draw_maps(EVERY_MOVE, 1)[0]
    for b in range(40):
        expected = points
        for maps in singly:
            expected = mapped(maps[b], expected)
        assert torch.allclose(mapped(together[b].double(), points), expected, atol=1e-5)


# --- draws ---------------------------------------------------------------------------------------


@each_move
def test_each_image_goes_by_its_own_map_and_sends_back_to_itself(config: Transforms) -> None:
    images = dataset_images(5).requires_grad_()
    views = draw_views(config, KEYS[:5], 1, (SIZE, SIZE))[0]
    together = apply_views(config, images, views)
    (gradient,) = torch.autograd.grad(together[1].sum(), images, retain_graph=True)
    assert gradient[1].sum() > 0
    assert gradient[[0, 2, 3, 4]].abs().sum() == 0
    (gradient,) = torch.autograd.grad(together.sum(), images)
    for b in range(5):
        image = images[b : b + 1].detach().requires_grad_()
        alone = apply_views(config, image, views[b : b + 1])
        assert torch.equal(alone[0], together[b])
        assert torch.equal(torch.autograd.grad(alone.sum(), image)[0][0], gradient[b])


@each_move
def test_views_of_a_job_do_not_depend_on_batch_mates_or_number_of_steps(
    config: Transforms,
) -> None:
    views = draw_views(config, KEYS, 6, (SIZE, SIZE))
    assert views.shape == (6, len(KEYS), Geometry().columns(config))
    assert torch.equal(draw_views(config, KEYS[7:9], 4, (SIZE, SIZE)), views[:4, 7:9])
    assert len(views.flatten(0, 1).unique(dim=0)) == 6 * len(KEYS)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 80)])
def test_draws_fill_their_ranges_and_keep_to_them(height: int, width: int) -> None:
    maps = draw_maps(WILD, 50, height, width).double().flatten(0, 1)
    in_pixels = torch.tensor([width, height]) / 2
    turned = maps[:, :, :2] * in_pixels[:, None] / in_pixels
    cos, sin = turned[:, 0, 0], turned[:, 1, 0]
    assert torch.allclose(turned[:, 1, 1], cos)
    assert torch.allclose(turned[:, 0, 1], -sin)
    drawn = [
        (-30.0, 30.0, torch.rad2deg(torch.atan2(sin, cos))),
        (math.log(0.8), math.log(2.0), -torch.log(torch.hypot(sin, cos))),
        (-0.2, 0.2, maps[:, 0, 2] / 2),
        (-0.2, 0.2, maps[:, 1, 2] / 2),
    ]
    for low, high, values in drawn:
        span = high - low
        assert low - 1e-5 <= values.min() < low + 0.02 * span
        assert high - 0.02 * span < values.max() <= high + 1e-5
        assert abs(float(values.mean()) - (low + high) / 2) < 0.03 * span


def test_perspective_moves_corners_inwards_by_up_to_its_range() -> None:
    corners = torch.tensor([[-1.0, 1.0, 1.0, -1.0], [-1.0, -1.0, 1.0, 1.0]])
    maps = draw_maps(PERSPECTIVE, 50).flatten(0, 1)
    inwards = 1.0 - torch.stack([mapped(view, corners) * corners for view in maps])
    assert -1e-5 <= inwards.min() < 0.01
    assert 0.49 < inwards.max() <= 0.5 + 1e-5
    assert torch.allclose(inwards.mean(dim=0), torch.full((2, 4), 0.25), atol=0.02)
