"""Statistics: what hand-set networks are known to answer to stored 8-bit images."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from toys import BLUE, GREEN, RED, channel_mean, colour_reader, layer_of, make_recipe, pointwise

from layer_atlas.config.parameterizations import Pixel
from layer_atlas.config.recipe import Transforms
from layer_atlas.models.load import Network
from layer_atlas.models.pixels import from_bytes, to_bytes
from layer_atlas.plan.jobs import STATUS
from layer_atlas.visualization import rng
from layer_atlas.visualization.optimization.image_statistics import (
    clipped_share,
    high_frequency_share,
    measure,
)
from layer_atlas.visualization.optimization.renderer import Renderer
from layer_atlas.visualization.transforms import apply_views, draw_views

SIZE = 32


def measured(pixels: Tensor, channels: list[int], network: nn.Module | None = None) -> dict:
    network = network or colour_reader()
    return measure(
        lambda images: (network(images).flatten(2),),
        channel_mean(),
        pixels,
        torch.tensor(channels),
    )


def dataset_images(batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch, 3, 4, 4, generator=generator)
    return to_bytes(nn.functional.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear"))


def test_bytes_go_to_images_and_back_unchanged() -> None:
    every_byte = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).expand(1, 16, 16, 3)
    assert torch.equal(to_bytes(from_bytes(every_byte)), every_byte)


def test_bytes_are_the_nearest_and_stay_in_range() -> None:
    values = torch.tensor([-0.5, 0.0, 0.49 / 255, 0.51 / 255, 0.999, 1.0, 1.7])
    pixels = to_bytes(values.view(1, 1, 1, 7).expand(1, 3, 1, 7))
    assert pixels.shape == (1, 1, 7, 3)
    assert pixels[0, 0, :, 0].tolist() == [0, 0, 0, 1, 255, 255, 255]


def test_known_answers_of_a_colour_reader() -> None:
    pixels = dataset_images(3)
    seen = measured(pixels, [BLUE, RED, GREEN])
    colours = pixels.float() / 255
    for b, channel in enumerate([BLUE, RED, GREEN]):
        own = colours[b, :, :, channel]
        assert seen["activation"][b].item() == pytest.approx(own.mean().item(), rel=1e-5)
        assert seen["activation_max"][b].item() == pytest.approx(own.max().item(), rel=1e-6)
    assert torch.allclose(seen["response"], colours.mean(dim=(1, 2)), rtol=1e-5)
    assert torch.equal(seen["high_frequency"], high_frequency_share(pixels))
    assert torch.equal(seen["clipped"], clipped_share(pixels))
    assert seen["status"].tolist() == [STATUS["ok"]] * 3
    assert {name: value.dtype for name, value in seen.items()} == {
        **dict.fromkeys(
            ["activation", "activation_robust", "activation_max", "response"], torch.float32
        ),
        **dict.fromkeys(["high_frequency", "clipped"], torch.float32),
        "status": torch.uint8,
    }


def test_robust_activation_is_near_the_plain_one_for_smooth_images_and_below_it_for_fragile() -> (
    None
):
    smooth, checks = dataset_images(1), torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8)
    checks[:, ::2, ::2] = checks[:, 1::2, 1::2] = 255
    # Reads the contrast between a pixel and its right neighbour.
    edge = nn.Conv2d(3, 1, (1, 2), bias=False).requires_grad_(False)
    edge.weight.copy_(torch.tensor([1.0, -1.0]).expand(1, 3, 1, 2) / 3)
    network = nn.Sequential(edge, nn.ReLU())
    seen = measured(torch.cat([smooth, checks]), [0, 0], network)
    plain, robust = seen["activation"], seen["activation_robust"]
    assert plain[1].item() == pytest.approx(0.5, abs=0.01)
    assert robust[1] < 0.6 * plain[1]
    assert robust[0] == pytest.approx(float(plain[0]), rel=0.2)


def test_robust_activation_is_the_mean_over_16_fixed_small_warps() -> None:
    small = Transforms(jitter=1 / 32, scale=(0.95, 1.05), rotate=5.0)
    views = draw_views(small, rng.keys(["0" * 64]), 16, (SIZE, SIZE)).expand(-1, 2, -1)
    pixels = dataset_images(2)
    reds = [apply_views(small, from_bytes(pixels), view)[:, RED].mean((1, 2)) for view in views]
    expected = torch.stack(reds).mean(dim=0)
    assert torch.allclose(measured(pixels, [RED, RED])["activation_robust"], expected)


def test_measures_of_an_image_do_not_depend_on_batch_mates() -> None:
    pixels = dataset_images(3)
    together = measured(pixels, [0, 1, 2])
    alone = measured(pixels[1:2], [1])
    for name, value in alone.items():
        assert torch.equal(value[0], together[name][1]), name


def test_dead_is_what_answers_the_same_to_everything() -> None:
    silent_but_for_blue = nn.Sequential(pointwise(torch.eye(3).tolist(), [-9, -9, 0]), nn.ReLU())
    seen = measured(dataset_images(3), [RED, GREEN, BLUE], silent_but_for_blue)
    assert seen["status"].tolist() == [STATUS["dead"], STATUS["dead"], STATUS["ok"]]
    constant = pointwise([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]], [3.0, 0.0])
    seen = measured(dataset_images(2), [0, 1], constant)
    assert seen["status"].tolist() == [STATUS["dead"], STATUS["ok"]]


def test_robust_views_alone_run_in_the_precision_of_the_optimization() -> None:
    network, low, pixels, targets = colour_reader(), [], dataset_images(3), torch.tensor([0, 1, 2])
    exact, images_seen = lambda images: (network(images).flatten(2),), []

    def fast(images: Tensor) -> tuple[Tensor]:
        images_seen.append(images)
        low.append(network(images).flatten(2).bfloat16())
        return (low[-1],)

    plain = measure(exact, channel_mean(), pixels, targets)
    both = measure(exact, channel_mean(), pixels, targets, fast)
    assert len(images_seen) == 16
    mean = sum(channel_mean().score((view,), targets) for view in low) / 16
    assert torch.equal(both.pop("activation_robust"), mean)
    assert not torch.equal(mean, plain.pop("activation_robust"))
    assert all(torch.equal(plain[name], value) for name, value in both.items())


def test_a_response_that_low_precision_rounds_away_is_not_dead() -> None:
    # A vector of one position each: a response that no bf16 number near 1000 can show.
    weights = torch.tensor([[0.1, 0.0, 0.0], [0.0, 0.0, 0.0]])

    def exact(images: Tensor) -> tuple[Tensor]:
        return ((images.mean(dim=(2, 3)) @ weights.T + 1000.0)[:, :, None],)

    seen = measure(
        exact,
        channel_mean(),
        dataset_images(2),
        torch.tensor([0, 1]),
        lambda images: (exact(images)[0].bfloat16(),),
    )
    assert seen["status"].tolist() == [STATUS["ok"], STATUS["dead"]]


def test_channel_that_was_driven_to_its_ceiling_is_not_dead() -> None:
    # A gate such as those of squeeze-and-excitation: 1 at most, and 1 everywhere when it succeeds.
    gate = nn.Sequential(
        pointwise([[12.0, 0.0, 0.0], [0.0, 0.0, 0.0]], [-6.0, -9.0]), nn.Hardsigmoid()
    )
    network = Network("toy", "toy", gate, (0.0,) * 3, (1.0,) * 3, 16, "0" * 64, ())
    recipe = make_recipe(Pixel(), steps=60)
    renderer = Renderer(network, recipe, torch.device("cpu")).layer(layer_of(gate, "1"))
    made = renderer.make(["1" * 64, "2" * 64], [0, 1])
    assert made["activation"].tolist() == [1.0, 0.0]
    assert made["status"].tolist() == [STATUS["ok"], STATUS["dead"]]


def grating(across: float, down: float, height: int = 64, width: int = 64) -> Tensor:
    """A grey wave of so many cycles per pixel: (1, H, W, 3) uint8."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    wave = 128 + 100 * torch.cos(2 * math.pi * (across * x + down * y))
    return wave.round().to(torch.uint8)[None, ..., None].expand(1, height, width, 3)


@pytest.mark.parametrize(
    ("picture", "share"),
    [
        (grating(0.125, 0.0), 0.0),
        (grating(0.0, 0.375), 1.0),
        (grating(0.1875, 0.1875), 1.0),  # fine by its length, though not along either axis
        (grating(0.125, 0.0, 32, 64), 0.0),
        (grating(0.375, 0.0, 32, 64), 1.0),
    ],
)
def test_a_grating_is_fine_or_coarse(picture: Tensor, share: float) -> None:
    assert high_frequency_share(picture).item() == pytest.approx(share, abs=1e-3)


def test_an_image_of_one_grey_has_no_fine_structure() -> None:
    grey = torch.full((2, 33, 33, 3), 77, dtype=torch.uint8)
    assert high_frequency_share(grey).tolist() == [0, 0]


def test_a_pixel_is_clipped_if_any_of_its_colours_is() -> None:
    pixels = torch.full((3, 4, 5, 3), 128, dtype=torch.uint8)
    pixels[1, 0, 0] = torch.tensor([0, 7, 255])
    pixels[1, 2, 3, 2] = 255
    pixels[1, 3, 3] = torch.tensor([1, 254, 9])
    pixels[2] = 0
    assert clipped_share(pixels).tolist() == [0.0, pytest.approx(2 / 20), 1.0]


@pytest.mark.parametrize("share", [high_frequency_share, clipped_share])
@pytest.mark.parametrize("size", [45, 224])
def test_shares_of_pixels_depend_on_neither_batch_mates_nor_threads(
    share: Callable[[Tensor], Tensor], size: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (9, size, size, 3), generator=generator).to(torch.uint8)
    together, before = share(pixels), torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            assert torch.equal(torch.cat([share(image[None]) for image in pixels]), together)
            assert torch.equal(share(pixels.flip(0)).flip(0), together)
    finally:
        torch.set_num_threads(before)
