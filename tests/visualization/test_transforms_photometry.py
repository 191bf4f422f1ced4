"""Transforms that change pixels where they are: known answers, gradients, each by itself."""

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from test_invariance import EVERY_TRANSFORM
from torch import Tensor
from torchvision.transforms import functional as vision
from toys import STILL

from layer_atlas.config.recipe import Transforms
from layer_atlas.visualization import rng
from layer_atlas.visualization.transforms import _along, _convolved, apply_views, draw_views

HEIGHT, WIDTH = 21, 27
KEYS = rng.keys([f"{i:016x}" + "0" * 48 for i in range(40)])
PARTS = {
    "colours": replace(STILL, brightness=(0.5, 2.0), contrast=(0.5, 2.0), saturation=(0.0, 2.0)),
    "blur": replace(STILL, blur=(0.0, 2.0)),
    "noise": replace(STILL, noise=(0.05, 0.2)),
    "cutout": replace(STILL, cutout=(0.2, 0.6)),
}
ALL = replace(EVERY_TRANSFORM, jitter=0.1)
each_part = pytest.mark.parametrize("config", [*PARTS.values(), ALL], ids=[*PARTS, "all"])


def dataset_images(batch: int, colours: int = 3) -> Tensor:
    """Images with values in [0.4, 0.6], which no factor up to 1.5 takes out of [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    return 0.4 + 0.2 * torch.rand(batch, colours, HEIGHT, WIDTH, generator=generator)


def draw(config: Transforms, batch: int = 40, steps: int = 1) -> Tensor:
    return draw_views(config, KEYS[:batch], steps, (HEIGHT, WIDTH))


def always(**values: float) -> Transforms:
    """Transforms whose ranges are single values."""
    return replace(STILL, **{name: (value, value) for name, value in values.items()})


def shown(config: Transforms, images: Tensor) -> Tensor:
    return apply_views(config, images, draw(config, len(images))[0])


# --- colours -------------------------------------------------------------------------------------


def test_colours_change_as_in_torchvision() -> None:
    images = dataset_images(3)
    known = {
        "brightness": vision.adjust_brightness,
        "contrast": vision.adjust_contrast,
        "saturation": vision.adjust_saturation,
    }
    for name, adjust in known.items():
        for factor in (0.6, 1.5):
            expected = adjust(images, factor)
            assert torch.allclose(shown(always(**{name: factor}), images), expected, atol=1e-4)
    together = shown(always(brightness=0.9, contrast=1.3, saturation=0.5), images)
    expected = vision.adjust_contrast(vision.adjust_brightness(images, 0.9), 1.3)
    assert torch.allclose(together, vision.adjust_saturation(expected, 0.5), atol=1e-4)


@pytest.mark.parametrize("colours", [1, 5])
def test_images_without_three_colours_have_contrast_but_no_saturation(colours: int) -> None:
    images = dataset_images(3, colours)
    assert torch.equal(shown(always(saturation=0.2), images), images)
    mean = images.mean((1, 2, 3), keepdim=True)
    expected = mean + 1.5 * (images - mean)
    assert torch.allclose(shown(always(contrast=1.5), images), expected, atol=1e-6)


def test_factors_fill_their_ranges_one_by_one() -> None:
    views = draw(PARTS["colours"], steps=50).flatten(0, 1)
    ranges = [(0.5, 2.0), (0.5, 2.0), (0.0, 2.0)]
    for (low, high), values in zip(ranges, views.unbind(1), strict=True):
        assert low <= values.min() < low + 0.01
        assert high - 0.01 < values.max() <= high
        assert float(values.mean()) == pytest.approx((low + high) / 2, abs=0.05)
    assert torch.corrcoef(views.T).fill_diagonal_(0).abs().max() < 0.1


# --- blur ----------------------------------------------------------------------------------------


def test_a_point_becomes_a_gaussian_of_the_width_told() -> None:
    point = torch.zeros(1, 1, HEIGHT, WIDTH)
    point[..., 10, 14] = 1.0
    blurred = shown(always(blur=1.5), point)[0, 0]
    y, x = (torch.arange(n) - middle for n, middle in ((HEIGHT, 10), (WIDTH, 14)))
    expected = torch.exp(-(y[:, None] ** 2 + x**2) / (2 * 1.5**2)) / (2 * math.pi * 1.5**2)
    assert torch.allclose(blurred, expected, atol=1e-3)
    assert float(blurred.sum()) == pytest.approx(1.0, abs=1e-5)


def test_blur_is_that_of_torchvision_inside_and_keeps_one_grey_to_the_border() -> None:
    images = dataset_images(2)
    blurred, expected = shown(always(blur=1.0), images), vision.gaussian_blur(images, [7, 7], 1.0)
    assert torch.allclose(blurred[..., 3:-3, 3:-3], expected[..., 3:-3, 3:-3], atol=1e-6)
    grey = torch.full((2, 3, HEIGHT, WIDTH), 0.3)
    assert torch.allclose(shown(always(blur=20.0), grey), grey, atol=1e-5)


def test_no_width_is_no_blur() -> None:
    images, config = dataset_images(2), replace(STILL, blur=(0.0, 2.0))
    assert torch.equal(apply_views(config, images, torch.zeros(2, 1)), images)


@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("radius", [0, 1, 40])
def test_the_convolutions_of_a_gpu_are_the_sums_of_a_cpu(axis: int, radius: int) -> None:
    images, weights = dataset_images(4), torch.rand(4, radius + 1)
    assert torch.allclose(_convolved(images, weights, axis), _along(images, weights, axis))


def test_each_image_has_a_blur_of_its_own() -> None:
    images = dataset_images(1).expand(40, -1, -1, -1)
    view = draw(PARTS["blur"])[0]
    left = apply_views(PARTS["blur"], images, view).std((1, 2, 3))
    assert (left[view[:, 0].argsort()].diff() < 1e-7).all()
    assert left.max() > 3 * left.min()


# --- noise ---------------------------------------------------------------------------------------


def test_noise_is_normal_with_the_deviation_told_and_never_the_same() -> None:
    images, config = dataset_images(40), PARTS["noise"]
    views = draw(config, steps=3)
    noise = torch.stack([apply_views(config, images, view) - images for view in views]).flatten(2)
    assert torch.allclose(noise.std(2), views[..., 0], rtol=0.1)
    of_keys = rng.quick_normal(rng.step_keys(KEYS, rng.NOISE_KEY, 3)[:, 2], noise.shape[2])
    assert torch.allclose(noise[2], views[2, :, :1] * of_keys, atol=1e-6)
    standard = noise / views[..., :1]
    moments = [float((standard**k).mean()) for k in range(1, 5)]
    assert moments == pytest.approx([0, 1, 0, 3], abs=0.05)
    assert torch.corrcoef(standard.flatten(0, 1)).fill_diagonal_(0).abs().max() < 0.15
    sd = views[..., 0]
    assert 0.05 <= sd.min() < 0.06
    assert 0.19 < sd.max() <= 0.2


def test_noise_lets_the_gradient_through() -> None:
    images = dataset_images(2).requires_grad_()
    back = torch.rand(images.shape)
    assert torch.equal(torch.autograd.grad(shown(PARTS["noise"], images), images, back)[0], back)


# --- cutout --------------------------------------------------------------------------------------


def test_a_rectangle_becomes_mid_grey_and_nothing_else_changes() -> None:
    config = PARTS["cutout"]
    images = torch.ones(40, 2, HEIGHT, WIDTH, requires_grad=True)
    view = draw(config)[0]
    seen = apply_views(config, images, view)
    (gradient,) = torch.autograd.grad(seen.sum(), images)
    assert torch.equal(seen, torch.where(gradient == 0, 0.5, 1.0))
    hole = gradient[:, 0] == 0
    assert torch.equal(gradient[:, 1] == 0, hole)
    for b, (high, wide, y, x) in enumerate(view.tolist()):
        rows, columns = (edges(hole[b].any(axis)) for axis in (1, 0))
        assert torch.equal(hole[b], rows[:, None] & columns)
        for lines, share, middle in ((rows, high, y), (columns, wide, x)):
            ends = [(middle - share + 1) / 2, (middle + share + 1) / 2]
            inside = (min(ends[1], 1.0) - max(ends[0], 0.0)) * len(lines)
            assert abs(int(lines.sum()) - inside) <= 1
    assert any(hole[b, 0].any() or hole[b, :, 0].any() for b in range(40))


def edges(lines: Tensor) -> Tensor:
    """The lines from the first to the last that is true."""
    (found,) = torch.where(lines)
    places = torch.arange(len(lines))
    return (places >= found.min()) & (places <= found.max()) if len(found) else lines


def test_sides_and_places_of_rectangles_fill_their_ranges() -> None:
    views = draw(PARTS["cutout"], steps=50).flatten(0, 1)
    for low, high, values in ((0.2, 0.6, views[:, :2]), (-1.0, 1.0, views[:, 2:])):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < values.max() <= high


# --- what holds for all --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["colours", "blur", "cutout"])
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    config = PARTS[name]
    images = dataset_images(2)[..., :6, :7].double().requires_grad_()
    view = draw(config, 2)[0].double()
    assert torch.autograd.gradcheck(lambda seen: apply_views(config, seen, view), images)


@each_part
def test_views_depend_on_their_key_and_step_alone(config: Transforms) -> None:
    views = draw(config, steps=6)
    assert torch.equal(draw_views(config, KEYS[7:9], 4, (HEIGHT, WIDTH)), views[:4, 7:9])
    assert len(views.flatten(0, 1).unique(dim=0)) == 6 * len(KEYS)


def test_a_part_draws_the_same_whichever_others_are_on() -> None:
    together, at = draw(ALL, steps=4), 0
    geometry = Transforms(jitter=0.1, flip=0.5, perspective=0.2, crop=(0.5, 1.0))
    colours = {name: getattr(ALL, name) for name in ("brightness", "contrast", "saturation")}
    alone = [geometry, replace(STILL, **colours)]
    alone += [replace(STILL, **{name: getattr(ALL, name)}) for name in ("blur", "noise", "cutout")]
    for views in (draw(config, steps=4) for config in alone):
        assert torch.equal(together[..., at : at + views.shape[2]], views)
        at += views.shape[2]
    assert at == together.shape[2]


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("colours", [3, 1])
@each_part
def test_bits_do_not_depend_on_batch_mates_or_threads(config: Transforms, colours: int) -> None:
    images = dataset_images(40, colours).requires_grad_()
    views = draw(config)[0]
    torch.set_num_threads(2)
    seen = apply_views(config, images, views)
    (gradient,) = torch.autograd.grad((seen * seen).sum(), images)
    torch.set_num_threads(1)
    for some in ([3], list(range(8)), list(range(39, 15, -1))):
        mine = images[some].detach().requires_grad_()
        again = apply_views(config, mine, views[some])
        assert torch.equal(again, seen[some])
        assert torch.equal(torch.autograd.grad((again * again).sum(), mine)[0], gradient[some])
