"""The survey: what networks ask of images (size, colours) and of names is found before a sweep."""

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from runs import run_here
from test_dataset_run import picture
from toys import composed

from layer_atlas.cli.tables import layer_table
from layer_atlas.config.config import Config, ModelConfig
from layer_atlas.config.recipe import Recipe
from layer_atlas.errors import UserError
from layer_atlas.models.load import load_network
from layer_atlas.plan.labels import notices
from layer_atlas.plan.plan import Plan
from layer_atlas.sweep.planning import inspect_models, make_plan
from layer_atlas.sweep.planning.devices import WorkerDevice
from layer_atlas.visualization.optimization.image_statistics import from_bytes
from layer_atlas.visualization.optimization.renderer import Renderer

VIT = "{name: vit, target: tests.models.test_prefix_tokens.small_vit, input_size: 32}"
"""Takes images of 32 px alone."""
ATTENTION = "encoder.layers.encoder_layer_0"
CPU = torch.device("cpu")


def configured(model: str, *overrides: str) -> Config:
    return composed(f"models=[{model}]", "weights=none", "precision=fp32", *overrides)


def planned(model: str, *overrides: str) -> Plan:
    config = configured(model, *overrides)
    return make_plan(config, inspect_models(config), [WorkerDevice("cpu")])


def recipe(model: str, *overrides: str) -> Recipe:
    (found,) = planned(model, *overrides).models
    return found.recipe


def told(model: str, *overrides: str) -> str:
    """The message that planning ends in."""
    with pytest.raises(UserError) as caught:
        planned(model, *overrides)
    return str(caught.value)


# --- networks that take one size -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "seen", "resized"),
    [([], 32, None), (["image_size=32"], 32, None), (["image_size=48"], 48, 32)],
    ids=["its own", "its own, asked for", "another"],
)
def test_images_of_another_size_are_resized(
    overrides: list[str], seen: int, resized: int | None
) -> None:
    plan = planned(VIT, f"layers=[{ATTENTION}]", *overrides)
    (model,) = plan.models
    assert (model.recipe.image_size, model.network.fixed_size) == ((seen, seen), resized)
    said = " ".join(notices(plan))
    told = "vit takes only images of 32 px; those of 48 x 48 px are resized"
    assert (told in said) == bool(resized)


def test_networks_that_take_other_sizes_see_images_as_they_are() -> None:
    (model,) = planned("demo", "image_size=48").models
    assert model.network.fixed_size is None


@pytest.mark.slow
def test_image_that_is_too_small_for_a_network_of_any_size_is_refused() -> None:
    message = told("alexnet", "image_size=24", "layers=[features.0]")
    assert "cannot take images of 24 x 24 px" in message
    assert "its own input size is 224" in message


def test_network_that_does_not_take_its_own_size_either_is_refused() -> None:
    message = told(
        "{name: vit, target: tests.models.test_prefix_tokens.small_vit, input_size: 224}",
        f"layers=[{ATTENTION}]",
    )
    assert "Wrong image height! Expected 32 but got 224" in message


def test_octaves_of_a_network_that_takes_its_own_size_alone_are_resized() -> None:
    (model,) = planned(VIT, f"layers=[{ATTENTION}]", "octaves={count: 2, scale: 1.5}").models
    assert (model.recipe.image_size, model.network.fixed_size) == ((32, 32), 32)


@pytest.mark.slow
def test_octave_that_a_network_does_not_take_is_refused() -> None:
    message = told(
        "alexnet", "image_size=96", "layers=[features.0]", "octaves={count: 3, scale: 2}"
    )
    assert "cannot take images of 24 x 24 px" in message
    assert "octaves.scale" in message


def test_the_bench_resizes_what_the_network_sees() -> None:
    config = configured(VIT, f"layers=[{ATTENTION}]", "image_size=48")
    (found,) = inspect_models(config)
    (info,) = found.choose((ATTENTION,))
    (model,) = make_plan(config, [found], [WorkerDevice("cpu")]).models
    renderer = Renderer(found.network, model.recipe, CPU)
    pixels = torch.randint(0, 256, (8, 48, 48, 3), dtype=torch.uint8)
    resized = torch.nn.functional.interpolate(
        from_bytes(pixels), (32, 32), mode="bilinear", antialias=True
    )
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (found.network.mean, found.network.std))
    kept: list[torch.Tensor] = []
    handle = renderer.network.plain.encoder.layers.encoder_layer_0.register_forward_hook(
        lambda module, args, output: kept.append(output)
    )
    renderer.network.plain((resized - mean) / std)
    handle.remove()
    (seen,) = renderer.network.exact_path([info]).forward(from_bytes(pixels))
    torch.testing.assert_close(seen, kept[0][:, 1:].mT, atol=1e-4, rtol=1e-4)
    # Photographs are seen as images are, to the bit.
    answers = renderer.network.observer([info])(pixels)[ATTENTION]
    assert torch.equal(answers.mean, seen.mean(dim=2))


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_bits_of_attention_depend_on_no_batch_no_thread_and_no_gradient(precision: str) -> None:
    layer = f"{ATTENTION}.self_attention"
    config = replace(configured(VIT, f"layers=[{layer}]", "image_size=48"), precision=precision)
    (found,) = inspect_models(config)
    (info,) = found.choose((layer,))
    (model,) = make_plan(config, [found], [WorkerDevice("cpu")]).models
    renderer, images = Renderer(found.network, model.recipe, CPU), torch.rand(24, 3, 48, 48)
    forward, before = renderer.network.fast_path([info]).forward, torch.get_num_threads()
    (reference,) = forward(images)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for batch in (8, 16, 24):
                seen = images[:batch].clone().requires_grad_()
                assert torch.equal(forward(seen)[0], reference[:batch])
                with torch.no_grad():
                    assert torch.equal(forward(seen)[0], reference[:batch])
    finally:
        torch.set_num_threads(before)


def test_receptive_fields_are_in_pixels_of_the_image() -> None:
    config = configured(VIT, "layers=[conv_proj]", "image_size=64")
    (found,) = inspect_models(config)
    wanted = found.choose(("conv_proj", ATTENTION))
    (model,) = make_plan(config, [found], [WorkerDevice("cpu")]).models
    fields = Renderer(found.network, model.recipe, CPU).network.receptive_fields(wanted)
    # Patches of 8 px are of 16 px in the image, and resizing reaches one pixel beyond.
    assert fields["conv_proj"].shape == (16, 4)
    assert fields["conv_proj"][0].tolist() == [0, 0, 17, 17]
    assert fields["conv_proj"][5].tolist() == [15, 15, 33, 33]
    assert fields[ATTENTION].tolist() == [[0, 0, 64, 64]] * 16


@pytest.mark.slow
def test_photographs_pass_through_a_network_of_one_size(tmp_path: Path) -> None:
    for i in range(12):
        picture(tmp_path / "photos" / f"{i}.png", i)
    few = ("channels=[0,1]", "optimizer.steps=2", "executor.devices=[cpu]", "name=x")
    dataset_images = ("dataset=folder", f"dataset.path={tmp_path / 'photos'}", "dataset.top=3")
    sweep = (f"models=[{VIT}]", f"layers=[{ATTENTION}]", "image_size=48", "precision=fp32")
    assert run_here(tmp_path, *sweep, *few, *dataset_images) == 0
    with h5py.File(tmp_path / "x" / "atlas.h5") as file:
        layer = file["vit"][ATTENTION]
        assert layer["image"].shape == (2, 1, 48, 48, 3)
        assert np.isfinite(layer["agreement"][()]).all()
        assert layer["dataset/top_position"][()].max() < 16


# --- class tokens --------------------------------------------------------------------------------


@pytest.mark.slow
def test_prefix_tokens_are_left_out_unless_they_are_asked_for() -> None:
    layers = f"layers=[{ATTENTION}]"
    without, with_it = (planned(VIT, layers, f"keep_prefix_tokens={x}") for x in ("false", "true"))
    found = [plan.models[0] for plan in (without, with_it)]
    assert [model.recipe.keep_prefix_tokens for model in found] == [False, True]
    assert [model.layers[0].info.prefix_tokens for model in found] == [1, 0]
    assert [model.layers[0].info.positions for model in found] == [16, 17]
    keys = [next(iter(plan.shards())).key for plan in (without, with_it)]
    assert keys[0] != keys[1]


def test_table_of_layers_tells_which_tokens_are_left_out() -> None:
    config = configured(VIT, f"layers=[{ATTENTION}]", "image_size=48")
    table = layer_table(config, inspect_models(config))
    assert "48 x 48 px input, resized to 32 px" in table
    assert "(1+)16x8" in table
    assert "keep_prefix_tokens=true includes them" in table
    config = configured("demo")
    assert "keep_prefix_tokens" not in layer_table(config, inspect_models(config))


# --- colours -------------------------------------------------------------------------------------


def coloured(colours: int) -> torch.nn.Module:
    """A network for images of so many colours."""
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(colours, 4, 3), torch.nn.ReLU())


def entry(colours: int, numbers: int | None = None) -> str:
    """A network that takes so many colours, with so many numbers of its preprocessing."""
    told = "" if numbers is None else f", mean: {[0.5] * numbers}, std: {[0.25] * numbers}"
    target = f"target: tests.sweep.planning.test_inspection.coloured, args: {{colours: {colours}}}"
    return f"{{name: net, {target}{told}}}"


@pytest.mark.parametrize("colours", [1, 2, 5])
def test_networks_of_any_number_of_colours_are_described(colours: int) -> None:
    (found,) = inspect_models(configured(entry(colours, colours), "image_size=32"))
    seen = found.network.seen_size(found.image_size)
    assert found.network.example(seen).shape == (1, colours, 32, 32)
    assert [layer.shape for layer in found.layers] == [(4, 30, 30)] * 3


@pytest.mark.parametrize(("colours", "numbers"), [(1, None), (5, None), (5, 1), (1, 3)])
def test_network_of_other_colours_asks_for_mean_and_std(colours: int, numbers: int | None) -> None:
    message = told(entry(colours, numbers), "image_size=32", "layers=['0']")
    assert f"cannot take images of {numbers or 3} colours" in message
    assert f"its first convolution takes {colours}" in message
    assert f"mean: {[0.5] * colours}, std: {[0.25] * colours}" in message


def unfolded() -> torch.nn.Module:
    """A network of three colours whose first convolution takes more: it sorts pixels by place."""
    return torch.nn.Sequential(torch.nn.PixelUnshuffle(2), torch.nn.Conv2d(12, 4, 9))


def test_convolution_that_takes_no_colours_is_not_taken_for_one_that_does() -> None:
    message = told(
        "{name: net, target: tests.sweep.planning.test_inspection.unfolded, input_size: 16}",
        "layers=['1']",
    )
    assert "cannot take images of 16 x 16 px" in message
    assert "convolution takes" not in message


def test_mean_and_std_have_as_many_numbers() -> None:
    with pytest.raises(UserError, match="give both"):
        load_network(ModelConfig("demo", mean=(0.5,)))


# --- categories ----------------------------------------------------------------------------------


def test_libraries_name_the_classes_whatever_the_weights() -> None:
    network = load_network(ModelConfig("squeezenet1_1", weights="none"))
    assert len(network.categories) == 1000
    assert network.categories[:2] == ("tench", "goldfish")
    assert "honeycomb" in load_network(ModelConfig("demo", weights="none")).categories


def test_names_of_classes_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("frog\n  two words \nbee\nelm\n", encoding="utf-8")
    model = entry(3).replace("}}", f"}}, categories: '{path}'}}")
    (found,) = inspect_models(configured(model, "image_size=32"))
    assert found.network.categories == ("frog", "two words", "bee", "elm")


def test_file_that_names_more_or_fewer_classes_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    path.write_text("frog\nbee\n")
    model = VIT.replace("}", f", categories: '{path}'}}")
    message = told(model, f"layers=[{ATTENTION}]")
    assert "names 2 classes" in message
    assert "'vit' has 5" in message


@pytest.mark.parametrize("content", [None, b"\n \n", b"\xff\xfe\x00"], ids=["none", "blank", "odd"])
def test_file_without_names_is_told(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=str(path)):
        load_network(ModelConfig("demo", categories=str(path)))
