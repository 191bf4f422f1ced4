"""Growth: images have smaller sizes first by default, wherever that is possible."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from toys import composed

from layer_atlas.config.recipe import Growth, Recipe
from layer_atlas.plan.plan import Plan, flops_per_job
from layer_atlas.sweep.planning import inspect_models, make_plan
from layer_atlas.sweep.planning.devices import WorkerDevice

VIT = "{name: vit, target: tests.models.test_prefix_tokens.small_vit, input_size: 32}"
"""Takes images of 32 px alone."""

DEFAULT = Growth(sides=(0.5, 0.71), costs=(0.12, 0.24))
DEMO = ("demo", "layers=[conv5]")


def middle(activations: Tensor, channel: Tensor) -> Tensor:
    """The channel at the middle of a map of one size."""
    return activations[torch.arange(len(channel)), channel, 1152]


def planned(model: str, *overrides: str) -> Plan:
    config = composed(f"models=[{model}]", "weights=none", "precision=fp32", *overrides)
    return make_plan(config, inspect_models(config), [WorkerDevice("cpu")])


def recipe(model: str, *overrides: str) -> Recipe:
    (found,) = planned(model, *overrides).models
    return found.recipe


def test_images_grow_by_default() -> None:
    found = recipe(*DEMO)
    assert found.growth == DEFAULT
    sizes = [size for size, _ in found.growth.stages(found.image_size, found.optimizer.steps)]
    assert sizes == [(48, 48), (68, 68), (96, 96)]
    assert "48 to 96 px" in found.summary()


def test_growth_does_not_change_what_a_sweep_costs() -> None:
    (growing,), (whole,) = planned(*DEMO).models, planned(*DEMO, "growth=none").models
    costs = [flops_per_job(plan.layers[0], plan.recipe) for plan in (growing, whole)]
    assert costs[0] == costs[1]
    assert growing.recipe.total_steps > whole.recipe.total_steps


def test_sizes_are_fractions_of_the_input_size_of_the_network_at_least() -> None:
    found = recipe(*DEMO, "image_size=64")
    assert found.growth.sizes(found.image_size) == [(48, 48)]
    assert recipe(*DEMO, "image_size=56").growth == Growth()


@pytest.mark.parametrize(
    "overrides",
    [
        ["growth=none"],
        ["objective=neuron"],
        ["objective=custom", "objective.function=tests.sweep.planning.test_growth.middle"],
        ["octaves=four"],
        ["parameterization=cppn"],
        ["image_size=6"],
    ],
    ids=str,
)
def test_images_do_not_grow_where_something_is_about_one_size(overrides: list[str]) -> None:
    assert recipe(*DEMO[:1], "layers=[conv1]", *overrides).growth == Growth()


def test_images_from_photographs_do_not_grow(tmp_path: Path) -> None:
    file = tmp_path / "photo.png"
    Image.fromarray(np.zeros((96, 96, 3), dtype=np.uint8)).save(file)
    found = recipe(*DEMO, "init=photograph", f"init.photograph={file}")
    assert found.growth == Growth()


def test_images_for_a_network_that_takes_one_size_do_not_grow() -> None:
    layers = "layers=[encoder.layers.encoder_layer_0]"
    for size in (32, 48):
        assert recipe(VIT, layers, f"image_size={size}").growth == Growth()
