"""CUDA graphs: the same numbers as without, and a failure that is told. Needs a GPU."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from images import MASK, PRIOR, find, for_colours
from test_invariance import EVERY_TRANSFORM, RECIPE

from layer_atlas.config.config import ModelConfig
from layer_atlas.config.optimizers import LBFGS, SGD, AdamW, NAdam
from layer_atlas.config.parameterizations import Cppn, Fourier, Maco, Pixel, Pyramid
from layer_atlas.config.recipe import Recipe, Regularizers, SpectrumInit
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import load_network
from layer_atlas.visualization import rng
from layer_atlas.visualization.optimization.cuda_graphs import capture
from layer_atlas.visualization.optimization.loop import GradientAscent, Jobs, OptimizedBatch, Scores
from layer_atlas.visualization.optimization.renderer import LayerRenderer, Renderer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


def make_bench(recipe: Recipe) -> LayerRenderer:
    network = load_network(ModelConfig("demo"))
    layers = describe_layers(network.module, network.example(recipe.image_size))
    info = next(layer for layer in layers if layer.name == "conv5")
    return Renderer(network, recipe, torch.device("cuda"), find=find).layer(info)


def climb(loop: GradientAscent, numbers: range) -> OptimizedBatch:
    keys = rng.keys([f"{i:016x}" + "0" * 48 for i in numbers], "cuda")
    return loop.optimize(Jobs(keys, torch.tensor(list(numbers), device="cuda")))


HELD_BACK = Regularizers(0.1, 0.1, 0.1, 0.1, blur=0.5, clip=1.0)
CHANGES: dict[str, dict[str, Any]] = {
    "fourier": {"parameterization": Fourier()},
    "pixel": {"parameterization": Pixel(alpha=True)},
    "maco": {"parameterization": Maco(alpha=True)},
    "pyramid": {"parameterization": Pyramid(), "regularizers": HELD_BACK},
    "cppn": {"parameterization": Cppn(layers=3)},
    "generator": {"parameterization": for_colours(PRIOR, 3), "mask": MASK},
    "held back": {"parameterization": Fourier(), "regularizers": HELD_BACK},
    "nadam": {"optimizer": NAdam(steps=12, leaky_steps=6, weight_decay=0.01)},
    "adamw": {"optimizer": AdamW(steps=12, leaky_steps=6)},
    "sgd": {"optimizer": SGD(steps=12, leaky_steps=6, weight_decay=0.01)},
    "sgd as it is": {"optimizer": SGD(steps=12, momentum=0.0, normalized=False)},
    "spectrum": {"parameterization": Fourier(), "init": SpectrumInit()},
    "every transform": {"transforms": EVERY_TRANSFORM},
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_replayed_steps_give_the_bits_of_eager_steps(
    precision: str, changes: dict[str, Any]
) -> None:
    steps = replace(RECIPE.optimizer, steps=12, leaky_steps=6)
    recipe = replace(RECIPE, **{"precision": precision, "optimizer": steps, **changes})
    renderer = make_bench(recipe)
    for numbers in (range(16), range(16, 32)):  # the second batch replays from its first step
        replayed = climb(renderer.loop, numbers)
        eager = GradientAscent(Scores(renderer.fast, renderer.objective), recipe, renderer.start)
        eager._start(_jobs(range(16))).graphs = None
        expected = climb(eager, numbers)
        assert torch.equal(replayed.images, expected.images)
        assert torch.equal(replayed.trace, expected.trace)
    assert renderer.loop._batch is not None
    assert renderer.loop._batch.graphs is not None


def _jobs(numbers: range) -> Jobs:
    keys = rng.keys([f"{i:016x}" + "0" * 48 for i in numbers], "cuda")
    return Jobs(keys, torch.tensor(list(numbers), device="cuda"))


def test_photographs_are_answered_as_on_a_cpu() -> None:
    network = load_network(ModelConfig("demo"))
    layers = describe_layers(network.module, network.example(RECIPE.image_size))
    generator = torch.Generator().manual_seed(0)
    views = torch.randint(
        0, 256, (16, *RECIPE.image_size, 3), generator=generator, dtype=torch.uint8
    )
    on_cpu, on_gpu = (
        Renderer(network, RECIPE, torch.device(device)).network.observer(layers)(views)
        for device in ("cpu", "cuda")
    )
    for name, answer in on_cpu.items():
        torch.testing.assert_close(on_gpu[name].mean.cpu(), answer.mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(on_gpu[name].peak.cpu(), answer.peak, rtol=1e-3, atol=1e-4)


def test_runs_of_the_same_jobs_give_the_same_bits() -> None:
    recipe = replace(RECIPE, optimizer=replace(RECIPE.optimizer, steps=12))
    first = climb(make_bench(recipe).loop, range(16))
    second = climb(make_bench(recipe).loop, range(16))
    assert torch.equal(first.images, second.images)


def test_steps_that_wait_for_the_device_are_not_captured(
    caplog: pytest.LogCaptureFixture,
) -> None:
    renderer = make_bench(replace(RECIPE, optimizer=LBFGS(steps=2, leaky_steps=1, evaluations=3)))
    first, second = (climb(renderer.loop, range(16)) for _ in range(2))
    assert renderer.loop._batch is not None
    assert renderer.loop._batch.graphs is None
    assert torch.equal(first.images, second.images)
    assert not caplog.messages


def test_a_step_that_cannot_be_captured_is_told_and_still_done(
    caplog: pytest.LogCaptureFixture,
) -> None:
    total = torch.zeros((), device="cuda")

    def waits_for_the_device(flag: bool) -> torch.Tensor:
        total.add_(1)
        total.item()
        return total

    assert capture(waits_for_the_device, [True]) is None
    for _ in range(3):
        waits_for_the_device(True)
    assert total.item() >= 3
    assert caplog.text.count("no CUDA graph of a step") == 1
    assert float(torch.ones(3, device="cuda").sum()) == 3.0, "the device works no more"
