"""Growth: images have smaller sizes first by default, wherever that is possible."""

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from toys import composed

from layer_atlas.config.recipe import Growth, Recipe
from layer_atlas.errors import UserError
from layer_atlas.models.demo import DemoNet
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


# --- networks that are about one size ------------------------------------------------------------


class Flattened(nn.Module):
    """A layer of flattened maps has a channel per position, so other ones at another size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.flat = nn.Conv2d(3, 8, 5, stride=4), nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        flat: Tensor = self.flat(self.conv(x))
        return flat.reshape(len(x), 8, -1).mean(-1)


class KeepsPositions(nn.Module):
    """Positions are computed for the first image, and interpolated for no other size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 8, 1)
        self.positions: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.positions is None:
            self.positions = torch.linspace(0, 1, x.shape[2])[:, None]
        mapped: Tensor = self.norm(x + self.positions)
        return mapped


class KeepsScale(KeepsPositions):
    """The same, of a kind that fails at no size."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.positions = (
            torch.tensor(float(x.shape[2])) if self.positions is None else self.positions
        )
        mapped: Tensor = self.norm(x * self.positions)
        return mapped


def entry(kind: type[nn.Module]) -> str:
    return f"{{name: net, target: {__name__}.{kind.__name__}, input_size: 64}}"


def test_images_do_not_grow_for_layers_that_have_other_channels_at_other_sizes() -> None:
    assert recipe(entry(Flattened), "layers=[flat]").growth == Growth()
    assert recipe(entry(Flattened), "layers=[conv,flat]").growth == Growth()
    assert recipe(entry(Flattened), "layers=[conv]").growth == DEFAULT
    with pytest.raises(UserError, match=r"octaves begin at .* other channels"):
        recipe(entry(Flattened), "layers=[flat]", "octaves=four")
    assert recipe(entry(Flattened), "layers=[conv]", "octaves=four").octaves is not None


@pytest.mark.parametrize("kind", [KeepsPositions, KeepsScale])
def test_images_do_not_grow_for_networks_that_keep_what_they_computed_for_a_size(
    kind: type[nn.Module],
) -> None:
    assert recipe(entry(kind), "layers=[conv]").growth == DEFAULT
    assert recipe(entry(kind), "layers=[norm]").growth == Growth()


# --- what is run to find that out ----------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Height and width of the images of every forward pass of the demo network."""
    sizes: list[tuple[int, ...]] = []
    forward = DemoNet.forward

    @functools.wraps(forward)
    def counted(network: DemoNet, x: Any) -> Any:
        if isinstance(x, Tensor):  # a tracer runs no images
            sizes.append(tuple(x.shape[2:]))
        return forward(network, x)

    monkeypatch.setattr(DemoNet, "forward", counted)
    return sizes


def test_a_second_plan_runs_no_more_images_for_growth(
    seen: list[tuple[int, ...]], cache_folder: Path
) -> None:
    assert recipe(*DEMO).growth == DEFAULT
    assert {(48, 48), (68, 68)} <= set(seen)
    seen.clear()
    assert recipe(*DEMO).growth == DEFAULT
    # One pass for the behaviour of the network, one for the fingerprints of its layers.
    assert seen == [(96, 96)] * 2
    seen.clear()
    # Other sizes are another question.
    larger = recipe(*DEMO, "growth.sides=[0.5]", "growth.costs=[0.2]")
    assert larger.growth == Growth((0.5,), (0.2,))
    assert (48, 48) in seen


def test_a_refusal_of_smaller_images_is_kept_too(
    seen: list[tuple[int, ...]], cache_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = DemoNet.forward

    @functools.wraps(forward)
    def picky(network: DemoNet, x: Any) -> Any:
        if isinstance(x, Tensor) and x.shape[2] < 60:
            seen.append(tuple(x.shape[2:]))
            raise ValueError("too small")
        return forward(network, x)

    monkeypatch.setattr(DemoNet, "forward", picky)
    assert recipe(*DEMO).growth == Growth()
    assert (48, 48) in seen
    seen.clear()
    assert recipe(*DEMO).growth == Growth()
    assert set(seen) == {(96, 96)}
