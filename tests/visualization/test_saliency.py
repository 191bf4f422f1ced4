"""Saliency maps: known by hand where the network is linear, and of one photograph alone."""

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import composed, layer_of, make_recipe, pointwise, random_network

from layer_atlas.config.config import ModelConfig
from layer_atlas.config.datasets import IntegratedGradients, SaliencyMethod, SmoothGrad
from layer_atlas.config.datasets import VanillaSaliency as Vanilla
from layer_atlas.errors import UserError
from layer_atlas.models.forwards import Forward
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import load_network
from layer_atlas.visualization import rng, saliency
from layer_atlas.visualization.objectives.base import picked
from layer_atlas.visualization.optimization.renderer import Renderer
from layer_atlas.visualization.saliency import (
    activation_maps,
    check_available,
    normalized,
    saliency_maps,
)
from tests.models.test_real_network import SHARED, WEIGHTS

METHODS: list[SaliencyMethod] = [
    Vanilla(),
    SmoothGrad(samples=5),
    SmoothGrad(samples=19),
    IntegratedGradients(steps=21),
]
IDS = [f"{method.name}{i}" for i, method in enumerate(METHODS)]


def responses_of(module: nn.Module) -> Forward:
    """Images to activations (B, K, L) of the last layer; the toys know no normalisation."""
    return lambda images: (module(images).flatten(2),)


def maps_of(
    responses: Forward,
    dataset_images: Tensor,
    channels: list[int],
    settings: SaliencyMethod,
    keys: Tensor | None = None,
) -> Tensor:
    keys = keys_for(len(channels)) if keys is None else keys
    targets = torch.tensor(channels)
    return saliency_maps(responses, dataset_images, targets, settings, keys)


def keys_for(n: int) -> Tensor:
    return rng.keys([hashlib.sha256(bytes([i])).hexdigest() for i in range(n)])


def dataset_images(n: int = 3, size: int = 12) -> Tensor:
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def small_network() -> nn.Sequential:
    convolutions = (nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(inplace=True), nn.Conv2d(8, 6, 3))
    return random_network(*convolutions, nn.ReLU(inplace=True))


class Weighted(nn.Module):
    """Channel k is the sum over pixels of weight[k] * image, a vector layer."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (torch.einsum("bchw,kchw->bk", images, self.weight)[..., None],)


# --- known answers -------------------------------------------------------------------------------


def test_map_of_a_linear_network_is_its_largest_weight_over_the_colours() -> None:
    weight = torch.randn(2, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    maps = maps_of(Weighted(weight), dataset_images(2, 20), [1, 0], Vanilla())
    largest = weight.abs().amax(dim=1)[[1, 0]]
    ordered = largest.flatten(1).sort(dim=1).values
    expected = (largest / ordered[:, 395, None, None]).clamp_max(1)  # 99 % of 400 are 396
    assert torch.allclose(maps, expected)
    assert maps.dtype == torch.float32


def test_integrated_gradients_of_a_linear_network_are_weight_times_image() -> None:
    weight = torch.randn(1, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    images = dataset_images(2, 9)
    maps = maps_of(Weighted(weight), images, [0, 0], IntegratedGradients(steps=3))
    assert torch.allclose(maps, normalized((weight * images).abs().amax(dim=1)), atol=1e-6)


def test_what_integrated_gradients_attribute_adds_up_to_the_score() -> None:
    network, images = small_network(), dataset_images(2)
    attributed = saliency._integrated_gradients(
        lambda x, c: picked(responses_of(network)(x)[0], c).mean(dim=1),
        images,
        torch.tensor([2, 5]),
        IntegratedGradients(steps=200),
        keys_for(2),
    )
    with torch.no_grad():
        scores, black = network(images).mean((2, 3)), network(0 * images).mean((2, 3))
    difference = (scores - black)[[0, 1], [2, 5]]
    assert (difference.abs() > 0.1).all()
    assert torch.allclose(attributed.sum((1, 2, 3)), difference, rtol=0.01)


def test_smoothgrad_without_noise_is_vanilla() -> None:
    network = responses_of(small_network())
    smooth = maps_of(network, dataset_images(), [0, 3, 5], SmoothGrad(samples=8, noise=0.0))
    assert torch.allclose(smooth, maps_of(network, dataset_images(), [0, 3, 5], Vanilla()))


@pytest.mark.parametrize("samples", [16, 21])
def test_smoothgrad_is_captums_noise_tunnel_under_the_same_noise(
    samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from captum.attr import NoiseTunnel, Saliency

    network, (image,) = responses_of(small_network()), dataset_images(1)
    streams = range(rng.NOISE, rng.NOISE + samples)
    draws = torch.cat([rng.normal(keys_for(1), s, image.numel()) for s in streams])
    monkeypatch.setattr(torch, "normal", lambda mean, std: std * draws.view_as(std))
    tunnel = NoiseTunnel(Saliency(lambda x: network(x)[0][:, 4].mean(dim=1)))
    spread = 0.2 * float(image.max() - image.min())
    inner = {"nt_type": "smoothgrad", "nt_samples": samples, "stdevs": spread, "abs": False}
    expected = tunnel.attribute(image[None].requires_grad_(), **inner)
    maps = maps_of(network, image.detach()[None], [4], SmoothGrad(samples=samples, noise=0.2))
    assert torch.allclose(maps, normalized(expected.detach().abs().amax(dim=1)), atol=1e-5)


def test_noise_is_a_share_of_the_photographs_range() -> None:
    image = 0.3 + 0.2 * dataset_images(1, 32)[0]
    copies = saliency._noisy_copies(image, SmoothGrad(samples=9, noise=0.5), keys_for(1)[0])
    noise = copies - image
    assert float(noise.std()) == pytest.approx(0.5 * float(image.max() - image.min()), rel=0.03)
    assert float(noise[0].sub(noise[1]).abs().mean()) > 0.05


def test_closed_relu_gives_a_map_of_zeros() -> None:
    closed = nn.Sequential(pointwise([[-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]), nn.ReLU(inplace=True))
    for settings in (Vanilla(), IntegratedGradients(steps=8), SmoothGrad(noise=0.0)):
        maps = maps_of(responses_of(closed), 0.5 + dataset_images(2), [0, 1], settings)
        assert (maps[0] == 0).all()
        assert (maps[1] > 0).all()


# --- normalisation -------------------------------------------------------------------------------


def test_activation_maps_are_the_channels_own_and_lose_no_peak() -> None:
    """A layer that answers with the pixels: channel c of an image is its colour c."""
    images, channels = dataset_images(19, 12), torch.arange(19) % 3

    def pixels(images: Tensor) -> tuple[Tensor]:
        return (images.flatten(2),)

    own = images[torch.arange(19), channels]
    assert torch.equal(activation_maps(pixels, images, channels, (12, 12), (12, 12)), own)
    small = activation_maps(pixels, images, channels, (12, 12), (4, 6))
    assert torch.equal(small, own.view(19, 4, 3, 6, 2).amax(dim=(2, 4)))


def test_few_bright_pixels_do_not_darken_the_rest() -> None:
    maps = torch.ones(1, 20, 20)
    maps[0, 0, :3] = 1000.0
    assert torch.equal(normalized(maps), torch.ones(1, 20, 20))


def test_thin_maps_are_scaled_by_their_maximum() -> None:
    maps = torch.zeros(1, 20, 20)
    maps[0, 3, 4], maps[0, 5, 6] = 8.0, 2.0
    assert normalized(maps)[0, [3, 5, 0], [4, 6, 0]].tolist() == [1.0, 0.25, 0.0]


def test_maps_that_are_not_finite_become_zeros_and_leave_others_alone() -> None:
    maps = torch.ones(3, 4, 4)
    maps[0, 1, 1], maps[1, 2, 2] = torch.nan, torch.inf
    assert normalized(maps).amax(dim=(1, 2)).tolist() == [0.0, 0.0, 1.0]


# --- one map depends on nothing else -------------------------------------------------------------


@pytest.fixture(scope="module")
def demo_responses() -> Callable[[Tensor], Tensor]:
    network = load_network(ModelConfig("demo"))
    layers = describe_layers(network.module, network.example((40, 40)))
    renderer = Renderer(network, make_recipe(image_size=40), torch.device("cpu"))
    info = next(info for info in layers if info.name == "conv5")
    return renderer.network.exact_path([info]).forward


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(method, id=name, marks=[pytest.mark.slow] if name == "smoothgrad2" else [])
        for method, name in zip(METHODS, IDS, strict=True)
    ],
)
def test_bits_do_not_depend_on_batch_mates_order_or_threads(
    settings: SaliencyMethod, demo_responses: Callable[[Tensor], Tensor]
) -> None:
    images, channels, keys = dataset_images(19, 40), list(range(19)), keys_for(19)
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        together = maps_of(demo_responses, images, channels, settings, keys)
    finally:
        torch.set_num_threads(threads)
    for chosen in ([7], [18, 3, 7], list(range(9))):
        some = [channels[i] for i in chosen]
        alone = maps_of(demo_responses, images[chosen], some, settings, keys[chosen])
        assert torch.equal(alone, together[chosen])


@pytest.mark.parametrize("settings", METHODS, ids=IDS)
def test_the_global_generator_is_neither_read_nor_moved(settings: SaliencyMethod) -> None:
    network = responses_of(small_network())
    maps = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        maps.append(maps_of(network, dataset_images(), [0, 3, 5], settings))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(*maps)


def test_another_key_is_other_noise() -> None:
    network, images = responses_of(small_network()), dataset_images(1).expand(2, -1, -1, -1)
    one, other = maps_of(network, images, [3, 3], SmoothGrad(noise=0.5))
    assert not torch.allclose(one, other, atol=0.01)


def test_photographs_are_left_as_they_were() -> None:
    images = dataset_images()
    for settings in METHODS:
        maps = maps_of(responses_of(small_network()), images, [0, 1, 2], settings)
        assert not maps.requires_grad
    assert torch.equal(images, dataset_images())
    assert images.grad is None
    assert not images.requires_grad


# --- on a workbench ------------------------------------------------------------------------------


def test_map_of_a_vector_layer_is_the_gradient_of_the_class_score() -> None:
    body = (nn.Conv2d(3, 5, 3, stride=2), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1))
    module = random_network(*body, nn.Flatten(), nn.Linear(5, 4))
    network = replace(load_network(ModelConfig("demo")), module=module, build=None)
    renderer = Renderer(network, make_recipe(), torch.device("cpu"))
    responses = renderer.network.exact_path([layer_of(module, "4")]).forward
    images = dataset_images(2, 16)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (network.mean, network.std))
    wanted = images.clone().requires_grad_()
    scores = module((wanted - mean) / std)
    (scores[0, 3] + scores[1, 1]).backward()
    assert wanted.grad is not None
    maps = maps_of(responses, images, [3, 1], Vanilla())
    assert torch.allclose(maps, normalized(wanted.grad.abs().amax(dim=1)), atol=1e-4)
    assert (maps.amax(dim=(1, 2)) == 1).all()


@pytest.mark.skipif(not WEIGHTS.exists(), reason=f"no weights at {WEIGHTS}")
def test_a_map_of_a_real_network_is_where_the_object_is() -> None:
    """The bird of one photograph, pasted into one quarter of a grey image."""
    from PIL import Image
    from torchvision.transforms.functional import to_tensor

    (path,) = (SHARED / "images" / "natural").glob("*indigo*")
    image = torch.full((1, 3, 128, 128), 0.5)
    image[0, :, 64:, :64] = to_tensor(Image.open(path).convert("RGB").resize((64, 64)))
    network = load_network(ModelConfig("squeezenet1_1", weights=str(WEIGHTS)))
    layers = describe_layers(network.module, network.example((128, 128)))
    renderer = Renderer(network, make_recipe(image_size=128), torch.device("cpu"))
    layer = next(info for info in layers if info.name == "features.12")
    responses = renderer.network.exact_path([layer]).forward
    with torch.no_grad():
        grey = responses(torch.full((8, 3, 128, 128), 0.5))[0].mean(dim=2)[0]
        channel = int((responses(image.expand(8, -1, -1, -1))[0].mean(dim=2)[0] - grey).argmax())
    for settings in (Vanilla(), SmoothGrad(), IntegratedGradients()):
        (found,) = maps_of(responses, image, [channel], settings)
        assert found[64:, :64].mean() > 1.5 * found[:64, 64:].mean()


# --- config and captum ----------------------------------------------------------------------------


@pytest.mark.slow
def test_every_method_composes_with_the_defaults_of_its_record() -> None:
    assert composed().saliency is None
    assert composed("saliency=none").saliency is None
    for settings in (Vanilla(), SmoothGrad(), IntegratedGradients()):
        assert composed("dataset=folder", f"saliency={settings.name}").saliency == settings
    changed = composed(
        "dataset=folder", "saliency=smoothgrad", "saliency.noise=0", "saliency.dataset_images=2"
    )
    assert changed.saliency == SmoothGrad(dataset_images=2, noise=0.0)


@pytest.mark.parametrize(
    ("method", "override", "told"),
    [
        ("vanilla", "saliency.dataset_images=0", "dataset_images must be 1 or more, not 0"),
        ("smoothgrad", "saliency.samples=0", "samples must be 1 or more, not 0"),
        ("smoothgrad", "saliency.noise=-0.1", "noise must be 0 to 1, not -0.1"),
        ("integrated_gradients", "saliency.steps=0", "steps must be 1 or more, not 0"),
        ("vanilla", "+saliency.steps=3", "unknown config key 'saliency.steps'"),
        ("vanilla", "saliency.name=vanila", "saliency.name 'vanila'; choose from: vanilla"),
    ],
)
def test_mistakes_are_told(method: str, override: str, told: str) -> None:
    with pytest.raises(UserError, match=re.escape(told)) as caught:
        composed(f"saliency={method}", override)
    assert "saliency" in str(caught.value)


def test_missing_captum_is_told_with_the_extra_that_brings_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_available(Vanilla())
    monkeypatch.setattr(saliency, "find_spec", lambda name: None)
    check_available(None)
    with pytest.raises(UserError, match=r"saliency=smoothgrad.*layer-atlas\[saliency\]"):
        check_available(SmoothGrad())


@pytest.mark.slow
def test_captum_is_imported_by_those_who_ask_for_maps_alone() -> None:
    code = "import sys, layer_atlas.visualization.saliency; assert 'captum' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
