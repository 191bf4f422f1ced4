"""The prior of feature statistics: known answers, one sample at a time, and images that obey it."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import layer_of, make_recipe, random_network

from layer_atlas.config.recipe import Regularizers
from layer_atlas.models.load import Network
from layer_atlas.models.normalization import BatchNorms, NormalizedLayer
from layer_atlas.models.pixels import from_bytes
from layer_atlas.visualization.optimization.regularizers import FeatureStatistics, moments
from layer_atlas.visualization.optimization.renderer import LayerRenderer, Renderer


def prior(means: list[float], stds: list[float], used: list[bool] | None = None) -> NormalizedLayer:
    info = layer_of(nn.Sequential(nn.BatchNorm2d(3)).eval(), "0")
    flags = torch.tensor([True] * len(means) if used is None else used)
    return NormalizedLayer(info, torch.tensor(means), torch.tensor(stds), flags)


def features(means: list[float], stds: list[float]) -> Tensor:
    """Channels (1, K, 100) of exactly these means and standard deviations."""
    wave = torch.tensor([1.0, -1.0]).repeat(50)
    rows = [mean + std * wave for mean, std in zip(means, stds, strict=True)]
    return torch.stack(rows)[None]


def test_features_distributed_as_expected_cost_nothing() -> None:
    layer = prior([1.0, -2.0, 0.0], [0.5, 3.0, 1.0])
    penalty = FeatureStatistics([layer], 1.0).penalty([features([1.0, -2.0, 0.0], [0.5, 3.0, 1.0])])
    assert float(penalty) == pytest.approx(0.0, abs=1e-5)


def test_deviations_are_counted_in_standard_deviations() -> None:
    layer = prior([1.0, 0.0, 0.0], [0.5, 1.0, 1.0])
    off = features([2.0, 0.0, 0.0], [0.5, 1.0, 2.0])
    # One channel is two deviations off, another has four times the variance.
    expected = (4.0 + 0.1 * np.log(4.0) ** 2) / 3
    assert float(FeatureStatistics([layer], 1.0).penalty([off])) == pytest.approx(expected, 1e-3)
    both = FeatureStatistics([layer, prior([0.0], [1.0])], 1.0)
    clean = features([0.0], [1.0])
    assert float(both.penalty([off, clean])) == pytest.approx(expected / 2, 1e-3)


def test_channels_that_carry_nothing_are_not_counted() -> None:
    layer = prior([0.0, 0.0, 0.0], [1.0, 1.0, 0.0], used=[True, True, False])
    off = features([0.0, 0.0, 9.0], [1.0, 1.0, 9.0])
    assert float(FeatureStatistics([layer], 1.0).penalty([off])) == pytest.approx(0.0, abs=1e-5)


def test_moments_and_their_gradient() -> None:
    x = torch.randn(2, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first, second = moments(x)
    assert torch.allclose(first, x.float().mean(dim=2))
    assert torch.allclose(second, x.float().square().mean(dim=2))
    leaf = x.float().requires_grad_()
    plain = x.float().requires_grad_()
    weights = torch.arange(6.0).view(2, 3)
    a, b = moments(leaf)
    ((a + b * b) * weights).sum().backward()
    ((plain.mean(2) + plain.square().mean(2) ** 2) * weights).sum().backward()
    assert torch.allclose(leaf.grad, plain.grad, atol=1e-6)


def test_the_weight_means_the_same_for_weak_and_for_strong_responses() -> None:
    layer = prior([0.0], [1.0])
    statistics = FeatureStatistics([layer], 2.0)
    for size in (1e-3, 1.0, 1e4):
        response = torch.tensor([size], requires_grad=True)
        read = torch.full((1, 1, 1), size)
        value = statistics.regularized(response, [read], [features([0.0], [1.0])])
        (gradient,) = torch.autograd.grad(value, response)
        assert float(gradient * size) == pytest.approx(1.0)


NETWORK = random_network(
    *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
    *(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True)),
    nn.Conv2d(8, 6, 3),
)


def renderer(weight: float, layer: str = "6", precision: str = "fp32") -> LayerRenderer:
    recipe = replace(
        make_recipe(steps=24, image_size=24),
        regularizers=Regularizers(feature_statistics=weight),
        precision=precision,
    )
    network = Network("toy", "toy", NETWORK, (0.5,) * 3, (0.3,) * 3, 24, "0" * 64, ())
    return Renderer(network, recipe, torch.device("cpu")).layer(layer_of(NETWORK, layer, 24))


def keys(count: int) -> list[str]:
    return [hashlib.sha256(bytes([number])).hexdigest() for number in range(count)]


def penalties(pixels: np.ndarray) -> Tensor:
    """R of images (n, H, W, 3) uint8, by plain hooks on the network."""
    images = (from_bytes(torch.from_numpy(pixels)) - 0.5) / 0.3
    norms = BatchNorms(NETWORK, images)
    outputs: list[Tensor] = []
    modules = [m for m in NETWORK if isinstance(m, nn.BatchNorm2d)]
    handles = [m.register_forward_hook(lambda m, i, o: outputs.append(o.clone())) for m in modules]
    with torch.no_grad():
        NETWORK(images)
    for handle in handles:
        handle.remove()
    statistics = FeatureStatistics(norms.before("6"), 1.0)
    return statistics.penalty([output.flatten(2) for output in outputs])


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_images_keep_nearer_to_the_statistics_the_larger_the_weight(precision: str) -> None:
    channels = list(range(6))
    found = []
    for weight in (0.0, 1.0, 30.0):
        made = renderer(weight, precision=precision).make(keys(6), channels)
        assert (made["activation"] == made["activation"]).all()
        found.append(float(penalties(made["image"]).mean()))
    assert found[0] > 1.2 * found[1] > 1.2 * found[2]


def test_the_trace_is_of_the_score_alone() -> None:
    made = renderer(30.0).make(keys(1), [0])
    assert made["trace"][0, -1] == pytest.approx(float(made["activation"][0]), rel=0.2)


def test_a_layer_without_norms_before_it_is_not_affected() -> None:
    plain, weighted = (renderer(weight, layer="0").make(keys(2), [0, 1]) for weight in (0.0, 5.0))
    assert np.array_equal(plain["image"], weighted["image"])


def test_bits_do_not_depend_on_the_batch() -> None:
    together = renderer(3.0).make(keys(6), list(range(6)))
    alone = renderer(3.0).make(keys(6)[4:5], [4])
    for name in ("image", "trace", "activation"):
        assert alone[name][0].tobytes() == together[name][4].tobytes()


# --- without batch norms -------------------------------------------------------------------------

PLAIN = random_network(
    *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3, padding=1)),
    *(nn.ReLU(inplace=True), nn.Conv2d(8, 6, 3)),
)


def views(count: int = 40) -> Tensor:
    """Soft pictures (n, 24, 24, 3) uint8."""
    draw = torch.Generator().manual_seed(0)
    small = torch.rand(count, 3, 6, 6, generator=draw)
    large = nn.functional.interpolate(small, 24, mode="bilinear")
    return (large * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def plain_renderer(
    weight: float, shown: bool = True, layer: str = "4", precision: str = "fp32"
) -> LayerRenderer:
    recipe = replace(
        make_recipe(steps=24, image_size=24),
        regularizers=Regularizers(feature_statistics=weight),
        precision=precision,
    )
    network = Network("toy", "toy", PLAIN, (0.5,) * 3, (0.3,) * 3, 24, "0" * 64, ())
    bench = Renderer(network, recipe, torch.device("cpu"))
    return bench.layer(layer_of(PLAIN, layer, 24), (), views if shown else None)


def deviation(pixels: np.ndarray) -> float:
    """Mean squared distance of the means of both convolutions from those of the pictures."""

    def means(pixels: Tensor) -> Tensor:
        first = PLAIN[0]((from_bytes(pixels) - 0.5) / 0.3)
        second = PLAIN[2](first.clamp_min(0.0))
        return torch.cat([one.mean(dim=(2, 3)) for one in (first, second)], dim=1)

    usual = means(views())
    found = (means(torch.from_numpy(pixels)) - usual.mean(dim=0)) / usual.std()
    return float(found.square().mean())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_without_batch_norms_images_keep_near_to_what_is_usual_in_pictures(precision: str) -> None:
    found = [
        deviation(plain_renderer(w, precision=precision).make(keys(6), list(range(6)))["image"])
        for w in (0.0, 1.0, 30.0)
    ]
    assert found[0] > 1.2 * found[1] > 1.2 * found[2]


def test_without_batch_norms_and_pictures_the_weight_has_no_effect() -> None:
    plain, weighted = (plain_renderer(w, shown=False).make(keys(2), [0, 1]) for w in (0.0, 5.0))
    assert np.array_equal(plain["image"], weighted["image"])
    shown = plain_renderer(5.0).make(keys(2), [0, 1])
    assert not np.array_equal(plain["image"], shown["image"])


def test_the_first_layer_has_nothing_before_it() -> None:
    plain, weighted = (plain_renderer(w, layer="0").make(keys(2), [0, 1]) for w in (0.0, 5.0))
    assert np.array_equal(plain["image"], weighted["image"])


def test_bits_do_not_depend_on_the_batch_where_pictures_are_measured() -> None:
    together = plain_renderer(3.0).make(keys(6), list(range(6)))
    alone = plain_renderer(3.0).make(keys(6)[4:5], [4])
    for name in ("image", "trace", "activation"):
        assert alone[name][0].tobytes() == together[name][4].tobytes()


def test_pictures_are_measured_once_for_all_layers() -> None:
    calls: list[int] = []

    def counted() -> Tensor:
        calls.append(1)
        return views()

    network = Network("toy", "toy", PLAIN, (0.5,) * 3, (0.3,) * 3, 24, "0" * 64, ())
    recipe = replace(
        make_recipe(steps=1, image_size=24), regularizers=Regularizers(feature_statistics=1.0)
    )
    bench = Renderer(network, recipe, torch.device("cpu"))
    for layer in ("2", "4"):
        bench.layer(layer_of(PLAIN, layer, 24), (), counted)
    assert len(calls) == 1
