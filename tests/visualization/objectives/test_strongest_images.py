"""Distribution alignment: values as often as in photographs, wherever they are."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toys import colour_reader, layer_info, layer_of, make_recipe, random_network, surroundings

from layer_atlas.config.objectives import ChannelObjective, PrototypeObjective
from layer_atlas.config.objectives import Objective as Record
from layer_atlas.config.parameterizations import Pixel
from layer_atlas.models.introspection import describe_layers
from layer_atlas.models.load import Network
from layer_atlas.plan.plan import LayerRef
from layer_atlas.visualization.objectives import Objective, make_objective
from layer_atlas.visualization.objectives.strongest_images import (
    distance,
    layers_at_depths,
    matched,
    sampled,
)
from layer_atlas.visualization.optimization.renderer import LayerRenderer, Renderer

NETWORK = random_network(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1))


def maps(channels: int = 5, side: int = 6, batch: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(side)
    return torch.randn(batch, channels, side, side, generator=generator).flatten(2)


def ascending(activation: Tensor) -> Tensor:
    return activation.sort(dim=2).values


# --- the distance --------------------------------------------------------------------------------


def test_the_distance_is_of_sorted_values() -> None:
    found = distance(torch.tensor([[[3.0, 1.0, 2.0]]]), torch.tensor([[[1.0, 2.0, 5.0]]]))
    assert found.item() == pytest.approx((3.0 - 5.0) ** 2 / 30.0)


def test_the_same_distribution_is_at_distance_0_in_any_order_of_positions() -> None:
    activation = maps()
    order = torch.randperm(36, generator=torch.Generator().manual_seed(0))
    assert distance(activation, ascending(activation)).tolist() == [0.0] * 3
    assert distance(activation[:, :, order], ascending(activation)).tolist() == [0.0] * 3
    # Channels are no positions: which of them has the values matters.
    assert (distance(activation.flip(1), ascending(activation)) > 0.05).all()


def test_the_distance_means_the_same_for_weak_and_for_strong_layers() -> None:
    activation, reference = maps(), ascending(maps(side=6) + 0.3)
    once, scaled = distance(activation, reference), distance(50 * activation, 50 * reference)
    assert torch.allclose(once, scaled, rtol=1e-5)


def test_no_order_of_the_reference_is_nearer_than_the_one_that_is_matched() -> None:
    activation, reference = maps(2, 2, 1), ascending(maps(2, 2, 1) + 1.0)
    nearest = (activation - matched(activation, reference)).square().sum()
    generator = torch.Generator().manual_seed(1)
    for _ in range(50):
        order = torch.randperm(4, generator=generator)
        assert (activation - reference[:, :, order]).square().sum() >= nearest - 1e-6


def test_equal_values_are_ranked_by_position() -> None:
    reference = torch.tensor([[[1.0, 2.0, 3.0, 4.0]]])
    found = matched(torch.tensor([[[0.0, 0.0, -1.0, 0.0]]]), reference)
    assert found.tolist() == [[[2.0, 3.0, 1.0, 4.0]]]


def test_maps_of_other_sizes_are_compared_by_their_quantiles() -> None:
    line = torch.linspace(0.0, 1.0, 36).view(1, 1, -1)
    few = torch.linspace(0.0, 1.0, 9).flip(0).view(1, 1, -1)
    assert distance(few, line).item() == pytest.approx(0.0, abs=1e-10)
    assert distance(few + 0.5, line).item() > 0.1


def test_the_gradient_pulls_each_position_to_the_value_of_its_rank() -> None:
    activation = maps(batch=1).requires_grad_()
    reference = ascending(maps(side=6, batch=1) * 2.0)
    (gradient,) = torch.autograd.grad(distance(activation, reference).sum(), activation)
    pull = activation.detach() - matched(activation.detach(), reference)
    assert torch.allclose(gradient, 2.0 * pull / reference.square().sum(), atol=1e-6)
    assert gradient.abs().max() > 0


# --- what images are compared with ---------------------------------------------------------------


def test_positions_are_sampled_in_proportion_to_their_weights() -> None:
    assert sampled(torch.tensor([0.0, 1.0, 3.0]), 8).tolist() == [1, 1, 2, 2, 2, 2, 2, 2]
    assert sampled(torch.tensor([5.0, 0.0, 5.0, 0.0]), 2).tolist() == [0, 2]
    many = sampled(torch.rand(1000), 10_000)
    assert (many.diff() >= 0).all()
    assert (many >= 0).all()
    assert (many < 1000).all()


def test_without_a_positive_weight_all_positions_are_alike() -> None:
    assert sampled(torch.zeros(4), 8).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def objective_of(*names: str) -> Objective:
    infos = {x.name: x for x in describe_layers(NETWORK, torch.zeros(1, 3, 8, 8))}
    outputs: dict[str, Tensor] = {}
    for name in names:
        module = NETWORK.get_submodule(name)
        module.register_forward_hook(lambda m, i, o, name=name: outputs.update({name: o}))

    def activations(images: Tensor) -> list[Tensor]:
        NETWORK(images)
        return [outputs[name].flatten(2) for name in names]

    around = surroundings(*(infos[name] for name in names), activations=activations)
    return make_objective(PrototypeObjective(), around)


def test_the_sample_is_of_what_the_channel_responds_to() -> None:
    objective = objective_of("2", "0")
    images = torch.rand(1, 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    (own, before), target = objective.references(images, torch.tensor([4])), 4
    assert own.shape == (1, 6, 64)
    assert before.shape == (1, 4, 64)
    response = NETWORK(images[0]).flatten(2)[:, target].flatten()
    expected = (response.clamp_min(0.0) * response).sum() / response.clamp_min(0.0).sum()
    assert own[0, target].mean().item() == pytest.approx(expected.item(), rel=0.04)
    assert own[0, target].mean() > 1.1 * response.mean()
    assert torch.equal(own, ascending(own))


def assert_jobs_are_apart(objective: Objective, images: Tensor, targets: Tensor) -> None:
    """Assert that the references of each job are those that it has alone."""
    together = objective.references(images, targets)
    for b in range(len(images)):
        alone = objective.references(images[b : b + 1], targets[b : b + 1])
        for one, all_of_them in zip(alone, together, strict=True):
            assert torch.equal(one[0], all_of_them[b])


def test_references_of_a_job_do_not_depend_on_the_others() -> None:
    objective = objective_of("2", "0")
    images, targets = torch.rand(5, 3, 3, 8, 8), torch.tensor([4, 0, 4, 2, 1])
    assert_jobs_are_apart(objective, images, targets)


def test_the_score_is_that_of_the_channel_and_the_surrogate_counts_layers_alike() -> None:
    objective = objective_of("2", "0")
    near, far = maps(6, 8, 1), maps(4, 8, 1)
    references = [ascending(near), ascending(far + 1.0)]
    score, surrogate = objective.surrogate([near, far, *references], torch.tensor([3]))
    assert score.item() == pytest.approx(near[0, 3].mean().item())
    expected = -distance(far, references[1]) / 2
    assert surrogate.item() == pytest.approx(expected.item())


def test_without_photographs_there_is_no_prototype() -> None:
    with pytest.raises(ValueError, match="needs dataset images"):
        objective_of("2").references(None, torch.tensor([0]))


def test_layers_are_the_last_ones_within_each_depth() -> None:
    def info(name: str, before: int, flops: int, side: int = 4) -> object:
        return layer_info(name, 6, flops_before=before, flops=flops, shape=(6, side, side))

    every = [
        info("a", 100, 100),
        info("relu", 100, 0),
        info("block", 250, 200),
        info("block.conv", 250, 150),
        info("pooled", 300, 10, side=1),
        info("c", 600, 300),
        info("target", 1000, 400),
        info("d", 2000, 400),
    ]
    chosen = [layer.name for layer in layers_at_depths(every[6], every)]
    assert chosen == ["block", "c"]
    assert layers_at_depths(every[0], every) == []


# --- images --------------------------------------------------------------------------------------

RED, GREEN, BLUE = 0, 1, 2


def made(objective: Record, target: int, images: Tensor) -> np.ndarray:
    """The mean colour (3,) in [0, 1] of an image for a colour, whose photographs these are."""
    network = nn.Sequential(colour_reader())
    recipe = replace(
        make_recipe(Pixel(), steps=150, learning_rate=0.2, image_size=16), objective=objective
    )
    loaded = Network("toy", "toy", network, (0.0,) * 3, (1.0,) * 3, 16, "0" * 64, ())
    bench = Renderer(loaded, recipe, torch.device("cpu")).layer(layer_of(network, "0"))
    key = hashlib.sha256(b"0").hexdigest()
    arrays = bench.make([key], [target], dataset_images=images[None])
    return arrays["image"][0].reshape(-1, 3).mean(axis=0) / 255.0


def test_a_prototype_has_what_comes_with_the_channel_and_leaves_the_background_out() -> None:
    # Orange things on blue: what excites red is red, but where red is there is green as well.
    images = torch.zeros(2, 3, 16, 16)
    images[:, BLUE] = 0.9
    images[:, :, 4:10, 4:10] = torch.tensor([0.8, 0.4, 0.1])[:, None, None]
    most = made(ChannelObjective(), RED, images)
    prototype = made(PrototypeObjective(top=2), RED, images)
    assert prototype == pytest.approx([0.8, 0.4, 0.1], abs=0.05)
    assert most[RED] > 0.9
    # Green and blue do nothing for red: nothing makes them what they are in the photographs.
    assert abs(most[GREEN] - 0.4) > 0.2


def test_a_prototype_keeps_the_proportions_of_what_the_channel_responds_to() -> None:
    images = torch.zeros(1, 3, 16, 16)
    images[0, RED, :, :12], images[0, RED, :, 12:] = 0.2, 0.6
    found = made(PrototypeObjective(top=1), RED, images)
    # Half of the response is from a quarter of the positions.
    assert found[RED] == pytest.approx((0.2 + 0.6) / 2, abs=0.03)


def test_retries_padding_and_batches_keep_each_job_with_its_photographs() -> None:
    network = random_network(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3))
    loaded = Network("toy", "toy", network, (0.5,) * 3, (0.3,) * 3, 16, "0" * 64, ())
    recipe = replace(make_recipe(steps=6), objective=PrototypeObjective(top=3))
    infos = {x.name: x for x in describe_layers(network, torch.zeros(1, 3, 16, 16))}
    bench: LayerRenderer = Renderer(loaded, recipe, torch.device("cpu")).layer(
        infos["2"], [LayerRef("toy", loaded.identity, infos["0"])]
    )
    images = torch.rand(10, 3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    keys = [hashlib.sha256(bytes([number])).hexdigest() for number in range(10)]
    targets = [number % 6 for number in range(10)]
    together = bench.make(keys, targets, dataset_images=images)
    for b in (0, 3, 9):
        part = slice(b, b + 1)
        alone = bench.make(keys[part], targets[part], dataset_images=images[part])
        for name in set(together) - {"trace_step"}:
            assert alone[name][0].tobytes() == together[name][b].tobytes(), name
    others = bench.make(keys, targets, dataset_images=images.flip(0))
    assert (others["image"] != together["image"]).any(axis=(1, 2, 3)).all()
